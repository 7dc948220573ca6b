//! The steps of a fine-tuning run that can be done wrongly, each as a seam.

use std::collections::BTreeSet;
use std::path::Path;

use mlx_rs::error::Exception;

use crate::adapter::{AdapterFileError, AttachError, LoraSettings, attach, fuse, load_adapter, save_adapter};
use crate::data::{Batch, Dataset};
use crate::memory::system_memory;
use crate::model::{CausalModel, StopSet};
use crate::train::{
    AdamW, AdamWSettings, DataParallel, Lanes, LossAndGradients, Optimizer, Schedule, loss_and_gradients,
};

/// How a run prepares its data, attaches adapters, trains, generates, saves and fuses.
pub trait Workflow {
    /// The examples as they are trained on.
    fn prepare(&self, dataset: Dataset, _stop_set: &StopSet) -> Dataset {
        dataset
    }

    /// Bytes of memory that training may use; `None` when the system does not tell.
    fn available_memory(&self) -> Option<u64> {
        system_memory().map(|memory| memory.available)
    }

    /// Freezes the base and adds adapters.
    fn attach_adapters(&self, model: &mut CausalModel, settings: &LoraSettings, seed: u64) -> Result<(), AttachError> {
        attach(model, settings, seed).map(drop)
    }

    /// The optimizer.
    fn optimizer(&self, settings: AdamWSettings) -> Box<dyn Optimizer> {
        Box::new(AdamW::new(settings))
    }

    /// The learning rate of each step.
    fn schedule(&self, schedule: Schedule) -> Schedule {
        schedule
    }

    /// The processes that make the same updates; `None` leaves them as they are.
    fn among<'others>(&self, _others: &'others dyn DataParallel) -> Option<Box<dyn DataParallel + 'others>> {
        None
    }

    /// The loss of a batch and its gradient for every trainable parameter.
    fn loss_and_gradients(
        &self,
        model: &CausalModel,
        batch: &Batch,
        lanes: &Lanes,
    ) -> Result<LossAndGradients, Exception> {
        loss_and_gradients(model, batch, lanes)
    }

    /// The model that answers after training; `before` is the model as training found it.
    fn model_for_generation(&self, trained: &CausalModel, _before: &CausalModel) -> CausalModel {
        trained.clone()
    }

    /// The tokens that end an answer.
    fn stop_ids(&self, stop_set: &StopSet) -> BTreeSet<u32> {
        stop_set.ids().into_iter().collect()
    }

    /// Writes the adapter to `folder` and returns the number of tensors written.
    fn save_adapter(
        &self,
        model: &CausalModel,
        settings: &LoraSettings,
        model_name: &str,
        folder: &Path,
    ) -> Result<usize, AdapterFileError> {
        save_adapter(model, settings, model_name, folder)
    }

    /// Loads the adapter in `folder` onto the base and returns the settings it was loaded with.
    fn load_adapter(&self, base: &mut CausalModel, folder: &Path) -> Result<LoraSettings, AdapterFileError> {
        load_adapter(base, folder)
    }

    /// Adds every adapter to its layer's weight and returns the number of layers fused.
    fn fuse(&self, model: &mut CausalModel) -> Result<usize, Exception> {
        fuse(model)
    }
}

/// Every step done as it should be.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReferenceWorkflow;

impl Workflow for ReferenceWorkflow {}
