//! The parameters of a model at one moment.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::module::ModuleParameters;

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
        Self {
            parameters: model
                .parameters()
                .flatten()
                .into_iter()
                .map(|(name, array)| (name.to_string(), array.clone()))
                .collect(),
        }
    }

    /// The parameters, sorted by path.
    pub fn parameters(&self) -> &BTreeMap<String, Array> {
        &self.parameters
    }
}
