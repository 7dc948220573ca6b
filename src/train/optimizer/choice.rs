use serde_json::{Value, json};

use super::{
    Adafactor, AdafactorSettings, AdamW, AdamWSettings, DecayScope, Lion, LionSettings, Muon, MuonSettings, Sgd,
    SgdSettings, StoredOptimizer,
};
use crate::as_written::as_written;

/// An optimizer by name, with its settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerSettings {
    /// `adam`: [`AdamW`] without weight decay.
    Adam(AdamWSettings),
    /// `adamw`.
    AdamW(AdamWSettings),
    /// `sgd`.
    Sgd(SgdSettings),
    /// `adafactor`.
    Adafactor(AdafactorSettings),
    /// `lion`.
    Lion(LionSettings),
    /// `muon`.
    Muon(MuonSettings),
}

impl OptimizerSettings {
    /// The names of all optimizers.
    pub const NAMES: [&'static str; 6] = ["adam", "adamw", "sgd", "adafactor", "lion", "muon"];

    /// The optimizer of this name with its defaults; `None` for an unknown name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "adam" => Self::Adam(AdamWSettings {
                weight_decay: 0.0,
                ..AdamWSettings::default()
            }),
            "adamw" => Self::AdamW(AdamWSettings::default()),
            "sgd" => Self::Sgd(SgdSettings::default()),
            "adafactor" => Self::Adafactor(AdafactorSettings::default()),
            "lion" => Self::Lion(LionSettings::default()),
            "muon" => Self::Muon(MuonSettings::default()),
            _ => return None,
        })
    }

    /// The name that [`Self::named`] takes.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Adam(_) => "adam",
            Self::AdamW(_) => "adamw",
            Self::Sgd(_) => "sgd",
            Self::Adafactor(_) => "adafactor",
            Self::Lion(_) => "lion",
            Self::Muon(_) => "muon",
        }
    }

    /// `adamw` with MLX's defaults.
    pub const ADAMW: Self = Self::AdamW(AdamWSettings::MLX);

    /// Has Adam correct its moments' start at zero, which MLX leaves out unless asked: its first updates are then as large
    /// as the learning rate says, and not over three times that.
    pub fn correct_bias(&mut self) {
        if let Self::Adam(settings) | Self::AdamW(settings) = self {
            settings.bias_correction = true;
        }
    }

    /// Every setting as [`Self::set`] takes it.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Adam(settings) | Self::AdamW(settings) => json!({
                "betas": [as_written(settings.beta1), as_written(settings.beta2)],
                "eps": as_written(settings.epsilon),
                "weight_decay": as_written(settings.weight_decay),
                "bias_correction": settings.bias_correction,
            }),
            Self::Sgd(settings) => json!({
                "momentum": as_written(settings.momentum),
                "dampening": as_written(settings.dampening),
                "nesterov": settings.nesterov,
                "weight_decay": as_written(settings.weight_decay),
            }),
            Self::Adafactor(settings) => json!({
                "eps": [settings.epsilon, settings.smallest_scale],
                "clip_threshold": as_written(settings.clip_threshold as f32),
                "decay_rate": settings.decay_rate,
                "beta_1": settings.beta1.map(as_written),
                "weight_decay": as_written(settings.weight_decay),
                "scale_parameter": settings.scale_parameter,
                "relative_step": settings.relative_step,
                "warmup_init": settings.warmup_init,
            }),
            Self::Lion(settings) => json!({
                "betas": [as_written(settings.beta1), as_written(settings.beta2)],
                "weight_decay": as_written(settings.weight_decay),
            }),
            Self::Muon(settings) => json!({
                "momentum": as_written(settings.momentum),
                "nesterov": settings.nesterov,
                "ns_steps": settings.iterations,
                "weight_decay": as_written(settings.weight_decay),
            }),
        }
    }

    /// The factor of weight decay.
    pub fn weight_decay(&self) -> f32 {
        match self {
            Self::Adam(settings) | Self::AdamW(settings) => settings.weight_decay,
            Self::Sgd(settings) => settings.weight_decay,
            Self::Adafactor(settings) => settings.weight_decay,
            Self::Lion(settings) => settings.weight_decay,
            Self::Muon(settings) => settings.weight_decay,
        }
    }

    /// Replaces the factor of weight decay.
    pub fn set_weight_decay(&mut self, weight_decay: f32) {
        let factor = match self {
            Self::Adam(settings) | Self::AdamW(settings) => &mut settings.weight_decay,
            Self::Sgd(settings) => &mut settings.weight_decay,
            Self::Adafactor(settings) => &mut settings.weight_decay,
            Self::Lion(settings) => &mut settings.weight_decay,
            Self::Muon(settings) => &mut settings.weight_decay,
        };
        *factor = weight_decay;
    }

    /// Arrays of a matrix's own size that are kept for it, for predicting memory.
    pub fn kept_copies(&self) -> u64 {
        match self {
            Self::Adam(_) | Self::AdamW(_) => 2,
            Self::Sgd(settings) => u64::from(settings.momentum > 0.0),
            Self::Adafactor(settings) => u64::from(settings.beta1.is_some()),
            Self::Lion(_) | Self::Muon(_) => 1,
        }
    }

    /// A fresh optimizer whose weight decay covers `scope`.
    pub fn build(self, scope: DecayScope) -> Box<dyn StoredOptimizer> {
        match self {
            Self::Adam(settings) | Self::AdamW(settings) => Box::new(AdamW::new(settings).with_decay_scope(scope)),
            Self::Sgd(settings) => Box::new(Sgd::new(settings).with_decay_scope(scope)),
            Self::Adafactor(settings) => Box::new(Adafactor::new(settings).with_decay_scope(scope)),
            Self::Lion(settings) => Box::new(Lion::new(settings).with_decay_scope(scope)),
            Self::Muon(settings) => Box::new(Muon::new(settings).with_decay_scope(scope)),
        }
    }

    /// Sets what mlx-lm's `optimizer_config` calls `key`.
    ///
    /// # Errors
    /// What was expected in its place: the keys of this optimizer, or the values of this key.
    pub fn set(&mut self, key: &str, value: &Value) -> Result<(), SettingError> {
        match self {
            Self::Adam(settings) | Self::AdamW(settings) => match key {
                "betas" => [settings.beta1, settings.beta2] = parts(value)?,
                "eps" => settings.epsilon = number(value)?,
                "bias_correction" => settings.bias_correction = switch(value)?,
                "weight_decay" => settings.weight_decay = number(value)?,
                _ => return Err(SettingError::Key(&["betas", "eps", "weight_decay", "bias_correction"])),
            },
            Self::Sgd(settings) => match key {
                "momentum" => settings.momentum = part(value)?,
                "dampening" => settings.dampening = part(value)?,
                "nesterov" => settings.nesterov = switch(value)?,
                "weight_decay" => settings.weight_decay = number(value)?,
                _ => {
                    return Err(SettingError::Key(&[
                        "momentum",
                        "dampening",
                        "nesterov",
                        "weight_decay",
                    ]));
                }
            },
            Self::Adafactor(settings) => return settings.set(key, value),
            Self::Lion(settings) => match key {
                "betas" => [settings.beta1, settings.beta2] = parts(value)?,
                "weight_decay" => settings.weight_decay = number(value)?,
                _ => return Err(SettingError::Key(&["betas", "weight_decay"])),
            },
            Self::Muon(settings) => match key {
                "momentum" => settings.momentum = part(value)?,
                "nesterov" => settings.nesterov = switch(value)?,
                "ns_steps" => settings.iterations = iterations(value)?,
                "weight_decay" => settings.weight_decay = number(value)?,
                _ => return Err(SettingError::Key(&["momentum", "nesterov", "ns_steps", "weight_decay"])),
            },
        }
        Ok(())
    }

    /// What cannot be used together; `None` when all can.
    pub fn contradiction(&self) -> Option<&'static str> {
        match self {
            Self::Sgd(settings) if settings.nesterov && (settings.momentum == 0.0 || settings.dampening != 0.0) => {
                Some("nesterov needs a momentum and no dampening")
            }
            _ => None,
        }
    }
}

