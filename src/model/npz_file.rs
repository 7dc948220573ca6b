//! Reads the arrays of numpy's `.npz` files, as mlx-examples wrote weights before safetensors.
//!
//! Such a file is a zip archive of `.npy` files. Source: `numpy/lib/format.py`; MLX writes bfloat16 as `V2`, two bytes
//! without a meaning of their own (`mlx/dtype_utils.cpp`).

use std::collections::BTreeMap;
use std::path::Path;

use mlx_rs::Array;

use super::archive::Archive;
use super::element_type::{ElementType, value_count};
use super::{StoredShape, WeightFileError};

/// End of the name of an array's entry.
const ENDING: &str = ".npy";
/// Bytes before a header's text: magic, version, and the length of the text, in two bytes or four.
const LONGEST_PREFIX: u64 = 12;
/// Longest text of a header; numpy refuses more than 10,000 bytes too, and writes some 120.
const LONGEST_HEADER: usize = 10_000;

/// Reads every array of an npz file into memory, sorted by name.
///
/// # Errors
/// The file is broken, or an array is of a type that is no number, as Python objects are.
pub fn load_npz(path: &Path) -> Result<BTreeMap<String, Array>, WeightFileError> {
    let mut archive = Archive::open(path)?;
    let mut tensors = BTreeMap::new();
    for name in array_names(&archive)? {
        let entry = format!("{name}{ENDING}");
        let header = header(&mut archive, &entry)?;
        let bytes = archive.read(&entry)?;
        let too_large = || archive.refused(format!("`{name}` of {:?}, more than MLX takes", header.shape));
        let values = &bytes[header.length.min(bytes.len())..];
        let array = if header.is_fortran_order {
            let reversed: Vec<usize> = header.shape.iter().rev().copied().collect();
            header.element.array(values, &reversed).ok_or_else(too_large)?.t()
        } else {
            header.element.array(values, &header.shape).ok_or_else(too_large)?
        };
        tensors.insert(name, array);
    }
    Ok(tensors)
}

/// The arrays that an npz file names, sorted by name; every entry is as long as its header calls for.
pub(super) fn npz_shapes(path: &Path) -> Result<BTreeMap<String, StoredShape>, WeightFileError> {
    let mut archive = Archive::open(path)?;
    let mut shapes = BTreeMap::new();
    for name in array_names(&archive)? {
        let header = header(&mut archive, &format!("{name}{ENDING}"))?;
        let stored = StoredShape {
            dtype: header.element.name().to_owned(),
            shape: header.shape,
        };
        shapes.insert(name, stored);
    }
    Ok(shapes)
}

fn array_names(archive: &Archive) -> Result<Vec<String>, WeightFileError> {
    let names = archive.names().map(|name| name.strip_suffix(ENDING).ok_or(name));
    let names: Result<Vec<&str>, &str> = names.collect();
    match names {
        Ok(names) => Ok(names.into_iter().map(str::to_owned).collect()),
        Err(other) => Err(archive.refused(format!("the entry `{other}`, which is no array"))),
    }
}

struct Header {
    element: ElementType,
    shape: Vec<usize>,
    /// Whether the first index counts up first.
    is_fortran_order: bool,
    /// Bytes before the values.
    length: usize,
}

/// The header of an entry, whose size must be what the header calls for.
fn header(archive: &mut Archive, entry: &str) -> Result<Header, WeightFileError> {
    let start = archive.read_start(entry, LONGEST_PREFIX + LONGEST_HEADER as u64)?;
    let header = parse(&start).map_err(|found| archive.refused(format!("`{entry}` with {found}")))?;
    let values = value_count(&header.shape).and_then(|values| values.checked_mul(header.element.bytes()));
    let expected = values.and_then(|values| values.checked_add(header.length));
    let found = archive.size(entry).unwrap_or(0);
    if expected.is_some_and(|expected| expected as u64 == found) {
        Ok(header)
    } else {
        Err(archive.refused(format!("`{entry}` of {:?} in {found} bytes", header.shape)))
    }
}

fn parse(start: &[u8]) -> Result<Header, String> {
    let no_array = || "no header of an array".to_owned();
    let (length, text_start) = match start {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, low, high, ..] => {
            (usize::from(u16::from_le_bytes([*low, *high])), 10)
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _, a, b, c, d, ..] => {
            (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 12)
        }
        _ => return Err(no_array()),
    };
    if length > LONGEST_HEADER {
        return Err(format!("a header of {length} bytes"));
    }
    let text = start.get(text_start..text_start + length).ok_or_else(no_array)?;
    let text = std::str::from_utf8(text).map_err(|_| no_array())?;
    let stated = Stated::read(text).ok_or_else(no_array)?;
    let kind = match stated.kind {
        Kind::Plain(kind) => kind,
        Kind::Records => return Err("values that are records".to_owned()),
    };
    Ok(Header {
        element: element_type(kind).ok_or_else(|| format!("values of type `{kind}`"))?,
        shape: stated.shape,
        is_fortran_order: stated.is_fortran_order,
        length: text_start + length,
    })
}

/// What the text of a header says: a Python dictionary such as
/// `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
struct Stated<'text> {
    kind: Kind<'text>,
    is_fortran_order: bool,
    shape: Vec<usize>,
}

#[derive(Clone, Copy)]
enum Kind<'text> {
    Plain(&'text str),
    Records,
}

impl<'text> Stated<'text> {
    /// `None` when it is no such dictionary.
    fn read(text: &'text str) -> Option<Self> {
        let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
        let (mut kind, mut is_fortran_order, mut shape) = (None, None, None);
        while !rest.is_empty() {
            let (key, value) = rest.strip_prefix('\'')?.split_once("\':")?;
            let value = value.trim_start();
            rest = match key {
                // The list of a record's fields, in which nothing is looked for.
                "descr" if value.starts_with('[') => {
                    kind = Some(Kind::Records);
                    &value[value.rfind(']')? + 1..]
                }
                "descr" => {
                    let (found, rest) = value.strip_prefix('\'')?.split_once('\'')?;
                    kind = Some(Kind::Plain(found));
                    rest
                }
                "fortran_order" => {
                    is_fortran_order = Some(value.starts_with("True"));
                    value.strip_prefix("True").or_else(|| value.strip_prefix("False"))?
                }
                "shape" => {
                    let (sizes, rest) = value.strip_prefix('(')?.split_once(')')?;
                    let sizes = sizes.split(',').map(str::trim).filter(|size| !size.is_empty());
                    shape = Some(sizes.map(|size| size.parse().ok()).collect::<Option<_>>()?);
                    rest
                }
                _ => return None,
            };
            rest = rest.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        Some(Self {
            kind: kind?,
            is_fortran_order: is_fortran_order?,
            shape: shape?,
        })
    }
}

/// The element type of a description of numpy's array interface, with its lowest byte first.
fn element_type(description: &str) -> Option<ElementType> {
    Some(match description {
        "<f8" => ElementType::Float64,
        "<f4" => ElementType::Float32,
        "<f2" => ElementType::Float16,
        "<V2" | "|V2" => ElementType::Bfloat16,
        "<i8" => ElementType::Int64,
        "<i4" => ElementType::Int32,
        "<i2" => ElementType::Int16,
        "|i1" | "<i1" => ElementType::Int8,
        "<u8" => ElementType::Uint64,
        "<u4" => ElementType::Uint32,
        "<u2" => ElementType::Uint16,
        "|u1" | "<u1" => ElementType::Uint8,
        "|b1" | "<b1" => ElementType::Bool,
        _ => return None,
    })
}
