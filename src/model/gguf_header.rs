//! Reads the header of a GGUF file: typed metadata and the table of tensors.
//!
//! Nothing the file claims is believed: counts and lengths are checked against the bytes that are left before anything
//! is allocated, and every tensor must lie inside the file. Tensor data is not read.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::problem::{Problem, Problems};
use crate::evidence::Listing;

/// Longest header that is read; the largest vocabularies need some 20 MB.
const MAX_HEADER_BYTES: u64 = 256 << 20;
/// Most dimensions a tensor of ggml has.
const MAX_DIMENSIONS: u32 = 4;
/// Deepest nesting of arrays that is read.
const MAX_ARRAY_DEPTH: u32 = 4;
/// Alignment of tensor data when the metadata names none.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Bytes of the smallest metadata entry: a key length, a type and one byte.
const SMALLEST_ENTRY: u64 = 8 + 4 + 1;
/// Bytes of the smallest tensor entry: a name length, a dimension count, one dimension, a type and an offset.
const SMALLEST_TENSOR_ENTRY: u64 = 8 + 4 + 8 + 4 + 8;

/// Why a GGUF file was refused.
#[derive(Debug, Error)]
pub enum GgufError {
    /// The file could not be opened or read.
    #[error("GGUF file `{}` cannot be read\n  found: {source}\n  hint: check that the file exists and can be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not begin with the magic bytes.
    #[error("`{}` is not a GGUF file\n  found: it begins with {found}\n  expected: it begins with `GGUF`", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// The first bytes, as text.
        found: String,
    },
    /// The file's version is not one that is read.
    #[error("GGUF file `{}` has an unsupported version\n  found: {found}\n  expected: version 2 or 3, little-endian\n  hint: convert the model again with a current llama.cpp", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: String,
    },
    /// The file ends inside its header.
    #[error("GGUF file `{}` is truncated: it ends inside {inside}\n  found: {available} bytes left at byte {position}\n  expected: {needed} bytes\n  hint: download the file again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        inside: String,
        /// Where it began, in bytes from the start of the file.
        position: u64,
        /// Bytes needed.
        needed: u64,
        /// Bytes left.
        available: u64,
    },
    /// The header claims something impossible.
    #[error("GGUF file `{}` has an impossible header\n{problems}\n  hint: download the file again", path.display())]
    ImpossibleHeader {
        /// The file.
        path: PathBuf,
        /// What is impossible.
        problems: Problems,
    },
    /// Tensors of the table do not fit the file.
    #[error("GGUF file `{}` does not hold all the tensors of its table\n{problems}\n  hint: download the file again", path.display())]
    ImpossibleTensors {
        /// The file.
        path: PathBuf,
        /// One entry per tensor.
        problems: Problems,
    },
    /// Tensors are packed in formats that are not read.
    #[error("GGUF file `{}` packs tensors in unsupported formats\n  found: {formats}, in {tensors}\n  expected: {supported}\n  hint: use another packing of the same model, for example Q4_K_M, Q8_0 or F16", path.display(), supported = GgufTensorType::names())]
    UnsupportedTypes {
        /// The file.
        path: PathBuf,
        /// The formats with the number of tensors each, sorted by name.
        formats: String,
        /// The tensors.
        tensors: Listing,
    },
    /// Tensors have names that belong to none of the supported architectures.
    #[error("GGUF file `{}` has unknown tensors\n  found: {names}\n  expected: the tensors of a llama, qwen2 or qwen3 model\n  hint: use the folder of the model instead", path.display())]
    UnknownTensors {
        /// The file.
        path: PathBuf,
        /// Their names.
        names: Listing,
    },
    /// A metadata value is absent or has the wrong type.
    #[error("GGUF file `{}` has unusable metadata\n{problems}\n  hint: convert the model again with a current llama.cpp", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// One entry per key.
        problems: Problems,
    },
}

/// How a tensor's values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GgufTensorType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// 4 bits with one scale for 32 values.
    Q4_0,
    /// 4 bits with one scale and one minimum for 32 values.
    Q4_1,
    /// 8 bits with one scale for 32 values.
    Q8_0,
    /// 4 bits in super-blocks of 256 values.
    Q4K,
    /// 6 bits in super-blocks of 256 values.
    Q6K,
}

