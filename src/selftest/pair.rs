use std::collections::BTreeSet;
use std::path::Path;

use mlx_rs::error::Exception;

use crate::adapter::{AdapterFileError, AttachError, LoraSettings};
use crate::data::{Batch, Dataset};
use crate::diagnosis::DiagnosisOptions;
use crate::faults::{Fault, FaultError, RunFiles};
use crate::model::{CausalModel, StopSet};
use crate::train::{AdamWSettings, Lanes, LossAndGradients, Optimizer, Schedule};
use crate::workflow::Workflow;

/// Two faults at once: one that may act on any step, and one that acts on settings, files, rows or memory.
pub struct Pair {
    /// The one whose steps are used.
    pub first: Box<dyn Fault>,
    /// The one whose inputs are used after those of the first.
    pub on_inputs: Box<dyn Fault>,
}

impl Fault for Pair {
    fn alter(&self, options: &mut DiagnosisOptions, files: &RunFiles) -> Result<(), FaultError> {
        self.first.alter(options, files)?;
        self.on_inputs.alter(options, files)
    }
}

impl Workflow for Pair {
    fn prepare(&self, dataset: Dataset, stop_set: &StopSet) -> Dataset {
        self.on_inputs.prepare(self.first.prepare(dataset, stop_set), stop_set)
    }

    fn available_memory(&self) -> Option<u64> {
        match (self.first.available_memory(), self.on_inputs.available_memory()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    fn attach_adapters(&self, model: &mut CausalModel, settings: &LoraSettings, seed: u64) -> Result<(), AttachError> {
        self.first.attach_adapters(model, settings, seed)
    }

    fn optimizer(&self, settings: AdamWSettings) -> Box<dyn Optimizer> {
        self.first.optimizer(settings)
    }

    fn schedule(&self, schedule: Schedule) -> Schedule {
        self.first.schedule(schedule)
    }

    fn loss_and_gradients(
        &self,
        model: &CausalModel,
        batch: &Batch,
        lanes: &Lanes,
    ) -> Result<LossAndGradients, Exception> {
        self.first.loss_and_gradients(model, batch, lanes)
    }

    fn model_for_generation(&self, trained: &CausalModel, before: &CausalModel) -> CausalModel {
        self.first.model_for_generation(trained, before)
    }

    fn stop_ids(&self, stop_set: &StopSet) -> BTreeSet<u32> {
        self.first.stop_ids(stop_set)
    }

    fn save_adapter(
        &self,
        model: &CausalModel,
        settings: &LoraSettings,
        model_name: &str,
        folder: &Path,
    ) -> Result<usize, AdapterFileError> {
        self.first.save_adapter(model, settings, model_name, folder)
    }

    fn load_adapter(&self, base: &mut CausalModel, folder: &Path) -> Result<LoraSettings, AdapterFileError> {
        self.first.load_adapter(base, folder)
    }

    fn fuse(&self, model: &mut CausalModel) -> Result<usize, Exception> {
        self.first.fuse(model)
    }
}
