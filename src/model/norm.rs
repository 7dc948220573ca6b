use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::fast::{layer_norm, rms_norm};
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::ops::add;

/// What a norm divides by, and what its weight means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// The root of the mean square; the weight is the factor (Zhang and Sennrich 2019, arXiv 1910.07467).
    RootMeanSquare,
    /// The root of the mean square; the factor is 1 + weight, as in the Gemma family.
    RootMeanSquarePlusOne,
    /// Mean and standard deviation, with a bias (Ba et al. 2016, arXiv 1607.06450).
    Layer,
}

/// A norm over the last axis.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Norm {
    /// `[size]`.
    #[param]
    pub weight: Param<Array>,
    /// `[size]`; a [`NormKind::Layer`] has one.
    #[param]
    pub bias: Param<Option<Array>>,
    /// How it normalises.
    pub kind: NormKind,
    /// Added under the root.
    pub eps: f32,
}

impl Norm {
    /// Normalises `input` `[..., size]`.
    pub fn forward(&self, input: &Array) -> Result<Array> {
        match self.kind {
            NormKind::RootMeanSquare => self.by_root_mean_square(input, &self.weight.value),
            NormKind::RootMeanSquarePlusOne => {
                let one = Array::from_f32(1.0).as_dtype(self.weight.dtype())?;
                self.by_root_mean_square(input, &add(&self.weight.value, one)?)
            }
            NormKind::Layer => layer_norm(input, Some(&self.weight.value), self.bias.value.as_ref(), self.eps),
        }
    }

    fn by_root_mean_square(&self, input: &Array, weight: &Array) -> Result<Array> {
        if mlx_cpu_kernels::serve([input, weight]) {
            mlx_cpu_kernels::root_mean_square_norm(input, weight, self.eps)
        } else {
            rms_norm(input, Some(weight), self.eps)
        }
    }
}