impl GgufTensorType {
    /// Every type that is read.
    pub const ALL: [Self; 8] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q6K,
    ];

    /// Number that stands for the type in a file (`enum ggml_type`).
    pub fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q6K => 14,
            Self::Bf16 => 30,
        }
    }

    /// Name as ggml writes it, for example `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Values in one block.
    pub fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q6K => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4K => 2 + 2 + 12 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for GgufTensorType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Name of a type that is not read, for the message that refuses it.
fn unsupported_type_name(code: u32) -> String {
    let name = match code {
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        13 => "Q5_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => return format!("type {code}"),
    };
    name.to_owned()
}

/// A metadata value. Integers are widened; their width in the file has no meaning of its own.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// An unsigned integer of 8 to 64 bits.
    Unsigned(u64),
    /// A signed integer of 8 to 64 bits.
    Signed(i64),
    /// A single-precision number.
    Float32(f32),
    /// A double-precision number.
    Float64(f64),
    /// True or false.
    Boolean(bool),
    /// Text.
    Text(String),
    /// Values of one type.
    Array(GgufArray),
}

/// A metadata array. Integers are widened as in [`GgufValue`].
#[derive(Debug, Clone, PartialEq)]
pub enum GgufArray {
    /// Unsigned integers.
    Unsigned(Vec<u64>),
    /// Signed integers.
    Signed(Vec<i64>),
    /// Single-precision numbers.
    Float32(Vec<f32>),
    /// Double-precision numbers.
    Float64(Vec<f64>),
    /// Truth values.
    Boolean(Vec<bool>),
    /// Texts.
    Text(Vec<String>),
    /// Arrays.
    Array(Vec<GgufArray>),
}

impl GgufValue {
    /// The kind and, when short, the value, for messages.
    fn describe(&self) -> String {
        match self {
            Self::Unsigned(value) => format!("the integer {value}"),
            Self::Signed(value) => format!("the integer {value}"),
            Self::Float32(value) => format!("the number {value}"),
            Self::Float64(value) => format!("the number {value}"),
            Self::Boolean(value) => value.to_string(),
            Self::Text(value) => format!("the text `{}`", value.chars().take(40).collect::<String>()),
            Self::Array(_) => "an array".to_owned(),
        }
    }
}

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
        HeaderReader {
            path,
            source: BufReader::new(file),
            position: 0,
            size,
        }
        .header()
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

/// An entry of the tensor table before its type and place are checked.
struct TensorEntry {
    name: String,
    shape: Vec<u64>,
    type_code: u32,
    offset: u64,
}

struct HeaderReader<'path, R> {
    path: &'path Path,
    source: R,
    position: u64,
    size: u64,
}

