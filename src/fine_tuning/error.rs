use std::path::PathBuf;

use mlx_rs::error::Exception;
use thiserror::Error;

use super::checkpoint::CheckpointError;
use super::metrics::MetricsError;
use crate::adapter::AdapterFileError;
use crate::data::BatchesError;
use crate::distributed::AgreementError;
use crate::model::{ConvertModelError, WeightFileError, WriteFolderError};
use crate::train::{RestoreError, TrainError};

/// Why a run failed.
#[derive(Debug, Error)]
pub enum FineTuningError {
    /// MLX failed.
    #[error("training failed: {}", .0.what())]
    Mlx(#[from] Exception),
    /// A step failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The processes of the run do not begin alike.
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    /// A checkpoint could not be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint's place in the data is not one in this data.
    #[error(transparent)]
    Batches(#[from] BatchesError),
    /// The checkpoint's optimizer is another one.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A line of figures could not be written.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The adapter could not be saved.
    #[error(transparent)]
    Adapter(#[from] AdapterFileError),
    /// Weights could not be saved.
    #[error(transparent)]
    Weights(#[from] WeightFileError),
    /// The trained model could not be described.
    #[error(transparent)]
    Describe(#[from] ConvertModelError),
    /// The trained model could not be written.
    #[error(transparent)]
    Model(#[from] WriteFolderError),
    /// A file could not be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A number was not finite, and no guard was to say why.
    #[error(
        "training cannot go on\n  found: {what} in update {step}, which changed nothing\n  hint: leave out `--no-guards` to read why, or lower `--learning-rate` or `--lora-scale`"
    )]
    NotFinite {
        /// The update, counted from 1.
        step: usize,
        /// What is not finite.
        what: &'static str,
    },
    /// A checkpoint has other parameters than the model.
    #[error("the checkpoint does not fit the model\n  found: {found}\n  expected: the values that this run trains")]
    OtherParameters {
        /// The first parameter that is missing, unused or of another shape.
        found: String,
    },
}
