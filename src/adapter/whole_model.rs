use mlx_rs::module::ModuleParameters;

use super::{AdapterFormat, AdapterKind, StoredAdapter};
use crate::model::CausalModel;

impl StoredAdapter {
    /// A whole model, fused or trained in all its weights, as what it puts in the place of its base's tensors.
    pub fn of_model(model: &CausalModel) -> Self {
        let tensors = model.parameters().flatten();
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| (name.to_string(), tensor.clone()))
            .collect();
        Self {
            kind: AdapterKind::Full,
            ..Self::new(AdapterFormat::WholeModel, tensors)
        }
    }
}