impl<R: Read> HeaderReader<'_, R> {
    fn header(mut self) -> Result<GgufHeader, GgufError> {
        let magic: [u8; 4] = self.array("the magic bytes")?;
        if &magic != b"GGUF" {
            return Err(GgufError::NotGguf {
                path: self.path.to_owned(),
                found: format!("`{}`", magic.escape_ascii()),
            });
        }
        let version = self.number_u32("the version")?;
        if !matches!(version, 2 | 3) {
            let found = if matches!(version.swap_bytes(), 1..=3) {
                format!("version {}, big-endian", version.swap_bytes())
            } else {
                format!("version {version}")
            };
            return Err(GgufError::UnsupportedVersion {
                path: self.path.to_owned(),
                found,
            });
        }
        let tensor_count = self.number_u64("the number of tensors")?;
        let entry_count = self.number_u64("the number of metadata entries")?;
        self.check_count("number of metadata entries", entry_count, SMALLEST_ENTRY)?;
        self.check_count("number of tensors", tensor_count, SMALLEST_TENSOR_ENTRY)?;

        let mut metadata = BTreeMap::new();
        for index in 0..entry_count {
            let key = self.text(&format!("the key of metadata entry {index}"))?;
            let value = self.value(&key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(self.impossible(Problem::new(key, "the key twice", "each key once")));
            }
        }
        let mut entries = Vec::new();
        for index in 0..tensor_count {
            entries.push(self.tensor_entry(index)?);
        }
        let mut header = GgufHeader {
            path: self.path.to_owned(),
            version,
            metadata,
            tensors: Vec::new(),
        };
        self.refuse_split(&header)?;
        let alignment = self.alignment(&header)?;
        let data_start = self.position.next_multiple_of(alignment);
        self.refuse_unsupported_types(&entries)?;
        header.tensors = self.place_tensors(entries, data_start, alignment)?;
        Ok(header)
    }

    fn refuse_split(&self, header: &GgufHeader) -> Result<(), GgufError> {
        let parts = header
            .unsigned("split.count")
            .map_err(|problem| self.metadata(problem))?;
        match parts {
            Some(parts) if parts > 1 => Err(self.impossible(Problem::new(
                "split.count",
                format!("one of {parts} parts"),
                "a whole model in one file (join the parts with `llama-gguf-split --merge`)",
            ))),
            _ => Ok(()),
        }
    }

    fn alignment(&self, header: &GgufHeader) -> Result<u64, GgufError> {
        let key = "general.alignment";
        let alignment = header
            .unsigned(key)
            .map_err(|problem| self.metadata(problem))?
            .unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || alignment > u64::from(u32::MAX) {
            return Err(self.impossible(Problem::new(key, alignment.to_string(), "a power of two of 32 bits")));
        }
        Ok(alignment)
    }

    fn refuse_unsupported_types(&self, entries: &[TensorEntry]) -> Result<(), GgufError> {
        let mut formats: BTreeMap<String, usize> = BTreeMap::new();
        let mut names = Vec::new();
        for entry in entries {
            if GgufTensorType::from_code(entry.type_code).is_none() {
                *formats.entry(unsupported_type_name(entry.type_code)).or_default() += 1;
                names.push(entry.name.clone());
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        let formats: Vec<String> = formats
            .into_iter()
            .map(|(format, count)| format!("{format} ({count})"))
            .collect();
        Err(GgufError::UnsupportedTypes {
            path: self.path.to_owned(),
            formats: formats.join(", "),
            tensors: names.into_iter().collect(),
        })
    }

    fn place_tensors(
        &self,
        entries: Vec<TensorEntry>,
        data_start: u64,
        alignment: u64,
    ) -> Result<Vec<GgufTensor>, GgufError> {
        let mut problems = Problems::default();
        let mut names = BTreeSet::new();
        let mut tensors = Vec::with_capacity(entries.len());
        for entry in entries {
            if !names.insert(entry.name.clone()) {
                problems.push(Problem::new(&entry.name, "the name twice", "each name once"));
                continue;
            }
            match self.place_tensor(entry, data_start, alignment) {
                Ok(tensor) => tensors.push(tensor),
                Err(problem) => problems.push(problem),
            }
        }
        let mut by_place: Vec<&GgufTensor> = tensors.iter().collect();
        by_place.sort_by_key(|tensor| (tensor.byte_range.start, tensor.byte_range.end));
        for pair in by_place.windows(2) {
            if let [first, second] = pair
                && second.byte_range.start < first.byte_range.end
            {
                problems.push(Problem::new(
                    &second.name,
                    format!("data at byte {}, inside `{}`", second.byte_range.start, first.name),
                    "data of its own",
                ));
            }
        }
        if problems.is_empty() {
            Ok(tensors)
        } else {
            Err(GgufError::ImpossibleTensors {
                path: self.path.to_owned(),
                problems,
            })
        }
    }

    fn place_tensor(&self, entry: TensorEntry, data_start: u64, alignment: u64) -> Result<GgufTensor, Problem> {
        let TensorEntry {
            name,
            shape,
            type_code,
            offset,
        } = entry;
        let problem = |found: String, expected: String| Problem::new(&name, found, expected);
        let Some(tensor_type) = GgufTensorType::from_code(type_code) else {
            return Err(problem(unsupported_type_name(type_code), GgufTensorType::names()));
        };
        let values = shape
            .iter()
            .try_fold(1_u64, |product, &dimension| product.checked_mul(dimension));
        let block_values = tensor_type.block_values() as u64;
        let bytes = match (values, shape.last()) {
            (Some(values), Some(columns)) if values > 0 && columns.is_multiple_of(block_values) => {
                (values / block_values).checked_mul(tensor_type.block_bytes() as u64)
            }
            (Some(values), Some(columns)) if values > 0 => {
                return Err(problem(
                    format!("{columns} columns of {tensor_type}"),
                    format!("a multiple of {block_values}"),
                ));
            }
            _ => None,
        };
        let Some(bytes) = bytes else {
            return Err(problem(
                format!("the shape {shape:?}"),
                "dimensions that are positive and fit a file".to_owned(),
            ));
        };
        if !offset.is_multiple_of(alignment) {
            return Err(problem(
                format!("its data at offset {offset}"),
                format!("a multiple of {alignment}"),
            ));
        }
        let start = data_start.checked_add(offset);
        let end = start.and_then(|start| start.checked_add(bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.size => Ok(GgufTensor {
                shape: shape
                    .iter()
                    .map(|&dimension| usize::try_from(dimension))
                    .collect::<Result<_, _>>()
                    .map_err(|_| {
                        problem(
                            format!("the shape {shape:?}"),
                            "dimensions that fit this machine".to_owned(),
                        )
                    })?,
                name: name.clone(),
                tensor_type,
                byte_range: start..end,
            }),
            _ => Err(problem(
                format!("a file of {} bytes", self.size),
                format!(
                    "at least {} bytes ({bytes} bytes of {tensor_type} {shape:?} at offset {offset})",
                    end.map_or_else(|| "2^64".to_owned(), |end| end.to_string())
                ),
            )),
        }
    }

    fn tensor_entry(&mut self, index: u64) -> Result<TensorEntry, GgufError> {
        let name = self.text(&format!("the name of tensor {index}"))?;
        let inside = format!("the table entry of tensor `{name}`");
        let dimensions = self.number_u32(&inside)?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(self.impossible(Problem::new(
                name,
                format!("{dimensions} dimensions"),
                format!("1 to {MAX_DIMENSIONS}"),
            )));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.number_u64(&inside)?);
        }
        shape.reverse();
        Ok(TensorEntry {
            name,
            shape,
            type_code: self.number_u32(&inside)?,
            offset: self.number_u64(&inside)?,
        })
    }

    fn value(&mut self, key: &str) -> Result<GgufValue, GgufError> {
        let inside = format!("the value of `{key}`");
        let kind = self.number_u32(&inside)?;
        Ok(match kind {
            0 => GgufValue::Unsigned(u8::from_le_bytes(self.array(&inside)?).into()),
            1 => GgufValue::Signed(i8::from_le_bytes(self.array(&inside)?).into()),
            2 => GgufValue::Unsigned(u16::from_le_bytes(self.array(&inside)?).into()),
            3 => GgufValue::Signed(i16::from_le_bytes(self.array(&inside)?).into()),
            4 => GgufValue::Unsigned(u32::from_le_bytes(self.array(&inside)?).into()),
            5 => GgufValue::Signed(i32::from_le_bytes(self.array(&inside)?).into()),
            6 => GgufValue::Float32(f32::from_le_bytes(self.array(&inside)?)),
            7 => GgufValue::Boolean(self.boolean(key, &inside)?),
            8 => GgufValue::Text(self.text(&inside)?),
            9 => GgufValue::Array(self.value_array(key, &inside, 1)?),
            10 => GgufValue::Unsigned(u64::from_le_bytes(self.array(&inside)?)),
            11 => GgufValue::Signed(i64::from_le_bytes(self.array(&inside)?)),
            12 => GgufValue::Float64(f64::from_le_bytes(self.array(&inside)?)),
            _ => return Err(self.unknown_kind(key, kind)),
        })
    }

    fn value_array(&mut self, key: &str, inside: &str, depth: u32) -> Result<GgufArray, GgufError> {
        let kind = self.number_u32(inside)?;
        let count = self.number_u64(inside)?;
        let smallest = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 4 + 8,
            _ => return Err(self.unknown_kind(key, kind)),
        };
        self.check_count(&format!("number of values of `{key}`"), count, smallest)?;
        Ok(match kind {
            0 => GgufArray::Unsigned(self.repeat(count, |reader| Ok(reader.array::<1>(inside)?[0].into()))?),
            1 => GgufArray::Signed(self.repeat(count, |reader| Ok(i8::from_le_bytes(reader.array(inside)?).into()))?),
            2 => {
                GgufArray::Unsigned(self.repeat(count, |reader| Ok(u16::from_le_bytes(reader.array(inside)?).into()))?)
            }
            3 => GgufArray::Signed(self.repeat(count, |reader| Ok(i16::from_le_bytes(reader.array(inside)?).into()))?),
            4 => {
                GgufArray::Unsigned(self.repeat(count, |reader| Ok(u32::from_le_bytes(reader.array(inside)?).into()))?)
            }
            5 => GgufArray::Signed(self.repeat(count, |reader| Ok(i32::from_le_bytes(reader.array(inside)?).into()))?),
            6 => GgufArray::Float32(self.repeat(count, |reader| Ok(f32::from_le_bytes(reader.array(inside)?)))?),
            7 => GgufArray::Boolean(self.repeat(count, |reader| reader.boolean(key, inside))?),
            8 => GgufArray::Text(self.repeat(count, |reader| reader.text(inside))?),
            10 => GgufArray::Unsigned(self.repeat(count, |reader| Ok(u64::from_le_bytes(reader.array(inside)?)))?),
            11 => GgufArray::Signed(self.repeat(count, |reader| Ok(i64::from_le_bytes(reader.array(inside)?)))?),
            12 => GgufArray::Float64(self.repeat(count, |reader| Ok(f64::from_le_bytes(reader.array(inside)?)))?),
            _ if depth < MAX_ARRAY_DEPTH => {
                GgufArray::Array(self.repeat(count, |reader| reader.value_array(key, inside, depth + 1))?)
            }
            _ => {
                return Err(self.impossible(Problem::new(
                    key,
                    "arrays within arrays",
                    format!("at most {MAX_ARRAY_DEPTH} levels"),
                )));
            }
        })
    }

    fn repeat<T>(
        &mut self,
        count: u64,
        mut read: impl FnMut(&mut Self) -> Result<T, GgufError>,
    ) -> Result<Vec<T>, GgufError> {
        (0..count).map(|_| read(self)).collect()
    }

    fn boolean(&mut self, key: &str, inside: &str) -> Result<bool, GgufError> {
        match self.array(inside)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.impossible(Problem::new(key, format!("the truth value {other}"), "0 or 1"))),
        }
    }

    fn text(&mut self, inside: &str) -> Result<String, GgufError> {
        let position = self.position;
        let length = self.number_u64(inside)?;
        let bytes = self.bytes(length, inside)?;
        String::from_utf8(bytes).map_err(|error| {
            self.impossible(Problem::new(
                inside,
                format!("{} at byte {position}", error.utf8_error()),
                "UTF-8 text",
            ))
        })
    }

    fn number_u32(&mut self, inside: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(inside)?))
    }

    fn number_u64(&mut self, inside: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(inside)?))
    }

    fn array<const N: usize>(&mut self, inside: &str) -> Result<[u8; N], GgufError> {
        self.check_available(N as u64, inside)?;
        let mut bytes = [0; N];
        self.source
            .read_exact(&mut bytes)
            .map_err(|source| self.read_error(source))?;
        self.position += N as u64;
        Ok(bytes)
    }

    fn bytes(&mut self, length: u64, inside: &str) -> Result<Vec<u8>, GgufError> {
        self.check_available(length, inside)?;
        let mut bytes = vec![0; length as usize];
        self.source
            .read_exact(&mut bytes)
            .map_err(|source| self.read_error(source))?;
        self.position += length;
        Ok(bytes)
    }

    /// Refuses to read past the end of the file or past the longest header; what passes fits in memory.
    fn check_available(&self, needed: u64, inside: &str) -> Result<(), GgufError> {
        let available = self.size - self.position;
        if needed > available {
            return Err(GgufError::Truncated {
                path: self.path.to_owned(),
                inside: inside.to_owned(),
                position: self.position,
                needed,
                available,
            });
        }
        if needed > MAX_HEADER_BYTES.saturating_sub(self.position) {
            return Err(self.impossible(Problem::new(
                inside,
                format!("{needed} bytes at byte {}", self.position),
                format!("a header of at most {MAX_HEADER_BYTES} bytes"),
            )));
        }
        Ok(())
    }

    fn check_count(&self, what: &str, count: u64, smallest: u64) -> Result<(), GgufError> {
        let available = self.size.min(MAX_HEADER_BYTES).saturating_sub(self.position);
        let most = available / smallest;
        if count > most {
            return Err(self.impossible(Problem::new(
                what,
                count.to_string(),
                format!("at most {most}, since {available} bytes are left"),
            )));
        }
        Ok(())
    }

    fn unknown_kind(&self, key: &str, kind: u32) -> GgufError {
        self.impossible(Problem::new(
            key,
            format!("a value of type {kind}"),
            "a type from 0 to 12",
        ))
    }

    fn impossible(&self, problem: Problem) -> GgufError {
        GgufError::ImpossibleHeader {
            path: self.path.to_owned(),
            problems: problem.into(),
        }
    }

    fn metadata(&self, problem: Problem) -> GgufError {
        GgufError::Metadata {
            path: self.path.to_owned(),
            problems: problem.into(),
        }
    }

    fn read_error(&self, source: io::Error) -> GgufError {
        GgufError::Read {
            path: self.path.to_owned(),
            source,
        }
    }
}
