use mlx_cpu_kernels::AdamWFactors;
use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::{add, divide, multiply, square, subtract, zeros_like};

use super::{PerParameter, Update, UpdateRule};

/// Settings of [`AdamW`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the mean of the gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the denominator.
    pub epsilon: f32,
    /// Decoupled weight decay, per unit of learning rate; 0 makes this Adam.
    pub weight_decay: f32,
    /// Whether the means are corrected for their start at zero.
    pub bias_correction: bool,
}

impl AdamWSettings {
    /// MLX's defaults, among them no bias correction.
    pub const MLX: Self = Self {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        bias_correction: false,
    };
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self::MLX
    }
}

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101).
pub type AdamW = PerParameter<AdamWSettings>;

impl AdamW {
    /// A fresh optimizer.
    pub fn new(settings: AdamWSettings) -> Self {
        Self::of(settings)
    }
}

impl AdamWSettings {
    /// Factors that stand for bias correction: on the learning rate, and on the root of the squares.
    fn corrections(&self, step: u64) -> (f64, f64) {
        if !self.bias_correction {
            return (1.0, 1.0);
        }
        let steps = step as f64;
        let first = 1.0 - f64::from(self.beta1).powf(steps);
        let second = 1.0 - f64::from(self.beta2).powf(steps);
        (1.0 / first, 1.0 / second.sqrt())
    }
}

impl UpdateRule for AdamWSettings {
    const NAME: &'static str = "adamw";

    fn slots(&self, _parameter: &Array) -> &'static [&'static str] {
        &["mean", "square"]
    }

    fn first(&self, _slot: &str, gradient: &Array) -> Result<Array> {
        zeros_like(gradient)
    }

    fn next(&self, parameter: &Array, gradient: &Array, kept: &mut [Array], update: Update) -> Result<Array> {
        let [mean, squares] = kept else {
            return Err(mlx_rs::error::Exception::custom("AdamW keeps two arrays"));
        };
        let (mean_correction, root_correction) = self.corrections(update.step);
        let weight_decay = if update.decays {
            f64::from(self.weight_decay)
        } else {
            0.0
        };
        let rate = update.learning_rate * mean_correction;
        let keep_parameter = 1.0 - update.learning_rate * weight_decay;
        if mlx_cpu_kernels::serve([parameter, gradient, mean, squares]) {
            let factors = AdamWFactors {
                keep_mean: self.beta1,
                take_mean: (1.0 - f64::from(self.beta1)) as f32,
                keep_square: self.beta2,
                take_square: (1.0 - f64::from(self.beta2)) as f32,
                root: root_correction as f32,
                epsilon: self.epsilon,
                rate: rate as f32,
                keep_parameter: keep_parameter as f32,
            };
            let [next, next_mean, next_squares] =
                mlx_cpu_kernels::adamw([parameter, mean, squares], gradient, factors)?;
            (*mean, *squares) = (next_mean, next_squares);
            return Ok(next);
        }
        let blend = |old: &Array, new: &Array, beta: f32| {
            add(
                multiply(old, update.scalar(f64::from(beta))?)?,
                multiply(new, update.scalar(1.0 - f64::from(beta))?)?,
            )
        };
        *mean = blend(mean, gradient, self.beta1)?;
        *squares = blend(squares, &square(gradient)?, self.beta2)?;
        let denominator = add(
            multiply(squares.sqrt()?, update.scalar(root_correction)?)?,
            update.scalar(f64::from(self.epsilon))?,
        )?;
        let change = divide(multiply(&*mean, update.scalar(rate)?)?, denominator)?;
        subtract(multiply(parameter, update.scalar(keep_parameter)?)?, change)
    }
}
