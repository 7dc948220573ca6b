//! Writes model folders as mlx-lm reads them: under a temporary name until they are whole and were tried.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mlx_rs::Array;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::problem::Problem;
use super::{GgufHeader, ModelFiles, SamplePassError, TokenizerError, WeightFileError, save_safetensors};
use crate::atomic_write::{UnfinishedFolder, write_file};

/// Files that hold weights in some format; the new ones take their place.
const WEIGHT_EXTENSIONS: [&str; 9] = [
    "bin",
    "gguf",
    "h5",
    "msgpack",
    "npz",
    "onnx",
    "pt",
    "pth",
    "safetensors",
];
/// End of the name of a file that lists shards.
const SHARD_INDEX: &str = ".index.json";

/// Why a model folder could not be written.
#[derive(Debug, Error)]
pub enum WriteFolderError {
    /// The target exists.
    #[error("`{}` exists already\n  hint: name a new folder for the model", target.display())]
    TargetExists {
        /// The target.
        target: PathBuf,
    },
    /// The weights could not be written.
    #[error(transparent)]
    WeightFile(#[from] WeightFileError),
    /// The tokenizer of a GGUF file could not be written.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The metadata of a GGUF file is unusable.
    #[error("the metadata of `{}` is unusable\n  {problem}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The written model does not compute.
    #[error(transparent)]
    SamplePass(#[from] SamplePassError),
    /// The system refused.
    #[error("cannot use `{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A target that exists is left as it is.
///
/// # Errors
/// [`WriteFolderError::TargetExists`].
pub(super) fn refuse_existing(target: &Path) -> Result<(), WriteFolderError> {
    match target.symlink_metadata() {
        Ok(_) => Err(WriteFolderError::TargetExists {
            target: target.to_owned(),
        }),
        Err(_) => Ok(()),
    }
}

/// Writes the new folder `target`: `model.safetensors` with `tensors`, `config.json` with `fields`, and the other files
/// of the model `files`, but not weights in other formats, hidden files or sub-folders. The tokenizer of a GGUF file
/// becomes `tokenizer.json`, `tokenizer_config.json` and `generation_config.json`.
///
/// `try_out` is shown the folder before it gets its name, and can refuse it.
///
/// # Errors
/// See [`WriteFolderError`]; `target` is not there unless it is whole.
pub fn write_model_folder<T>(
    files: &ModelFiles,
    fields: Map<String, Value>,
    tensors: &BTreeMap<String, Array>,
    target: &Path,
    try_out: impl FnOnce(&Path) -> Result<T, SamplePassError>,
) -> Result<T, WriteFolderError> {
    refuse_existing(target)?;
    let folder = UnfinishedFolder::for_target(target).map_err(io_error(target))?;
    match files {
        ModelFiles::Folder(source) => copy_other_files(source, folder.path())?,
        ModelFiles::Gguf(header) => write_tokenizer(files, header, folder.path())?,
    }
    write_json(&folder.path().join("config.json"), &fields.into())?;
    let metadata = BTreeMap::from([("format".to_owned(), "mlx".to_owned())]);
    save_safetensors(tensors, Some(&metadata), &folder.path().join("model.safetensors"))?;
    let tried = try_out(folder.path())?;
    folder.finish().map_err(io_error(target))?;
    Ok(tried)
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> WriteFolderError {
    let path = path.to_owned();
    move |source| WriteFolderError::Io { path, source }
}

fn write_json(path: &Path, value: &Value) -> Result<(), WriteFolderError> {
    write_file(path, format!("{value:#}\n").as_bytes()).map_err(io_error(path))
}

fn copy_other_files(source: &Path, target: &Path) -> Result<(), WriteFolderError> {
    for entry in fs::read_dir(source).map_err(io_error(source))? {
        let entry = entry.map_err(io_error(source))?;
        let path = entry.path();
        let is_file = fs::metadata(&path).map_err(io_error(&path))?.is_file();
        if is_file && !is_replaced(&path) {
            fs::copy(&path, target.join(entry.file_name())).map_err(io_error(&path))?;
        }
    }
    Ok(())
}

/// Whether the new folder has its own form of the file, or none.
fn is_replaced(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let holds_weights = path
        .extension()
        .is_some_and(|extension| WEIGHT_EXTENSIONS.iter().any(|known| extension == *known));
    holds_weights || name == "config.json" || name.ends_with(SHARD_INDEX) || name.starts_with('.')
}

/// The tokenizer of a GGUF file in the files of Hugging Face.
fn write_tokenizer(files: &ModelFiles, header: &GgufHeader, folder: &Path) -> Result<(), WriteFolderError> {
    let tokenizer = files.tokenizer()?;
    let path = folder.join("tokenizer.json");
    write_file(&path, tokenizer.definition()?.as_bytes()).map_err(io_error(&path))?;
    let text_of = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id));
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "bos_token": text_of(tokenizer.bos_id()),
        "eos_token": text_of(tokenizer.eos_id()),
    });
    let template = |key: &str| {
        header.text(key).map_err(|problem| WriteFolderError::Metadata {
            path: header.path.clone(),
            problem,
        })
    };
    settings["chat_template"] = match (
        template("tokenizer.chat_template")?,
        template("tokenizer.chat_template.tool_use")?,
    ) {
        (default, None) => default.into(),
        (default, Some(tool_use)) => json!([
            {"name": "default", "template": default.unwrap_or(tool_use)},
            {"name": "tool_use", "template": tool_use},
        ]),
    };
    write_json(&folder.join("tokenizer_config.json"), &settings)?;
    let mut ends: Vec<u32> = tokenizer.declared_ends().iter().map(|end| end.id).collect();
    ends.sort_unstable();
    ends.dedup();
    write_json(&folder.join("generation_config.json"), &json!({"eos_token_id": ends}))
}
