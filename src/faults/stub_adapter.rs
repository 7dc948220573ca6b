use mlx_rs::module::ModuleParameters;

use crate::adapter::{AttachError, LoraSettings};
use crate::model::CausalModel;
use crate::workflow::Workflow;

/// An "add adapter" that makes no adapter and freezes nothing.
#[derive(Debug)]
pub struct StubAdapter;

impl Workflow for StubAdapter {
    fn attach_adapters(
        &self,
        model: &mut CausalModel,
        _settings: &LoraSettings,
        _seed: u64,
    ) -> Result<(), AttachError> {
        model.unfreeze_parameters(true);
        Ok(())
    }
}
