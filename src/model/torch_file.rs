//! Reads the tensors of torch files (`.bin`, `.pt`, `.pth`) without running anything in them.
//!
//! Such a file is a zip archive: `<name>/data.pkl` is a pickle of names and tensors, and each `<name>/data/<key>` holds
//! the values of one storage, in which tensors have an offset, sizes and strides. Source: `torch/serialization.py` and
//! `torch/_utils.py` of torch 2.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use mlx_rs::Array;

use super::archive::Archive;
use super::element_type::{ElementType, value_count};
use super::pickle::{Pickle, PickleValue, ValueId};
use super::{StoredShape, WeightFileError};

/// Largest pickle: a tensor takes some 200 bytes of it.
const LARGEST_PICKLE: u64 = 1 << 24;
/// Most bytes of all tensors for each byte of the file: tensors may share a storage, as tied layers do.
const LARGEST_SHARING: u64 = 4;
/// Bytes of tensors that no file is refused for.
const HARMLESS_BYTES: u64 = 1 << 26;
/// What a torch file of before version 1.6 begins with: a pickle of torch's magic number.
const LEGACY_START: [u8; 4] = [0x80, 0x02, 0x8a, 0x0a];

const REBUILD_TENSOR: (&str, &str) = ("torch._utils", "_rebuild_tensor_v2");
const REBUILD_PARAMETER: (&str, &str) = ("torch._utils", "_rebuild_parameter");

/// The names that may stand in a pickle, storages last.
const NAMES: [(&str, &str); 13] = [
    ("collections", "OrderedDict"),
    REBUILD_TENSOR,
    REBUILD_PARAMETER,
    ("torch", "DoubleStorage"),
    ("torch", "FloatStorage"),
    ("torch", "HalfStorage"),
    ("torch", "BFloat16Storage"),
    ("torch", "LongStorage"),
    ("torch", "IntStorage"),
    ("torch", "ShortStorage"),
    ("torch", "CharStorage"),
    ("torch", "ByteStorage"),
    ("torch", "BoolStorage"),
];

fn storage_type(name: &str) -> Option<ElementType> {
    Some(match name {
        "DoubleStorage" => ElementType::Float64,
        "FloatStorage" => ElementType::Float32,
        "HalfStorage" => ElementType::Float16,
        "BFloat16Storage" => ElementType::Bfloat16,
        "LongStorage" => ElementType::Int64,
        "IntStorage" => ElementType::Int32,
        "ShortStorage" => ElementType::Int16,
        "CharStorage" => ElementType::Int8,
        "ByteStorage" => ElementType::Uint8,
        "BoolStorage" => ElementType::Bool,
        _ => return None,
    })
}

/// Reads every tensor of a torch file into memory, sorted by name.
///
/// # Errors
/// The file is broken, of the old kind, or holds anything but names and tensors; nothing of it is ever run.
pub fn load_torch(path: &Path) -> Result<BTreeMap<String, Array>, WeightFileError> {
    let mut file = TorchFile::open(path)?;
    let mut by_storage: BTreeMap<&str, Vec<(&String, &View)>> = BTreeMap::new();
    for (name, view) in &file.views {
        by_storage.entry(&view.storage).or_default().push((name, view));
    }
    let mut tensors = BTreeMap::new();
    // One storage at a time: its bytes can be freed before the next is read.
    for (storage, views) in by_storage {
        let bytes = file.archive.read(&format!("{}/data/{storage}", file.folder))?;
        let mut made: BTreeMap<&View, Array> = BTreeMap::new();
        for (name, view) in views {
            let array = match made.get(view) {
                Some(array) => array.clone(),
                None => view.array(&bytes).ok_or_else(|| {
                    file.archive
                        .refused(format!("`{name}` of {:?}, more than MLX takes", view.shape))
                })?,
            };
            made.insert(view, array.clone());
            tensors.insert(name.clone(), array);
        }
    }
    Ok(tensors)
}

/// The tensors that a torch file names, sorted by name; every storage is as long as they call for.
pub(super) fn torch_shapes(path: &Path) -> Result<BTreeMap<String, StoredShape>, WeightFileError> {
    let described = TorchFile::open(path)?.views.into_iter().map(|(name, view)| {
        let stored = StoredShape {
            dtype: view.element.name().to_owned(),
            shape: view.shape,
        };
        (name, stored)
    });
    Ok(described.collect())
}

/// A tensor's place in a storage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct View {
    storage: String,
    element: ElementType,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

struct TorchFile {
    archive: Archive,
    /// The folder within the archive that everything lies in.
    folder: String,
    views: BTreeMap<String, View>,
}

