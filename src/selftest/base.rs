use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::embedded;
use crate::model::{PackFolderError, Packing, pack_folder};
use crate::temporary_folder::TemporaryFolder;

/// How packed bases are packed, as `mlx_lm.convert -q` does.
const PACKING: Packing = Packing::affine(64, 4);

/// The tiny chat models that the program carries, one for each architecture (`scripts/embedded/train` makes them).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TinyModel {
    /// Tied output, no biases.
    Llama,
    /// Biases on queries, keys and values.
    Qwen2,
    /// Norms on queries and keys, grouped queries, an output layer of its own.
    Qwen3,
}

impl TinyModel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Llama, Self::Qwen2, Self::Qwen3];

    /// The architecture's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    fn files(self) -> &'static [(&'static str, &'static [u8])] {
        match self {
            Self::Llama => &embedded::MODEL,
            Self::Qwen2 => &QWEN2,
            Self::Qwen3 => &QWEN3,
        }
    }
}

macro_rules! model_files {
    ($folder:literal) => {
        model_files!($folder, "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    };
    ($folder:literal, $($name:literal),+) => {
        [$(($name, include_bytes!(concat!("../../fixtures/", $folder, "/", $name)).as_slice())),+]
    };
}

static QWEN2: [(&str, &[u8]); 5] = model_files!("selftest/qwen2");
static QWEN3: [(&str, &[u8]); 5] = model_files!("selftest/qwen3");

/// A model or its data could not be laid out for a run.
#[derive(Debug, Error)]
pub enum LayOutError {
    /// The system refused.
    #[error("cannot lay out the files of a run: {0}")]
    Io(#[from] std::io::Error),
    /// A base could not be packed.
    #[error(transparent)]
    Pack(#[from] PackFolderError),
}

/// The bases on disk; removed when dropped.
#[derive(Debug)]
pub struct Bases {
    folder: TemporaryFolder,
}

impl Bases {
    /// Writes every base, plain and packed.
    ///
    /// # Errors
    /// [`LayOutError`] when the files cannot be written.
    pub fn unpack() -> Result<Self, LayOutError> {
        let folder = TemporaryFolder::new()?;
        let bases = Self { folder };
        for model in TinyModel::ALL {
            let dense = bases.path(model, false);
            fs::create_dir(&dense)?;
            for (name, contents) in model.files() {
                fs::write(dense.join(name), contents)?;
            }
            pack_folder(&dense, &bases.path(model, true), PACKING)?;
        }
        Ok(bases)
    }

    fn path(&self, model: TinyModel, packed: bool) -> PathBuf {
        let form = if packed { "4bit" } else { "dense" };
        self.folder.path().join(format!("{}-{form}", model.name()))
    }

    /// Copies a base to the new folder `target`.
    ///
    /// # Errors
    /// [`LayOutError`] when the files cannot be copied.
    pub fn copy(&self, model: TinyModel, packed: bool, target: &Path) -> Result<(), LayOutError> {
        fs::create_dir(target)?;
        for entry in fs::read_dir(self.path(model, packed))? {
            let entry = entry?;
            fs::copy(entry.path(), target.join(entry.file_name()))?;
        }
        Ok(())
    }
}
