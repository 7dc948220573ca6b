//! Reads a header from its bytes, none of which is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::Path;

use super::super::problem::{Problem, Problems};
use super::tensor_type::unsupported_type_name;
use super::{GgufArray, GgufError, GgufHeader, GgufTensor, GgufTensorType, GgufValue};

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

/// An entry of the tensor table before its type and place are checked.
struct TensorEntry {
    name: String,
    shape: Vec<u64>,
    type_code: u32,
    offset: u64,
}

pub(super) struct HeaderReader<'path, R> {
    path: &'path Path,
    source: R,
    position: u64,
    size: u64,
}

impl<'path, R: Read> HeaderReader<'path, R> {
    /// Reads from the start of a file of `size` bytes; `path` is for messages.
    pub(super) fn new(path: &'path Path, source: R, size: u64) -> Self {
        Self {
            path,
            source,
            position: 0,
            size,
        }
    }

    pub(super) fn header(mut self) -> Result<GgufHeader, GgufError> {
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