impl TorchFile {
    fn open(path: &Path) -> Result<Self, WeightFileError> {
        if is_legacy(path)? {
            return Err(WeightFileError::LegacyTorch { path: path.to_owned() });
        }
        let mut archive = Archive::open(path)?;
        let folder = {
            let mut pickles = archive.names().filter_map(|name| name.strip_suffix("/data.pkl"));
            match (pickles.next(), pickles.next()) {
                (Some(folder), None) => folder.to_owned(),
                _ => return Err(archive.refused("no torch file: not one `data.pkl`".to_owned())),
            }
        };
        check_kind(&mut archive, &folder)?;
        let pickle = format!("{folder}/data.pkl");
        if archive.size(&pickle).is_some_and(|size| size > LARGEST_PICKLE) {
            return Err(archive.refused(format!("a `data.pkl` of more than {LARGEST_PICKLE} bytes")));
        }
        let not_state_dict = |found: String| WeightFileError::NotStateDict {
            path: path.to_owned(),
            found,
        };
        let pickle =
            Pickle::read(&archive.read(&pickle)?, &NAMES).map_err(|error| not_state_dict(error.to_string()))?;
        let views = StateDict { pickle: &pickle }.views().map_err(not_state_dict)?;
        let file = Self { archive, folder, views };
        file.check_sizes()?;
        Ok(file)
    }

    /// Compares the storages with what the tensors call for, and all tensors together with the file.
    fn check_sizes(&self) -> Result<(), WeightFileError> {
        let mut distinct: BTreeMap<&View, u64> = BTreeMap::new();
        for (name, view) in &self.views {
            let entry = format!("{}/data/{}", self.folder, view.storage);
            let size = self.archive.size(&entry);
            let size = size.ok_or_else(|| self.archive.refused(format!("no entry `{entry}`, where `{name}` lies")))?;
            let needed = view.needed_bytes();
            if needed.is_none_or(|needed| needed as u64 > size) {
                return Err(self.archive.refused(format!(
                    "`{name}` of {:?} beyond the end of its storage of {size} bytes",
                    view.shape
                )));
            }
            let values = value_count(&view.shape).unwrap_or(usize::MAX) as u64;
            distinct.insert(view, values.saturating_mul(view.element.bytes() as u64));
        }
        let bytes = distinct.values().fold(0_u64, |sum, &bytes| sum.saturating_add(bytes));
        let most = HARMLESS_BYTES.max(self.archive.length().saturating_mul(LARGEST_SHARING));
        if bytes > most {
            return Err(self.archive.refused(format!(
                "tensors of {bytes} bytes in a file of {}",
                self.archive.length()
            )));
        }
        Ok(())
    }
}

fn is_legacy(path: &Path) -> Result<bool, WeightFileError> {
    let io_error = |source| WeightFileError::Io {
        path: path.to_owned(),
        source,
    };
    let mut start = Vec::new();
    let file = File::open(path).map_err(io_error)?;
    file.take(LEGACY_START.len() as u64)
        .read_to_end(&mut start)
        .map_err(io_error)?;
    Ok(start == LEGACY_START)
}

/// Refuses compiled modules, and files of machines that write the highest byte first.
fn check_kind(archive: &mut Archive, folder: &str) -> Result<(), WeightFileError> {
    if archive.size(&format!("{folder}/constants.pkl")).is_some() {
        return Err(archive.refused("a compiled module (TorchScript), not a state dict".to_owned()));
    }
    let order = format!("{folder}/byteorder");
    if archive.size(&order).is_some() && archive.read_start(&order, 16)? != b"little" {
        return Err(archive.refused("values with the highest byte first".to_owned()));
    }
    Ok(())
}

/// A pickle as names and tensors.
struct StateDict<'run> {
    pickle: &'run Pickle,
}

