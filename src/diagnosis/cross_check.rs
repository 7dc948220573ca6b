use std::time::Instant;

use thiserror::Error;

use super::DiagnosisOptions;
use super::hand_over::{HandOverError, hand_over};
use crate::data::{Batches, Dataset};
use crate::device::{Backend, dtype_name};
use crate::evidence::{CrossCheckEvidence, Slot};
use crate::interrupt::Interrupt;
use crate::model::{LoadedModel, Precision};
use crate::probes::cross_check::{CrossCheckError, CrossCheckProbe};
use crate::python::Python;
use crate::torch::{Worker, WorkerError};

/// Why the two could not be compared.
#[derive(Debug, Error)]
enum CompareError {
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    #[error(transparent)]
    Probe(#[from] CrossCheckError),
}

/// The run whose model is computed twice.
pub(super) struct CrossCheck<'run> {
    pub(super) options: &'run DiagnosisOptions,
    pub(super) backend: Backend,
    pub(super) precision: Precision,
    pub(super) loaded: &'run LoadedModel,
    pub(super) dataset: &'run Dataset,
    pub(super) interrupt: &'run Interrupt,
}

impl CrossCheck<'_> {
    /// Compares this program with PyTorch on the first batch; that PyTorch is not there is a failure, as it was asked for.
    pub(super) fn measure(&self, python: &Python) -> Slot<CrossCheckEvidence> {
        match self.compare(python) {
            Ok(measured) => Slot::Ran(measured),
            Err(
                CompareError::Worker(WorkerError::Interrupted)
                | CompareError::HandOver(HandOverError::Worker(WorkerError::Interrupted))
                | CompareError::Probe(CrossCheckError::Worker(WorkerError::Interrupted)),
            ) => Slot::skipped("interrupted"),
            Err(error) => Slot::crashed(error),
        }
    }

    fn compare(&self, python: &Python) -> Result<CrossCheckEvidence, CompareError> {
        let options = self.options;
        let vocabulary = self.loaded.configuration.vocab_size;
        // MLX would read beyond the embedding table without a word.
        let usable: Vec<_> = self
            .dataset
            .examples
            .iter()
            .filter(|example| example.tokens.iter().all(|&id| (id as usize) < vocabulary))
            .cloned()
            .collect();
        let batch = Batches::new(&usable, options.batch_size, options.seed)
            .next()
            .ok_or(CrossCheckError::NothingSupervised)?;
        let started = Instant::now();
        let mut worker = Worker::start(python, self.interrupt)?;
        let device = worker.greeting().devices.first().cloned().unwrap_or_default();
        let dtype = dtype_name(self.precision.dtype);
        let weights = hand_over(self.loaded, &options.source, dtype, &device, &mut worker)?;
        let probe = CrossCheckProbe {
            base: &self.loaded.model,
            weights,
            device: &device,
            batch: &batch,
            lanes: &self.backend.lanes(),
            seed: options.seed,
        };
        Ok(probe.measure(&mut worker, started)?)
    }
}
