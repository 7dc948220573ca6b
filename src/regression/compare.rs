use serde::Serialize;
use serde_json::Value;

use super::identity::{self, OtherRun};
use super::tolerance::{Tolerance, class_of};
use crate::evidence::{Evidence, RunEnvironment};

/// A measurement that is further from the stored one than its tolerance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Movement {
    /// JSON pointer into the evidence.
    pub path: String,
    /// The kind of measurement.
    pub class: &'static str,
    /// What was stored.
    pub stored: Value,
    /// What it is now.
    pub now: Value,
    /// How far the two may be apart; `None` when they must be equal.
    pub allowed: Option<f64>,
}

/// Something about the machine or the libraries that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnvironmentChange {
    /// For example `mlx_version`.
    pub field: &'static str,
    /// What it was.
    pub stored: String,
    /// What it is now.
    pub now: String,
}

/// A run against a stored one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Values that were compared.
    pub compared: usize,
    /// Those that are equal to the last bit.
    pub identical: usize,
    /// Those beyond their tolerance, in the order of the evidence.
    pub moved: Vec<Movement>,
    /// What else may explain a movement; never held against a run.
    pub environment: Vec<EnvironmentChange>,
}

/// Why two runs cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// They are not runs of the same model on the same data with the same settings.
    #[error(transparent)]
    OtherRun(#[from] OtherRun),
    /// Evidence cannot be written as JSON.
    #[error("the evidence has no form in JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Compares the evidence of a run with that of a stored one.
pub fn compare(stored: &Evidence, now: &Evidence) -> Result<Comparison, CompareError> {
    identity::check(stored, now)?;
    let dtypes = [&stored.environment.dtype, &now.environment.dtype];
    let mut walk = Walk {
        in_sixteen_bits: dtypes.iter().any(|dtype| *dtype != "float32"),
        result: Comparison {
            compared: 0,
            identical: 0,
            moved: Vec::new(),
            environment: environment(&stored.environment, &now.environment),
        },
    };
    let values = (serde_json::to_value(stored)?, serde_json::to_value(now)?);
    walk.values(&mut Place::default(), &values.0, &values.1);
    Ok(walk.result)
}

fn environment(stored: &RunEnvironment, now: &RunEnvironment) -> Vec<EnvironmentChange> {
    let fields = |environment: &RunEnvironment| {
        [
            ("tool_version", environment.tool_version.clone()),
            ("mlx_version", environment.mlx_version.clone()),
            ("platform", environment.platform.clone()),
            ("backend", environment.backend.clone()),
            ("device", environment.device.clone()),
            ("dtype", environment.dtype.clone()),
            ("packed", environment.packed.to_string()),
        ]
    };
    fields(stored)
        .into_iter()
        .zip(fields(now))
        .filter(|((_, stored), (_, now))| stored != now)
        .map(|((field, stored), (_, now))| EnvironmentChange { field, stored, now })
        .collect()
}

/// Where in the evidence a value is.
#[derive(Default)]
struct Place {
    /// Keys and indices.
    pointer: Vec<String>,
    /// Keys alone, without the one of a slot that ran.
    keys: Vec<String>,
}

impl Place {
    fn with_key(&mut self, key: &str, inside: impl FnOnce(&mut Self)) {
        let counts = key != "ran";
        self.pointer.push(key.to_owned());
        if counts {
            self.keys.push(key.to_owned());
        }
        inside(self);
        if counts {
            self.keys.pop();
        }
        self.pointer.pop();
    }

    fn with_index(&mut self, index: usize, inside: impl FnOnce(&mut Self)) {
        self.pointer.push(index.to_string());
        inside(self);
        self.pointer.pop();
    }
}

struct Walk {
    in_sixteen_bits: bool,
    result: Comparison,
}

impl Walk {
    fn values(&mut self, place: &mut Place, stored: &Value, now: &Value) {
        match (stored, now) {
            (Value::Object(stored), Value::Object(now)) if stored.keys().eq(now.keys()) => {
                for ((key, stored), (_, now)) in stored.iter().zip(now) {
                    place.with_key(key, |place| self.values(place, stored, now));
                }
            }
            (Value::Array(stored), Value::Array(now)) if stored.len() == now.len() => {
                for (index, (stored, now)) in stored.iter().zip(now).enumerate() {
                    place.with_index(index, |place| self.values(place, stored, now));
                }
            }
            _ => self.leaf(place, stored, now),
        }
    }

    fn leaf(&mut self, place: &Place, stored: &Value, now: &Value) {
        let keys: Vec<&str> = place.keys.iter().map(String::as_str).collect();
        let class = class_of(&keys);
        let allowed = match (class.tolerance, stored.as_f64(), now.as_f64()) {
            (Tolerance::Unlimited, _, _) => return,
            (Tolerance::Close { float32, sixteen_bits }, Some(stored), Some(now)) => {
                let slack = if self.in_sixteen_bits { sixteen_bits } else { float32 };
                Some(slack.allowed(stored, now))
            }
            // Equal or not: texts, and a number that is finite on one side only.
            _ => None,
        };
        self.result.compared += 1;
        if stored == now {
            self.result.identical += 1;
            return;
        }
        let within = match (allowed, stored.as_f64(), now.as_f64()) {
            (Some(allowed), Some(stored), Some(now)) => (stored - now).abs() <= allowed,
            _ => false,
        };
        if !within {
            self.result.moved.push(Movement {
                path: format!("/{}", place.pointer.join("/")),
                class: class.name,
                stored: shown(stored),
                now: shown(now),
                allowed,
            });
        }
    }
}

/// A value as a movement names it: a slot by how it ended, a list by its length, everything else as it is.
fn shown(value: &Value) -> Value {
    match value {
        Value::Array(entries) => Value::from(counted_entries(entries.len())),
        Value::Object(fields) => {
            let ended = |how: &str, why: &str| {
                let why = fields.get(how)?.get(why)?.as_str()?;
                Some(Value::from(format!("{how}: {why}")))
            };
            let ran = fields.contains_key("ran").then(|| Value::from("ran"));
            ran.or_else(|| ended("skipped", "reason"))
                .or_else(|| ended("crashed", "error"))
                .unwrap_or_else(|| value.clone())
        }
        _ => value.clone(),
    }
}

fn counted_entries(count: usize) -> String {
    match count {
        1 => "1 entry".to_owned(),
        count => format!("{count} entries"),
    }
}
