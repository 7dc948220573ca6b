//! One step of `AdamW` (Loshchilov and Hutter 2019, arXiv 1711.05101) for one parameter, in one pass.

use std::ffi::CStr;

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype};

use crate::AdamWFactors;
use crate::operation::{Operation, no_second_derivative, unsupported};
use crate::vector::with_vectors;
use crate::view::View;

/// The next `[parameter, mean, square]` of these and `gradient`, all of one shape.
///
/// # Errors
/// Shapes or types do not fit.
pub fn adamw([parameter, mean, square]: [&Array; 3], gradient: &Array, factors: AdamWFactors) -> Result<[Array; 3]> {
    let arrays = [parameter, gradient, mean, square];
    let fits = |array: &&Array| array.shape() == parameter.shape() && array.dtype() == Dtype::Float32;
    if !arrays.iter().all(fits) {
        return Err(unsupported("a step of AdamW", &arrays));
    }
    // SAFETY: shapes and types were checked.
    unsafe { Step { factors }.apply(&arrays, [parameter.shape(); 3]) }
}

/// Inputs: parameter, gradient, mean, square. Outputs: the next parameter, mean and square.
struct Step {
    factors: AdamWFactors,
}

impl Operation for Step {
    const NAME: &'static CStr = c"AdamW";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let [parameter, gradient, mean, square] = std::array::from_fn(|index| inputs[index].f32s());
        let [next_parameter, next_mean, next_square] = outputs else {
            return;
        };
        let factors = self.factors;
        with_vectors(
            #[inline(always)]
            || {
                let kept = parameter.iter().zip(&*mean).zip(&*square);
                let next = next_parameter.iter_mut().zip(&mut **next_mean).zip(&mut **next_square);
                for ((((parameter, mean), square), gradient), ((next_parameter, next_mean), next_square)) in
                    kept.zip(&*gradient).zip(next)
                {
                    // In the order of the operations that MLX would have, so that the results are the same bit for bit.
                    *next_mean = mean * factors.keep_mean + gradient * factors.take_mean;
                    *next_square = square * factors.keep_square + gradient * gradient * factors.take_square;
                    let denominator = next_square.sqrt() * factors.root + factors.epsilon;
                    let change = *next_mean * factors.rate / denominator;
                    *next_parameter = parameter * factors.keep_parameter - change;
                }
            },
        );
    }

    fn vjp(&self, _: &[Array], _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Err(no_second_derivative(Self::NAME))
    }
}
