use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use thiserror::Error;

use super::{
    BuildError, CausalModel, Checkpoint, CheckpointError, ConfigurationError, ForeignPacking, GgufError, GgufHeader,
    ModelConfiguration, Packing, Precision, Tokenizer, TokenizerError, build_model, check_shards,
};
use crate::evidence::Listing;

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
    /// The weights are packed in another library's way.
    #[error(transparent)]
    ForeignPacking(#[from] ForeignPacking),
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
    /// The element type of most plain values in the files; for a GGUF file the type of most values.
    pub stored_dtype: String,
    /// Tensors of the files that are no weights of the model, each with the reason why it was left out.
    pub set_aside: BTreeMap<String, &'static str>,
    /// Seconds to load.
    pub seconds: f64,
}

impl LoadedModel {
    /// What the files declare and hold that is treated in a way of its own, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut by_reason: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
        for (name, reason) in &self.set_aside {
            by_reason.entry(reason).or_default().push(name);
        }
        let left_out = by_reason.into_iter().map(|(reason, names)| {
            let names: Listing = names.into_iter().collect();
            format!("left out of the files, since they are no weights: {names} ({reason})")
        });
        self.configuration.notes().into_iter().chain(left_out).collect()
    }
}

impl ModelSource {
    /// Opens the files: the header of a GGUF file is read and checked.
    pub fn open(&self) -> Result<ModelFiles, LoadError> {
        Ok(match self {
            Self::Folder(folder) => match ForeignPacking::of_folder(folder) {
                Some(packing) => return Err(packing.into()),
                None => ModelFiles::Folder(folder.clone()),
            },
            Self::Gguf(path) => ModelFiles::Gguf(Box::new(GgufHeader::read(path)?)),
        })
    }

    /// Loads the model.
    pub fn load(&self, precision: Precision) -> Result<LoadedModel, LoadError> {
        let files = self.open()?;
        files.load(files.configuration()?, precision)
    }

    /// The folder or file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Gguf(path) => path,
        }
    }
}

/// The files of a model, from which configuration, tokenizer and weights are read one by one.
#[derive(Debug, Clone)]
pub enum ModelFiles {
    /// A folder in Hugging Face's or mlx-lm's layout.
    Folder(PathBuf),
    /// The header of a GGUF file.
    Gguf(Box<GgufHeader>),
}

impl ModelFiles {
    /// What the files say about the model.
    pub fn configuration(&self) -> Result<ModelConfiguration, ConfigurationError> {
        match self {
            Self::Folder(folder) => ModelConfiguration::read(&folder.join("config.json")),
            Self::Gguf(header) => ModelConfiguration::from_gguf(header),
        }
    }

    /// Checks that every weight file is there and whole, without reading more than headers.
    pub fn check_weights(&self) -> Result<(), CheckpointError> {
        match self {
            Self::Folder(folder) => check_shards(folder),
            // The header was checked against the file when it was opened.
            Self::Gguf(_) => Ok(()),
        }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        match self {
            Self::Folder(folder) => Tokenizer::from_folder(folder),
            Self::Gguf(header) => Tokenizer::from_gguf(header),
        }
    }

    /// The folder or file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder,
            Self::Gguf(header) => &header.path,
        }
    }

    /// The tensors that `configuration` describes, checked against it.
    pub fn checkpoint(
        &self,
        configuration: &ModelConfiguration,
        precision: Precision,
    ) -> Result<Checkpoint, CheckpointError> {
        match self {
            Self::Folder(folder) => Checkpoint::from_folder(folder, configuration, precision),
            Self::Gguf(header) => Checkpoint::from_gguf(header, configuration, precision),
        }
    }

    /// Loads the weights that `configuration` describes and makes the model of them.
    pub fn load(&self, configuration: ModelConfiguration, precision: Precision) -> Result<LoadedModel, LoadError> {
        let started = Instant::now();
        let mut checkpoint = self.checkpoint(&configuration, precision)?;
        let packings = std::mem::take(&mut checkpoint.packings);
        let stored_dtype = std::mem::take(&mut checkpoint.stored_dtype);
        let set_aside = std::mem::take(&mut checkpoint.set_aside);
        Ok(LoadedModel {
            model: build_model(&configuration, checkpoint)?,
            configuration,
            packings,
            stored_dtype,
            set_aside,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}
