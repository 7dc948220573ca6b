use crate::model::CausalModel;
use crate::workflow::Workflow;

/// Generation with a model that was copied before training.
#[derive(Debug)]
pub struct StaleGeneration;

impl Workflow for StaleGeneration {
    fn model_for_generation(&self, _trained: &CausalModel, before: &CausalModel) -> CausalModel {
        before.clone()
    }
}
