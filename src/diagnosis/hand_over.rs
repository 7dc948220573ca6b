use std::path::Path;

use thiserror::Error;

use crate::evidence::CrossCheckWeights;
use crate::model::{LoadedModel, ModelSource, WeightFileError, write_plain_folder};
use crate::temporary_folder::TemporaryFolder;
use crate::torch::{LoadRequest, Worker, WorkerError};

/// Why PyTorch has no model.
#[derive(Debug, Error)]
pub(super) enum HandOverError {
    /// It did not load it.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The weights could not be written for it.
    #[error(transparent)]
    Weights(#[from] WeightFileError),
    /// There is no folder for them.
    #[error("cannot make a folder for the weights: {0}")]
    Folder(#[from] std::io::Error),
}

/// Loads the model in PyTorch: from its own folder where its weights are plain, from what is held here otherwise.
pub(super) fn hand_over(
    loaded: &LoadedModel,
    source: &ModelSource,
    dtype: &str,
    device: &str,
    worker: &mut Worker,
) -> Result<CrossCheckWeights, HandOverError> {
    let mut load = |folder: &Path| worker.load(&LoadRequest { folder, dtype, device });
    match source {
        ModelSource::Folder(folder) if loaded.packings.is_empty() => {
            load(&std::path::absolute(folder)?)?;
            Ok(CrossCheckWeights::ModelFolder)
        }
        ModelSource::Folder(_) | ModelSource::Gguf(_) => {
            let folder = TemporaryFolder::new()?;
            write_plain_folder(&loaded.model, &loaded.configuration, folder.path())?;
            load(folder.path())?;
            Ok(CrossCheckWeights::HandedOver)
        }
    }
}
