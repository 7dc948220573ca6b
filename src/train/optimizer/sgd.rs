use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::{add, multiply, subtract, zeros_like};

use super::{PerParameter, Update, UpdateRule};

/// Settings of [`Sgd`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SgdSettings {
    /// Part of the last velocity that is kept.
    pub momentum: f32,
    /// Part of a gradient that does not enter the velocity.
    pub dampening: f32,
    /// Whether the step looks ahead along the velocity (Nesterov); needs momentum and no dampening.
    pub nesterov: bool,
    /// Added to the gradient, times the parameter.
    pub weight_decay: f32,
}

/// Stochastic gradient descent with momentum (Sutskever et al. 2013), as MLX has it.
pub type Sgd = PerParameter<SgdSettings>;

impl Sgd {
    /// A fresh optimizer.
    pub fn new(settings: SgdSettings) -> Self {
        Self::of(settings)
    }
}

impl UpdateRule for SgdSettings {
    const NAME: &'static str = "sgd";

    fn slots(&self, _parameter: &Array) -> &'static [&'static str] {
        if self.momentum > 0.0 { &["velocity"] } else { &[] }
    }

    fn first(&self, _slot: &str, gradient: &Array) -> Result<Array> {
        zeros_like(gradient)
    }

    fn next(&self, parameter: &Array, gradient: &Array, kept: &mut [Array], update: Update) -> Result<Array> {
        let scaled = |array: &Array, factor: f32| multiply(array, update.scalar(f64::from(factor))?);
        let gradient = if update.decays && self.weight_decay != 0.0 {
            add(gradient, scaled(parameter, self.weight_decay)?)?
        } else {
            gradient.clone()
        };
        let step = match kept {
            [] => gradient,
            [velocity] => {
                *velocity = add(
                    scaled(velocity, self.momentum)?,
                    scaled(&gradient, 1.0 - self.dampening)?,
                )?;
                if self.nesterov {
                    add(gradient, scaled(velocity, self.momentum)?)?
                } else {
                    velocity.clone()
                }
            }
            _ => return Err(Exception::custom("SGD keeps at most one array")),
        };
        subtract(parameter, multiply(step, update.scalar(update.learning_rate)?)?)
    }
}
