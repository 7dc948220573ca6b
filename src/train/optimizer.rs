use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::{add, divide, multiply, square, subtract};

/// Turns gradients into new parameters.
pub trait Optimizer {
    /// Name for the report, for example `adamw`.
    fn name(&self) -> &'static str;

    /// Replaces each of `parameters` by its next value; `gradients` has the same keys.
    fn update(
        &mut self,
        parameters: &mut BTreeMap<String, Array>,
        gradients: &BTreeMap<String, Array>,
        learning_rate: f64,
    ) -> Result<()>;

    /// Updates made so far.
    fn step_count(&self) -> u64;

    /// The arrays that carry over from step to step.
    fn state(&self) -> Vec<&Array>;
}

/// Settings of [`AdamW`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the mean of the gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the denominator.
    pub epsilon: f32,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f32,
    /// Whether the means are corrected for their start at zero.
    pub bias_correction: bool,
}

impl Default for AdamWSettings {
    /// MLX's defaults, among them no bias correction.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            bias_correction: false,
        }
    }
}

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101).
#[derive(Debug)]
pub struct AdamW {
    settings: AdamWSettings,
    moments: BTreeMap<String, Moments>,
    step_count: u64,
}

#[derive(Debug)]
struct Moments {
    mean: Array,
    square: Array,
}

impl AdamW {
    /// A fresh optimizer.
    pub fn new(settings: AdamWSettings) -> Self {
        Self {
            settings,
            moments: BTreeMap::new(),
            step_count: 0,
        }
    }

    /// Factors that stand for bias correction: on the learning rate, and on the root of the squares.
    fn corrections(&self) -> (f64, f64) {
        if !self.settings.bias_correction {
            return (1.0, 1.0);
        }
        let steps = self.step_count as f64;
        let first = 1.0 - f64::from(self.settings.beta1).powf(steps);
        let second = 1.0 - f64::from(self.settings.beta2).powf(steps);
        (1.0 / first, 1.0 / second.sqrt())
    }
}

impl Optimizer for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn update(
        &mut self,
        parameters: &mut BTreeMap<String, Array>,
        gradients: &BTreeMap<String, Array>,
        learning_rate: f64,
    ) -> Result<()> {
        self.step_count += 1;
        let settings = self.settings;
        let (mean_correction, root_correction) = self.corrections();
        for (name, parameter) in parameters {
            let Some(gradient) = gradients.get(name) else {
                continue;
            };
            // A scalar array would promote bf16; a scalar of the parameter's type does not.
            let scalar = |value: f64| Array::from_f32(value as f32).as_dtype(parameter.dtype());
            let zero = || mlx_rs::ops::zeros_like(gradient);
            let (mean, squares) = match self.moments.remove(name) {
                Some(moments) => (moments.mean, moments.square),
                None => (zero()?, zero()?),
            };
            let blend = |old: &Array, new: &Array, beta: f32| {
                add(
                    multiply(old, scalar(f64::from(beta))?)?,
                    multiply(new, scalar(1.0 - f64::from(beta))?)?,
                )
            };
            let mean = blend(&mean, gradient, settings.beta1)?;
            let squares = blend(&squares, &square(gradient)?, settings.beta2)?;
            let denominator = add(
                multiply(squares.sqrt()?, scalar(root_correction)?)?,
                scalar(f64::from(settings.epsilon))?,
            )?;
            let change = divide(multiply(&mean, scalar(learning_rate * mean_correction)?)?, denominator)?;
            let decayed = multiply(
                &*parameter,
                scalar(1.0 - learning_rate * f64::from(settings.weight_decay))?,
            )?;
            *parameter = subtract(decayed, change)?;
            self.moments.insert(name.clone(), Moments { mean, square: squares });
        }
        Ok(())
    }

    fn step_count(&self) -> u64 {
        self.step_count
    }

    fn state(&self) -> Vec<&Array> {
        self.moments
            .values()
            .flat_map(|moments| [&moments.mean, &moments.square])
            .collect()
    }
}
