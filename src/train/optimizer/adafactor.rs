use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::{add, divide, maximum, multiply, rsqrt, square, subtract, zeros_dtype, zeros_like};

use super::{PerParameter, Update, UpdateRule};

/// Largest relative step, and its growth per update while warming up (Shazeer and Stern 2018, section 8).
const LARGEST_RELATIVE_STEP: f64 = 1e-2;
const RELATIVE_WARM_UP: f64 = 1e-6;

/// Settings of [`Adafactor`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdafactorSettings {
    /// Added to squared gradients.
    pub epsilon: f64,
    /// Smallest scale of a parameter that its step is relative to.
    pub smallest_scale: f64,
    /// Root mean square above which an update is scaled down.
    pub clip_threshold: f64,
    /// Exponent by which the memory of squared gradients grows; negative.
    pub decay_rate: f64,
    /// Decay of a mean of the updates; `None` keeps no such mean.
    pub beta1: Option<f32>,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f32,
    /// Whether steps are relative to the size of the parameter.
    pub scale_parameter: bool,
    /// Whether the learning rate is left out of account and follows from the number of updates alone.
    pub relative_step: bool,
    /// With relative steps, whether they begin small.
    pub warmup_init: bool,
}

impl Default for AdafactorSettings {
    /// MLX's defaults but for `relative_step`: a learning rate that was given is used.
    fn default() -> Self {
        Self {
            epsilon: 1e-30,
            smallest_scale: 1e-3,
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta1: None,
            weight_decay: 0.0,
            scale_parameter: true,
            relative_step: false,
            warmup_init: false,
        }
    }
}

/// Adaptive steps whose memory is one row and one column per matrix (Shazeer and Stern 2018, arXiv 1804.04235).
pub type Adafactor = PerParameter<AdafactorSettings>;

impl Adafactor {
    /// A fresh optimizer.
    pub fn new(settings: AdafactorSettings) -> Self {
        Self::of(settings)
    }
}

impl UpdateRule for AdafactorSettings {
    const NAME: &'static str = "adafactor";

    fn slots(&self, parameter: &Array) -> &'static [&'static str] {
        match (parameter.ndim() >= 2, self.beta1.is_some()) {
            (true, false) => &["row", "column"],
            (true, true) => &["row", "column", "mean"],
            (false, false) => &["square"],
            (false, true) => &["square", "mean"],
        }
    }

    fn first(&self, slot: &str, gradient: &Array) -> Result<Array> {
        let shape = gradient.shape();
        let axes = shape.len();
        match slot {
            "row" => zeros_dtype(&shape[..axes - 1], gradient.dtype()),
            "column" => zeros_dtype(&[&shape[..axes - 2], &shape[axes - 1..]].concat(), gradient.dtype()),
            _ => zeros_like(gradient),
        }
    }

    fn next(&self, parameter: &Array, gradient: &Array, kept: &mut [Array], update: Update) -> Result<Array> {
        let learning_rate = self.learning_rate(parameter, update)?;
        let memory = 1.0 - (update.step as f64).powf(self.decay_rate);
        let blend = |old: &Array, new: &Array| {
            add(
                multiply(old, update.scalar(memory)?)?,
                multiply(new, update.scalar(1.0 - memory)?)?,
            )
        };
        let squares = add(square(gradient)?, update.scalar(self.epsilon)?)?;
        let (inverse_root, mean) = match kept {
            [row, column, mean @ ..] if parameter.ndim() >= 2 => {
                *row = blend(row, &squares.mean_axis(-1, false)?)?;
                *column = blend(column, &squares.mean_axis(-2, false)?)?;
                let rows = rsqrt(divide(&*row, row.mean_axis(-1, true)?)?)?;
                let columns = rsqrt(&*column)?;
                (
                    multiply(rows.expand_dims(-1)?, columns.expand_dims(-2)?)?,
                    mean.first_mut(),
                )
            }
            [memory, mean @ ..] => {
                *memory = blend(memory, &squares)?;
                (rsqrt(&*memory)?, mean.first_mut())
            }
            [] => return Err(Exception::custom("Adafactor keeps at least one array")),
        };
        let raw = multiply(inverse_root, gradient)?;
        let excess = divide(root_mean_square(&raw)?, update.scalar(self.clip_threshold)?)?;
        let clipped = divide(raw, maximum(update.scalar(1.0)?, excess)?)?;
        let mut step = multiply(&learning_rate, clipped)?;
        if let (Some(beta), Some(mean)) = (self.beta1, mean) {
            *mean = add(
                multiply(&*mean, update.scalar(f64::from(beta))?)?,
                multiply(step, update.scalar(1.0 - f64::from(beta))?)?,
            )?;
            step = mean.clone();
        }
        let decayed = if update.decays && self.weight_decay != 0.0 {
            let decay = multiply(&learning_rate, update.scalar(-f64::from(self.weight_decay))?)?;
            add(parameter, multiply(parameter, decay)?)?
        } else {
            parameter.clone()
        };
        subtract(decayed, step)
    }
}

impl AdafactorSettings {
    fn learning_rate(&self, parameter: &Array, update: Update) -> Result<Array> {
        let step = update.step as f64;
        let relative = if self.relative_step {
            let largest = if self.warmup_init {
                RELATIVE_WARM_UP * step
            } else {
                LARGEST_RELATIVE_STEP
            };
            largest.min(step.powf(-0.5))
        } else {
            update.learning_rate
        };
        let relative = update.scalar(relative)?;
        if !self.scale_parameter {
            return Ok(relative);
        }
        let scale = maximum(update.scalar(self.smallest_scale)?, root_mean_square(parameter)?)?;
        multiply(scale, relative)
    }
}

fn root_mean_square(array: &Array) -> Result<Array> {
    square(array)?.mean(None)?.sqrt()
}
