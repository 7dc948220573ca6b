use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use mlx_rs::Array;
use safetensors::tensor::Metadata;
use thiserror::Error;

/// Largest header that is read, as the safetensors format itself limits it.
const LARGEST_HEADER: u64 = 100_000_000;
/// Bytes that are written to find out why MLX could not: more than a block that a full disk may still have.
const MORE: usize = 1 << 13;

/// Why a safetensors file could not be read or written.
#[derive(Debug, Error)]
pub enum WeightFileError {
    /// The system refused.
    #[error("weight file `{}` cannot be used\n  found: {source}\n  hint: check that the file exists and can be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The header is not a safetensors header.
    #[error("`{}` is not a safetensors file\n  found: {found}\n  hint: download or export the file again", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// The file ends before its last tensor, or goes on after it.
    #[error("`{}` is not whole\n  found: {found} bytes\n  expected: {expected} bytes, by its own header\n  hint: download or export the file again", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes in the file.
        found: u64,
        /// Bytes that the header calls for.
        expected: u64,
    },
    /// The file is no whole archive of tensors, or one that was made to do harm.
    #[error("`{}` is not a usable archive of tensors\n  found: {found}\n  hint: download or export the file again", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// A torch file holds something besides names and tensors.
    #[error("`{}` does not hold tensors alone\n  found: {found}\n  expected: a state dict, which maps names to tensors\n  hint: {}", path.display(), resave(path))]
    NotStateDict {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// A torch file from before torch 1.6.
    #[error("`{}` is a torch file of the old kind\n  found: a plain pickle\n  expected: the zip archive that torch 1.6 and later write\n  hint: {}", path.display(), resave(path))]
    LegacyTorch {
        /// The file.
        path: PathBuf,
    },
    /// The system did not let it be written.
    #[error("`{}` cannot be written\n  found: {source}\n  hint: {}", path.display(), writing_hint(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// MLX refused.
    #[error("MLX cannot use `{}`\n  found: {message}\n  hint: download or export the file again", path.display())]
    Mlx {
        /// The file.
        path: PathBuf,
        /// What MLX said.
        message: String,
    },
}

/// How to make a file of tensors alone; torch refuses to run code with `weights_only`.
fn resave(path: &Path) -> String {
    format!(
        "if you trust it: `python3 -c \"import sys, torch; from safetensors.torch import save_file; state = \
         torch.load(sys.argv[1], map_location='cpu', weights_only=True); save_file({{name: value.contiguous().clone() for name, \
         value in state.get('state_dict', state).items()}}, sys.argv[2])\" {} model.safetensors`",
        path.display()
    )
}

fn writing_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space there, or write to another disk",
        _ => "check that the folder exists and can be written to",
    }
}

impl From<std::io::Error> for WeightFileError {
    fn from(source: std::io::Error) -> Self {
        Self::Io {
            path: PathBuf::new(),
            source,
        }
    }
}

/// Reads every tensor of a safetensors file into memory, sorted by name.
///
/// The header and the file's length are checked first: MLX would find a cut file only when a tensor is used.
pub fn load_safetensors(path: &Path) -> Result<BTreeMap<String, Array>, WeightFileError> {
    check_whole(path)?;
    let mlx_error = |message: String| WeightFileError::Mlx {
        path: path.to_owned(),
        message,
    };
    let tensors = Array::load_safetensors(path).map_err(|error| mlx_error(error.to_string()))?;
    let tensors: BTreeMap<String, Array> = tensors.into_iter().collect();
    // Loading is lazy; read now so that the file may be replaced or removed afterwards.
    mlx_rs::transforms::eval(tensors.values()).map_err(|error| mlx_error(error.what().to_owned()))?;
    Ok(tensors)
}

/// Writes tensors to a safetensors file, in order of their names.
pub fn save_safetensors(
    tensors: &BTreeMap<String, Array>,
    metadata: Option<&BTreeMap<String, String>>,
    path: &Path,
) -> Result<(), WeightFileError> {
    let metadata: Option<HashMap<String, String>> = metadata.map(|metadata| metadata.clone().into_iter().collect());
    Array::save_safetensors(tensors, metadata.as_ref(), path).map_err(|error| unwritten(path, error.to_string()))?;
    check_whole(path)
}

/// MLX does not say why the system refused to write; trying to write more to the file does.
fn unwritten(path: &Path, message: String) -> WeightFileError {
    let more = OpenOptions::new()
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(&[0; MORE]));
    let path = path.to_owned();
    match more {
        Err(source) => WeightFileError::Write { path, source },
        Ok(()) => WeightFileError::Mlx { path, message },
    }
}

/// A tensor as the header of its file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredShape {
    /// Element type in the format's own letters, for example `BF16`.
    pub dtype: String,
    /// Sizes, the outermost first.
    pub shape: Vec<usize>,
}

/// The tensors that the header of a safetensors file names, sorted by name.
pub fn stored_shapes(path: &Path) -> Result<BTreeMap<String, StoredShape>, WeightFileError> {
    let header = whole_header(path)?;
    let described = header.tensors().into_iter().map(|(name, info)| {
        let stored = StoredShape {
            dtype: info.dtype.to_string(),
            shape: info.shape.clone(),
        };
        (name, stored)
    });
    Ok(described.collect())
}

/// Whether MLX wrote a safetensors file, by its header: then the names in it are those of mlx-lm's own modules.
pub fn is_written_by_mlx(path: &Path) -> Result<bool, WeightFileError> {
    let header = whole_header(path)?;
    let format = header.metadata().as_ref().and_then(|metadata| metadata.get("format"));
    Ok(format.is_some_and(|format| format == "mlx"))
}

/// Reads the header of a safetensors file and compares the file's length with it.
pub fn check_whole(path: &Path) -> Result<(), WeightFileError> {
    whole_header(path).map(drop)
}

fn whole_header(path: &Path) -> Result<Metadata, WeightFileError> {
    let io_error = |source| WeightFileError::Io {
        path: path.to_owned(),
        source,
    };
    let header_error = |found: String| WeightFileError::Header {
        path: path.to_owned(),
        found,
    };
    let mut file = File::open(path).map_err(io_error)?;
    let length = file.metadata().map_err(io_error)?.len();
    let mut prefix = [0_u8; 8];
    file.read_exact(&mut prefix)
        .map_err(|_| header_error(format!("a file of {length} bytes, too short for a header")))?;
    let header_length = u64::from_le_bytes(prefix);
    if header_length > LARGEST_HEADER || header_length + 8 > length {
        return Err(header_error(format!(
            "a header of {header_length} bytes in a file of {length} bytes"
        )));
    }
    let mut header = vec![0_u8; header_length as usize];
    file.read_exact(&mut header).map_err(io_error)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| header_error(error.to_string()))?;
    // A tensor without values may have any sides, and MLX, whose sizes are of 32 bits, would cut them.
    let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
    tensors.sort_unstable_by(|(first, _), (second, _)| first.cmp(second));
    let too_large = |shape: &[usize]| shape.iter().any(|&size| i32::try_from(size).is_err());
    if let Some((name, tensor)) = tensors.iter().find(|(_, tensor)| too_large(&tensor.shape)) {
        return Err(header_error(format!(
            "`{name}` of {:?}, more than MLX takes",
            tensor.shape
        )));
    }
    let expected = 8 + header_length + metadata.data_len() as u64;
    if length == expected {
        Ok(metadata)
    } else {
        Err(WeightFileError::Length {
            path: path.to_owned(),
            found: length,
            expected,
        })
    }
}
