//! The cross-entropy through an output layer, a few positions at a time.

use std::ffi::CStr;

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype};
use mlx_sys::blas::{Matrix, MatrixMut, multiply, threads};
use rayon::prelude::*;

use crate::OutputLoss;
use crate::operation::{Operation, no_second_derivative, unsupported};
use crate::parallel::rows_of_part;
use crate::vector::{exponentials, largest, scale, with_vectors};
use crate::view::View;

/// Positions whose logits are in memory at one time: enough that the product with the vocabulary runs at full speed.
const POSITIONS: usize = 256;

/// The summed cross-entropy of `targets` `[positions]` in i32 under `hidden` `[positions, width]` times the transposed
/// `weight` `[vocabulary, width]`, and its gradient by `hidden`, `softmax(logits) weight - weight[targets]`.
///
/// The logits never exist as a whole. A target outside the vocabulary makes the sum NaN.
///
/// # Errors
/// Shapes or types do not fit.
pub fn output_loss_and_gradient(hidden: &Array, weight: &Array, targets: &Array) -> Result<OutputLoss> {
    check(hidden, weight, targets)?;
    // SAFETY: shapes and types were checked.
    let [sum, gradient] = unsafe { WithGradient.apply(&[hidden, weight, targets], [&[], hidden.shape()]) }?;
    Ok(OutputLoss { sum, gradient })
}

/// The sum of [`output_loss_and_gradient`] alone, at half its cost.
///
/// # Errors
/// Shapes or types do not fit.
pub fn output_loss(hidden: &Array, weight: &Array, targets: &Array) -> Result<Array> {
    check(hidden, weight, targets)?;
    // SAFETY: shapes and types were checked.
    let [sum] = unsafe { Alone.apply(&[hidden, weight, targets], [&[]]) }?;
    Ok(sum)
}

fn check(hidden: &Array, weight: &Array, targets: &Array) -> Result<()> {
    let fits = hidden.ndim() == 2
        && weight.ndim() == 2
        && hidden.dim(1) == weight.dim(1)
        && targets.shape() == [hidden.dim(0)]
        && [hidden, weight].iter().all(|array| array.dtype() == Dtype::Float32)
        && targets.dtype() == Dtype::Int32;
    if fits {
        Ok(())
    } else {
        Err(unsupported("a loss", &[hidden, weight, targets]))
    }
}

struct WithGradient;

impl Operation for WithGradient {
    const NAME: &'static CStr = c"OutputLossAndGradient";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let [sum, gradient] = outputs else { return };
        sum[0] = computed(inputs, Some(gradient));
    }

    fn vjp(&self, _: &[Array], _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Err(no_second_derivative(Self::NAME))
    }
}

struct Alone;

impl Operation for Alone {
    const NAME: &'static CStr = c"OutputLoss";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        outputs[0][0] = computed(inputs, None);
    }

    fn vjp(&self, _: &[Array], _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Err(no_second_derivative(Self::NAME))
    }
}

fn computed(inputs: &[View<'_>], mut gradient: Option<&mut [f32]>) -> f32 {
    let (hidden, weight, targets) = (inputs[0].f32s(), inputs[1].f32s(), inputs[2].i32s());
    let (width, vocabulary) = (inputs[0].side(1), inputs[1].side(0));
    let vocabulary_by_row = Matrix::of_rows(&weight, width);
    let mut logits = vec![0.0_f32; POSITIONS.min(targets.len()) * vocabulary];
    let mut total = 0.0;
    for (index, targets) in targets.chunks(POSITIONS).enumerate() {
        let positions = targets.len();
        let hidden = &hidden[index * POSITIONS * width..][..positions * width];
        let logits = &mut logits[..positions * vocabulary];
        // SAFETY: all three lie in slices of these sizes, which do not overlap.
        unsafe {
            multiply(
                [positions, vocabulary, width],
                1.0,
                Matrix::of_rows(hidden, width),
                vocabulary_by_row.transposed(),
                0.0,
                MatrixMut::of_rows(logits, vocabulary),
                threads(),
            );
        }
        let losses = normalised(logits, targets, vocabulary);
        total += losses.into_iter().sum::<f64>();
        let Some(gradient) = &mut gradient else { continue };
        let gradient = &mut gradient[index * POSITIONS * width..][..positions * width];
        // SAFETY: as above.
        unsafe {
            multiply(
                [positions, width, vocabulary],
                1.0,
                Matrix::of_rows(logits, vocabulary),
                vocabulary_by_row,
                0.0,
                MatrixMut::of_rows(gradient, width),
                threads(),
            );
        }
        for (row, target) in gradient.chunks_exact_mut(width.max(1)).zip(targets) {
            let expected = usize::try_from(*target)
                .ok()
                .and_then(|target| weight.chunks_exact(width).nth(target));
            match expected {
                Some(expected) => row
                    .iter_mut()
                    .zip(expected)
                    .for_each(|(value, expected)| *value -= expected),
                None => row.fill(f32::NAN),
            }
        }
    }
    total as f32
}

/// Makes probabilities of each row of `logits`, and returns the cross-entropy of its target.
fn normalised(logits: &mut [f32], targets: &[i32], vocabulary: usize) -> Vec<f64> {
    let of_row = |(row, target): (&mut [f32], &i32)| {
        let picked = usize::try_from(*target)
            .ok()
            .and_then(|target| row.get(target))
            .copied();
        with_vectors(
            #[inline(always)]
            || {
                let shift = largest(row);
                let sum = exponentials(row, shift);
                scale(row, 1.0 / sum);
                let target = picked.map_or(f64::NAN, f64::from);
                f64::from(sum).ln() + f64::from(shift) - target
            },
        )
    };
    if rows_of_part(targets.len(), vocabulary) >= targets.len() {
        logits.chunks_exact_mut(vocabulary).zip(targets).map(of_row).collect()
    } else {
        logits
            .par_chunks_exact_mut(vocabulary)
            .zip(targets)
            .map(of_row)
            .collect()
    }
}
