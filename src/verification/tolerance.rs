//! Every tolerance of the verification, each with its reason.
//!
//! An error is the largest one of an array as a share of the array's largest value, unless its tolerance has another measure.

use crate::device::BackendKind;

/// How far off a result may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tolerance {
    limit: f64,
    measure: &'static str,
    /// Whether matrix products in f32 are in it.
    has_products: bool,
}

/// What CUDA's tensor cores round the operands of f32 products to, unless `MLX_ENABLE_TF32=0`: 10 bits, over the few layers
/// of the carried models.
const TENSOR_CORES: f64 = 1e-2;

impl Tolerance {
    const fn new(limit: f64) -> Self {
        Self {
            limit,
            measure: "of the largest value",
            has_products: false,
        }
    }

    const fn with_products(limit: f64) -> Self {
        Self {
            has_products: true,
            ..Self::new(limit)
        }
    }

    const fn measured(self, measure: &'static str) -> Self {
        Self { measure, ..self }
    }

    /// What an error is a share or a number of, for a sentence that ends with it.
    pub(super) fn measure(self) -> &'static str {
        self.measure
    }

    /// The largest error that passes on a device of this kind.
    pub(super) fn limit_on(self, kind: BackendKind) -> f64 {
        if self.has_products && kind == BackendKind::Cuda {
            self.limit.max(TENSOR_CORES)
        } else {
            self.limit
        }
    }
}

/// Sums of up to a few hundred f32 products, in any order: 512 terms round to 512 times 6e-8 at the very worst, and to less
/// than a tenth of it in fact.
pub(super) const PRODUCTS: Tolerance = Tolerance::with_products(5e-6);

/// The same with operands of 16 bits, of which bfloat16 has 8 bits for the result.
pub(super) const PRODUCTS_IN_16_BITS: Tolerance = Tolerance::with_products(1e-2);

/// Sums over a thousand f32 values. MLX's CPU adds some one after the other.
pub(super) const REDUCTIONS: Tolerance = Tolerance::new(1e-5);

/// One function of each value, and sums of a few of them. MLX's exponentials are good to some units of the last place.
pub(super) const FUNCTIONS: Tolerance = Tolerance::new(1e-5);

/// Angles of up to a few hundred radians, which f32 itself knows to 3e-5.
pub(super) const ROTATIONS: Tolerance = Tolerance::new(5e-5);

/// Two products with a softmax between them.
pub(super) const ATTENTION: Tolerance = Tolerance::with_products(1e-5);

/// Moments of 65,536 random numbers, as an absolute error: 5 standard errors of a uniform mean are 5.6e-3.
pub(super) const MOMENTS: Tolerance = Tolerance::new(8e-3).measured("beside the expected moment");

/// Logits of models of two layers by two programs in f32; the goldens are rounded to six digits behind the point.
pub(super) const LOGITS: Tolerance = Tolerance::with_products(5e-5);

/// Mean losses of two programs in f32.
pub(super) const LOSSES: Tolerance = Tolerance::with_products(1e-5);

/// Gradients of two programs in f32, parameter by parameter.
pub(super) const GRADIENTS: Tolerance = Tolerance::with_products(5e-4);

/// The same computation in other steps: products of another shape add in another order.
pub(super) const OTHER_STEPS: Tolerance = Tolerance::with_products(2e-5);

/// Log-probabilities of the engine, as an absolute error in nats: they come from logits in other steps.
pub(super) const LOG_PROBABILITIES: Tolerance = Tolerance::with_products(2e-4).measured("nats");

/// The sampler's log-probabilities beside those of mlx-lm, as an absolute error in nats: hundreds of exponentials in another
/// order, of logits around 300 that are stored to 3e-5.
pub(super) const SAMPLER: Tolerance = Tolerance::new(5e-5).measured("nats");

/// Parameters near 1 after five updates in f32, of which Muon's are products in five rounds.
pub(super) const UPDATES: Tolerance = Tolerance::with_products(1e-5);

/// A slope of the loss by finite differences beside the gradient's, as a share of it and beyond what the rounding of the
/// losses explains: what is left of the loss's bend, and the rounding of the gradient itself.
pub(super) const SLOPES: Tolerance =
    Tolerance::with_products(1e-3).measured("of the slope beyond what rounding explains");

/// Difference of the slopes over a step and over half of it, as a share, up to which the loss is smooth there: Richardson's
/// extrapolation leaves about the square of it.
pub(super) const SAME_SLOPE: f64 = 0.01;

/// Logits of a model with its adapter fused: the sum is rounded in the weights instead of in the layer's output.
pub(super) const FUSED: Tolerance = Tolerance::with_products(1e-4);
