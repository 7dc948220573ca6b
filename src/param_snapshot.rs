//! The parameters of a model at one moment.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::module::{ModuleParamRef, ModuleParameters};

/// Every parameter of a model by its path.
///
/// Capturing clones handles, not values: MLX arrays are immutable and an update replaces the handle, so a snapshot costs
/// memory only for what changes after it.
#[derive(Debug, Clone)]
pub struct ParameterSnapshot {
    parameters: BTreeMap<String, Array>,
}

impl ParameterSnapshot {
    /// Captures all parameters of `model`, trainable or not.
    pub fn capture(model: &impl ModuleParameters) -> Self {
        Self::of(model.parameters())
    }

    /// Captures the parameters of `model` that are not frozen.
    pub fn capture_trainable(model: &impl ModuleParameters) -> Self {
        Self::of(model.trainable_parameters())
    }

    fn of(tree: ModuleParamRef<'_>) -> Self {
        Self {
            parameters: tree
                .flatten()
                .into_iter()
                .map(|(name, array)| (name.to_string(), array.clone()))
                .collect(),
        }
    }

    /// Number of values in all parameters.
    pub fn values(&self) -> u64 {
        self.parameters.values().map(|array| array.size() as u64).sum()
    }

    /// The parameters alone.
    pub fn into_parameters(self) -> BTreeMap<String, Array> {
        self.parameters
    }

    /// The parameters, sorted by path.
    pub fn parameters(&self) -> &BTreeMap<String, Array> {
        &self.parameters
    }
}
