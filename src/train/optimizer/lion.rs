use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::{add, multiply, sign, subtract, zeros_like};

use super::{PerParameter, Update, UpdateRule};

/// Settings of [`Lion`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LionSettings {
    /// Part of the mean in the direction of a step.
    pub beta1: f32,
    /// Decay of the mean of the gradients.
    pub beta2: f32,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f32,
}

impl Default for LionSettings {
    /// MLX's defaults.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.99,
            weight_decay: 0.0,
        }
    }
}

/// Steps of equal size along the sign of a mean of gradients (Chen et al. 2023, arXiv 2302.06675).
///
/// Its steps are larger than Adam's; its authors take a learning rate three to ten times smaller.
pub type Lion = PerParameter<LionSettings>;

impl Lion {
    /// A fresh optimizer.
    pub fn new(settings: LionSettings) -> Self {
        Self::of(settings)
    }
}

impl UpdateRule for LionSettings {
    const NAME: &'static str = "lion";

    fn slots(&self, _parameter: &Array) -> &'static [&'static str] {
        &["mean"]
    }

    fn first(&self, _slot: &str, gradient: &Array) -> Result<Array> {
        zeros_like(gradient)
    }

    fn next(&self, parameter: &Array, gradient: &Array, kept: &mut [Array], update: Update) -> Result<Array> {
        let [mean] = kept else {
            return Err(Exception::custom("Lion keeps one array"));
        };
        let blend = |beta: f32| {
            add(
                multiply(&*mean, update.scalar(f64::from(beta))?)?,
                multiply(gradient, update.scalar(1.0 - f64::from(beta))?)?,
            )
        };
        let (direction, next_mean) = (sign(blend(self.beta1)?)?, blend(self.beta2)?);
        *mean = next_mean;
        let weight_decay = if update.decays {
            f64::from(self.weight_decay)
        } else {
            0.0
        };
        let decayed = multiply(parameter, update.scalar(1.0 - update.learning_rate * weight_decay)?)?;
        subtract(decayed, multiply(direction, update.scalar(update.learning_rate)?)?)
    }
}
