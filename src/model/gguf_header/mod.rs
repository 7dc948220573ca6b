//! Reads the header of a GGUF file: typed metadata and the table of tensors.
//!
//! Nothing the file claims is believed: counts and lengths are checked against the bytes that are left before anything
//! is allocated, and every tensor must lie inside the file. Tensor data is not read.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian.

mod error;
mod reader;
mod tensor_type;
mod value;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use error::GgufError;
pub use tensor_type::GgufTensorType;
pub use value::{GgufArray, GgufValue};

use super::problem::Problem;
use reader::HeaderReader;

/// One entry of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Name in the file, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Shape in MLX's order: the innermost dimension last, so a matrix is `[rows, columns]`.
    pub shape: Vec<usize>,
    /// How the values are stored.
    pub tensor_type: GgufTensorType,
    /// Where the data lies, in bytes from the start of the file.
    pub byte_range: Range<u64>,
}

impl GgufTensor {
    /// Number of values.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The header of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufHeader {
    /// The file it was read from.
    pub path: PathBuf,
    /// 2 or 3.
    pub version: u32,
    /// Metadata, sorted by key.
    pub metadata: BTreeMap<String, GgufValue>,
    /// Tensors in the order of the file.
    pub tensors: Vec<GgufTensor>,
}

impl GgufHeader {
    /// Reads and checks the header of the file at `path`.
    ///
    /// # Errors
    /// See [`GgufError`]; every tensor that is outside the file, misplaced or of an unsupported type is listed.
    pub fn read(path: &Path) -> Result<Self, GgufError> {
        let read_error = |source| GgufError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read_error)?;
        let size = file.metadata().map_err(read_error)?.len();
        HeaderReader::new(path, BufReader::new(file), size).header()
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The stored bytes of one of this file's tensors.
    ///
    /// # Errors
    /// [`GgufError::Read`] when the file has gone or shrunk since its header was read.
    pub fn tensor_bytes(&self, tensor: &GgufTensor) -> Result<Vec<u8>, GgufError> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(tensor.byte_range.start))?;
            let length = usize::try_from(tensor.byte_range.end - tensor.byte_range.start).map_err(io::Error::other)?;
            let mut bytes = vec![0; length];
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|source| GgufError::Read {
            path: self.path.clone(),
            source,
        })
    }

    /// A non-negative integer; `None` when the key is absent.
    ///
    /// # Errors
    /// A [`Problem`] when the value is something else.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, Problem> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Unsigned(value)) => Ok(Some(*value)),
            Some(GgufValue::Signed(value)) if *value >= 0 => Ok(Some(value.unsigned_abs())),
            Some(other) => Err(Problem::new(key, other.describe(), "a non-negative integer")),
        }
    }

    /// A number; `None` when the key is absent. A single is read as the shortest decimal that stands for it, so that
    /// 1e-5 stays 1e-5.
    ///
    /// # Errors
    /// A [`Problem`] when the value is something else.
    pub fn float(&self, key: &str) -> Result<Option<f64>, Problem> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Float32(value)) => Ok(Some(shortest_decimal(*value))),
            Some(GgufValue::Float64(value)) => Ok(Some(*value)),
            Some(other) => Err(Problem::new(key, other.describe(), "a number")),
        }
    }

    /// A truth value; `None` when the key is absent.
    ///
    /// # Errors
    /// A [`Problem`] when the value is something else.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, Problem> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Boolean(value)) => Ok(Some(*value)),
            Some(other) => Err(Problem::new(key, other.describe(), "true or false")),
        }
    }

    /// A text; `None` when the key is absent.
    ///
    /// # Errors
    /// A [`Problem`] when the value is something else.
    pub fn text(&self, key: &str) -> Result<Option<&str>, Problem> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Text(value)) => Ok(Some(value)),
            Some(other) => Err(Problem::new(key, other.describe(), "a text")),
        }
    }

    /// An array of texts; `None` when the key is absent.
    ///
    /// # Errors
    /// A [`Problem`] when the value is something else.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, Problem> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Array(GgufArray::Text(values))) => Ok(Some(values)),
            Some(other) => Err(Problem::new(key, other.describe(), "an array of texts")),
        }
    }

    /// An array of non-negative integers; `None` when the key is absent.
    ///
    /// # Errors
    /// A [`Problem`] when the value is something else.
    pub fn unsigned_array(&self, key: &str) -> Result<Option<Vec<u64>>, Problem> {
        let expected = "an array of non-negative integers";
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Array(GgufArray::Unsigned(values))) => Ok(Some(values.clone())),
            Some(GgufValue::Array(GgufArray::Signed(values))) => values
                .iter()
                .map(|&value| u64::try_from(value).map_err(|_| Problem::new(key, value.to_string(), expected)))
                .collect::<Result<_, _>>()
                .map(Some),
            Some(other) => Err(Problem::new(key, other.describe(), expected)),
        }
    }
}

fn shortest_decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