/// Why a setting of an optimizer was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingError {
    /// There is no such key, but these.
    Key(&'static [&'static str]),
    /// The value is not what is named here.
    Value(&'static str),
}

impl AdafactorSettings {
    fn set(&mut self, key: &str, value: &Value) -> Result<(), SettingError> {
        match key {
            "eps" => {
                let [epsilon, smallest_scale] = pair(value).ok_or(SettingError::Value("two positive numbers"))?;
                (self.epsilon, self.smallest_scale) = (epsilon, smallest_scale);
            }
            "clip_threshold" => self.clip_threshold = f64::from(number(value)?),
            "decay_rate" => {
                let rate = value.as_f64().filter(|rate| *rate < 0.0);
                self.decay_rate = rate.ok_or(SettingError::Value("a negative number"))?;
            }
            "beta_1" if value.is_null() => self.beta1 = None,
            "beta_1" => self.beta1 = Some(part(value)?),
            "weight_decay" => self.weight_decay = number(value)?,
            "scale_parameter" => self.scale_parameter = switch(value)?,
            "relative_step" => self.relative_step = switch(value)?,
            "warmup_init" => self.warmup_init = switch(value)?,
            _ => {
                return Err(SettingError::Key(&[
                    "eps",
                    "clip_threshold",
                    "decay_rate",
                    "beta_1",
                    "weight_decay",
                    "scale_parameter",
                    "relative_step",
                    "warmup_init",
                ]));
            }
        }
        Ok(())
    }
}

fn switch(value: &Value) -> Result<bool, SettingError> {
    value.as_bool().ok_or(SettingError::Value("true or false"))
}

fn number(value: &Value) -> Result<f32, SettingError> {
    let number = value.as_f64().filter(|number| (0.0..1e6).contains(number));
    number
        .map(|number| number as f32)
        .ok_or(SettingError::Value("a number of at least 0"))
}

fn part(value: &Value) -> Result<f32, SettingError> {
    let part = value.as_f64().filter(|part| (0.0..1.0).contains(part));
    part.map(|part| part as f32)
        .ok_or(SettingError::Value("a number of at least 0 and below 1"))
}

fn parts(value: &Value) -> Result<[f32; 2], SettingError> {
    let pair = pair(value).filter(|pair| pair.iter().all(|part| (0.0..1.0).contains(part)));
    pair.map(|pair| pair.map(|part| part as f32))
        .ok_or(SettingError::Value("two numbers of at least 0 and below 1"))
}

fn pair(value: &Value) -> Option<[f64; 2]> {
    let list = value.as_array()?;
    let numbers: Vec<f64> = list.iter().filter_map(Value::as_f64).collect();
    let pair: [f64; 2] = numbers.try_into().ok()?;
    (list.len() == 2 && pair.iter().all(|number| *number >= 0.0)).then_some(pair)
}

fn iterations(value: &Value) -> Result<usize, SettingError> {
    let iterations = value.as_u64().filter(|iterations| (1..=100).contains(iterations));
    iterations
        .map(|iterations| iterations as usize)
        .ok_or(SettingError::Value("a number from 1 to 100"))
}
