use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use thiserror::Error;

use super::{
    BuildError, CausalModel, Checkpoint, CheckpointError, ConfigurationError, GgufError, GgufHeader,
    ModelConfiguration, Packing, Precision, build_model, check_shards,
};

/// Where a model lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder in Hugging Face's or mlx-lm's layout.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
}

/// Why a model could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The configuration is absent, broken or impossible.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// The GGUF file is broken.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The weights are absent, broken or do not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model could not be put together.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// A model in memory.
#[derive(Debug, Clone)]
pub struct LoadedModel {
    /// The decoder.
    pub model: CausalModel,
    /// What the files say about it.
    pub configuration: ModelConfiguration,
    /// How each module was packed in the files, also when it is held in plain form.
    pub packings: BTreeMap<String, Packing>,
    /// Seconds to load.
    pub seconds: f64,
}

impl ModelSource {
    /// The configuration alone.
    pub fn configuration(&self) -> Result<ModelConfiguration, LoadError> {
        Ok(match self {
            Self::Folder(folder) => ModelConfiguration::read(&folder.join("config.json"))?,
            Self::Gguf(path) => ModelConfiguration::from_gguf(&GgufHeader::read(path)?)?,
        })
    }

    /// Checks that every weight file is there and whole, without reading more than headers.
    pub fn check_files(&self) -> Result<(), LoadError> {
        match self {
            Self::Folder(folder) => check_shards(folder)?,
            Self::Gguf(path) => drop(GgufHeader::read(path)?),
        }
        Ok(())
    }

    /// Loads the model.
    pub fn load(&self, precision: Precision) -> Result<LoadedModel, LoadError> {
        let started = Instant::now();
        let (configuration, checkpoint) = match self {
            Self::Folder(folder) => {
                let configuration = ModelConfiguration::read(&folder.join("config.json"))?;
                let checkpoint = Checkpoint::from_folder(folder, &configuration, precision)?;
                (configuration, checkpoint)
            }
            Self::Gguf(path) => {
                let header = GgufHeader::read(path)?;
                let configuration = ModelConfiguration::from_gguf(&header)?;
                let checkpoint = Checkpoint::from_gguf(&header, &configuration, precision)?;
                (configuration, checkpoint)
            }
        };
        let packings = checkpoint.packings.clone();
        Ok(LoadedModel {
            model: build_model(&configuration, checkpoint)?,
            configuration,
            packings,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// The folder or file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Gguf(path) => path,
        }
    }
}