impl StateDict<'_> {
    /// Every tensor, or what else stands there.
    fn views(&self) -> Result<BTreeMap<String, View>, String> {
        let PickleValue::Dictionary(entries) = self.pickle.root() else {
            return Err(format!("{} in place of a dictionary", kind(self.pickle.root())));
        };
        let mut views = BTreeMap::new();
        for (key, value) in entries {
            let PickleValue::Text(name) = self.pickle.value(*key) else {
                return Err(format!("a key that is {}", kind(self.pickle.value(*key))));
            };
            let view = self
                .view(*value)
                .ok_or_else(|| format!("`{name}`, which is {}", self.described(*value)))?;
            views.insert(name.clone(), view);
        }
        Ok(views)
    }

    fn described(&self, id: ValueId) -> String {
        match self.pickle.value(id) {
            PickleValue::Call(..) => "a tensor that cannot be made sense of".to_owned(),
            other => kind(other).to_owned(),
        }
    }

    /// The tensor that the value stands for; `None` when it is none.
    fn view(&self, mut id: ValueId) -> Option<View> {
        // A parameter wraps a tensor that stands before it, so this ends.
        while let Some([tensor, ..]) = self.call(id, REBUILD_PARAMETER) {
            id = *tensor;
        }
        let [storage, offset, shape, strides, ..] = self.call(id, REBUILD_TENSOR)? else {
            return None;
        };
        let PickleValue::Persistent(storage) = self.pickle.value(*storage) else {
            return None;
        };
        let [tag, storage_class, key, _location, values] = self.tuple(*storage)? else {
            return None;
        };
        let PickleValue::Global(class) = self.pickle.value(*storage_class) else {
            return None;
        };
        let (PickleValue::Text(tag), PickleValue::Text(key)) = (self.pickle.value(*tag), self.pickle.value(*key))
        else {
            return None;
        };
        let view = View {
            storage: key.clone(),
            element: storage_type(NAMES[*class].1)?,
            offset: self.size(*offset)?,
            shape: self.sizes(*shape)?,
            strides: self.sizes(*strides)?,
        };
        let fits = tag == "storage" && view.shape.len() == view.strides.len() && self.size(*values).is_some();
        fits.then_some(view)
    }

    /// The arguments of a call of `name`.
    fn call(&self, id: ValueId, name: (&str, &str)) -> Option<&[ValueId]> {
        match self.pickle.value(id) {
            PickleValue::Call(function, arguments) => match self.pickle.value(*function) {
                PickleValue::Global(found) if NAMES[*found] == name => self.tuple(*arguments),
                _ => None,
            },
            _ => None,
        }
    }

    fn tuple(&self, id: ValueId) -> Option<&[ValueId]> {
        match self.pickle.value(id) {
            PickleValue::Tuple(values) => Some(values),
            _ => None,
        }
    }

    fn size(&self, id: ValueId) -> Option<usize> {
        match self.pickle.value(id) {
            PickleValue::Integer(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    fn sizes(&self, id: ValueId) -> Option<Vec<usize>> {
        self.tuple(id)?.iter().map(|&id| self.size(id)).collect()
    }
}

fn kind(value: &PickleValue) -> &'static str {
    match value {
        PickleValue::None => "nothing",
        PickleValue::Bool(_) => "a truth value",
        PickleValue::Integer(_) | PickleValue::Float(_) => "a number",
        PickleValue::Text(_) => "a text",
        PickleValue::Tuple(_) | PickleValue::List(_) => "a list",
        PickleValue::Dictionary(_) => "a dictionary",
        PickleValue::Global(_) => "a name",
        PickleValue::Call(..) => "a tensor",
        PickleValue::Persistent(_) => "a storage",
    }
}

impl View {
    /// Bytes of the storage up to the tensor's last value; `None` when that is more than can be counted.
    fn needed_bytes(&self) -> Option<usize> {
        if value_count(&self.shape)? == 0 {
            return Some(0);
        }
        let last = self
            .shape
            .iter()
            .zip(&self.strides)
            .try_fold(self.offset, |last, (size, stride)| {
                last.checked_add((size - 1).checked_mul(*stride)?)
            })?;
        last.checked_add(1)?.checked_mul(self.element.bytes())
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= size;
            fits
        })
    }

    /// The tensor in a storage of `bytes`, which [`Self::needed_bytes`] were compared with.
    fn array(&self, bytes: &[u8]) -> Option<Array> {
        let (width, count) = (self.element.bytes(), value_count(&self.shape)?);
        if count == 0 || self.is_contiguous() {
            let start = if count == 0 { 0 } else { self.offset * width };
            let values = bytes.get(start..start + count * width)?;
            return self.element.array(values, &self.shape);
        }
        let mut values = Vec::with_capacity(count * width);
        let mut indices = vec![0_usize; self.shape.len()];
        for _ in 0..count {
            let steps = indices.iter().zip(&self.strides);
            let place = self.offset + steps.map(|(index, stride)| index * stride).sum::<usize>();
            values.extend_from_slice(bytes.get(place * width..(place + 1) * width)?);
            // Counts up like an odometer, the last index first.
            for (index, size) in indices.iter_mut().zip(&self.shape).rev() {
                *index += 1;
                if *index < *size {
                    break;
                }
                *index = 0;
            }
        }
        self.element.array(&values, &self.shape)
    }
}
