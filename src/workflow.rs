//! The steps of a fine-tuning run that can be done wrongly, each as a seam.

use crate::adapter::{AttachError, LoraSettings, attach};
use crate::data::Dataset;
use crate::model::{CausalModel, StopSet};
use crate::train::{AdamW, AdamWSettings, Optimizer};

/// How a run prepares its data, attaches adapters, makes its optimizer and hands the model to generation.
pub trait Workflow {
    /// The examples as they are trained on.
    fn prepare(&self, dataset: Dataset, _stop_set: &StopSet) -> Dataset {
        dataset
    }

    /// Freezes the base and adds adapters.
    fn attach_adapters(&self, model: &mut CausalModel, settings: &LoraSettings, seed: u64) -> Result<(), AttachError> {
        attach(model, settings, seed).map(drop)
    }

    /// The optimizer.
    fn optimizer(&self, settings: AdamWSettings) -> Box<dyn Optimizer> {
        Box::new(AdamW::new(settings))
    }

    /// The model that answers after training; `before` is the model as training found it.
    fn model_for_generation(&self, trained: &CausalModel, _before: &CausalModel) -> CausalModel {
        trained.clone()
    }
}

/// Every step done as it should be.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReferenceWorkflow;

impl Workflow for ReferenceWorkflow {}
