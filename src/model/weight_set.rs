//! Which files of a folder hold the weights: safetensors before torch before npz, whole files or shards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mlx_rs::Array;
use serde_json::Value;

use super::npz_file::{load_npz, npz_shapes};
use super::torch_file::{load_torch, torch_shapes};
use super::weight_file::is_written_by_mlx;
use super::{CheckpointError, StoredShape, WeightFileError, check_whole, load_safetensors, stored_shapes};
use crate::evidence::Listing;

/// A format of weight files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WeightFormat {
    /// Hugging Face's safetensors.
    Safetensors,
    /// A zip archive of torch, read without running its pickle.
    Torch,
    /// Numpy's archive of arrays, as mlx-examples wrote before safetensors.
    Npz,
}

impl WeightFormat {
    /// Every format, the preferred first.
    pub const ALL: [Self; 3] = [Self::Safetensors, Self::Torch, Self::Npz];

    /// The file that lists shards.
    pub(super) fn index(self) -> Option<&'static str> {
        match self {
            Self::Safetensors => Some("model.safetensors.index.json"),
            Self::Torch => Some("pytorch_model.bin.index.json"),
            Self::Npz => None,
        }
    }

    /// Names of a single file, the usual one first. Other files of a training run end in the same way
    /// (`training_args.bin`, `optimizer.pt`), so only these names count.
    pub(super) fn single_files(self) -> &'static [&'static str] {
        match self {
            Self::Safetensors => &["model.safetensors"],
            Self::Torch => &[
                "pytorch_model.bin",
                "pytorch_model.pt",
                "pytorch_model.pth",
                "model.bin",
                "model.pt",
                "model.pth",
            ],
            Self::Npz => &["weights.npz", "model.npz"],
        }
    }

    /// The number of a shard, from 0, and of all shards where the name says it.
    fn shard_number(self, name: &str) -> Option<(usize, Option<usize>)> {
        match self {
            Self::Safetensors => numbered(name.strip_prefix("model-")?.strip_suffix(".safetensors")?),
            Self::Torch => numbered(name.strip_prefix("pytorch_model-")?.strip_suffix(".bin")?),
            Self::Npz => {
                let number = name.strip_prefix("weights.")?.strip_suffix(".npz")?;
                Some((number.parse().ok()?, None))
            }
        }
    }
}

/// The numbers in `00001-of-00003`; the first counted from 0.
fn numbered(text: &str) -> Option<(usize, Option<usize>)> {
    let (number, count) = text.split_once("-of-")?;
    let number: usize = number.parse().ok()?;
    Some((number.checked_sub(1)?, Some(count.parse().ok()?)))
}

/// The weight files of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightSet {
    /// Their format.
    pub format: WeightFormat,
    /// The files, sorted by name.
    pub files: Vec<PathBuf>,
    /// Files of other formats that would be read if these were not there, sorted.
    pub set_aside: Vec<String>,
}

impl WeightSet {
    /// Finds the weight files of `folder`.
    ///
    /// # Errors
    /// There are none, the index of the shards is unusable, or shards are absent.
    pub fn of_folder(folder: &Path) -> Result<Self, CheckpointError> {
        let names = file_names(folder);
        let mut found = WeightFormat::ALL
            .into_iter()
            .filter(|format| candidates(*format, &names).next().is_some());
        let Some(format) = found.next() else {
            return Err(CheckpointError::NoWeights {
                folder: folder.to_owned(),
                found: names.into_iter().collect(),
            });
        };
        let set_aside = found
            .flat_map(|format| candidates(format, &names).map(str::to_owned).collect::<Vec<_>>())
            .collect();
        Ok(Self {
            format,
            files: files(folder, format, &names)?,
            set_aside,
        })
    }

    /// What is not read although it holds weights, one sentence without a final period; `None` when there is nothing.
    pub fn note(&self) -> Option<String> {
        let read = self.files.first()?.file_name()?.to_string_lossy();
        let others = match self.files.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let unread = self.set_aside.join(", ");
        (!unread.is_empty())
            .then(|| format!("the weights are read from {read}{others}; {unread} of the same folder are not"))
    }

    /// Reads every tensor of one of [`Self::files`] into memory, sorted by name.
    ///
    /// # Errors
    /// See [`WeightFileError`].
    pub fn load(&self, file: &Path) -> Result<BTreeMap<String, Array>, WeightFileError> {
        match self.format {
            WeightFormat::Safetensors => load_safetensors(file),
            WeightFormat::Torch => load_torch(file),
            WeightFormat::Npz => load_npz(file),
        }
    }

    /// As [`Self::load`], but tensors of safetensors files are read when they are first used, so the file must stay.
    pub(super) fn load_lazily(&self, file: &Path) -> Result<BTreeMap<String, Array>, WeightFileError> {
        match self.format {
            WeightFormat::Safetensors => {
                let tensors = Array::load_safetensors(file).map_err(|error| WeightFileError::Mlx {
                    path: file.to_owned(),
                    message: error.to_string(),
                })?;
                Ok(tensors.into_iter().collect())
            }
            WeightFormat::Torch | WeightFormat::Npz => self.load(file),
        }
    }

    /// The tensors that one of [`Self::files`] names, sorted by name.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn stored_shapes(&self, file: &Path) -> Result<BTreeMap<String, StoredShape>, WeightFileError> {
        match self.format {
            WeightFormat::Safetensors => stored_shapes(file),
            WeightFormat::Torch => torch_shapes(file),
            WeightFormat::Npz => npz_shapes(file),
        }
    }

    /// Checks that every file is whole, by its header.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn check_whole(&self) -> Result<(), WeightFileError> {
        for file in &self.files {
            match self.format {
                WeightFormat::Safetensors => check_whole(file)?,
                WeightFormat::Torch | WeightFormat::Npz => drop(self.stored_shapes(file)?),
            }
        }
        Ok(())
    }

    /// Whether MLX wrote one of [`Self::files`], so that its names are those of mlx-lm's modules.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(super) fn is_written_by_mlx(&self, file: &Path) -> Result<bool, WeightFileError> {
        match self.format {
            WeightFormat::Safetensors => is_written_by_mlx(file),
            WeightFormat::Torch => Ok(false),
            WeightFormat::Npz => Ok(true),
        }
    }
}

/// What to fetch of a repository so that [`WeightSet::of_folder`] finds it.
#[cfg(feature = "hub")]
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WantedWeights {
    /// The file that lists the shards, and what it lists.
    Index(&'static str),
    /// These files.
    Files(Vec<String>),
}

#[cfg(feature = "hub")]
impl WantedWeights {
    /// The choice among files of these names; `None` when none of them holds weights that are read.
    pub(super) fn among(names: &[String]) -> Option<Self> {
        let is_there = |format: &WeightFormat| candidates(*format, names).next().is_some();
        let format = WeightFormat::ALL.into_iter().find(is_there)?;
        let has = |name: &str| names.iter().any(|known| known == name);
        if let Some(index) = format.index().filter(|index| has(index)) {
            return Some(Self::Index(index));
        }
        let single = format.single_files().iter().find(|name| has(name));
        Some(Self::Files(match single {
            Some(name) => vec![(*name).to_owned()],
            None => candidates(format, names).map(str::to_owned).collect(),
        }))
    }
}

fn file_names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The index, the single files and the numbered shards of a format among `names`.
fn candidates(format: WeightFormat, names: &[String]) -> impl Iterator<Item = &str> {
    names.iter().map(String::as_str).filter(move |name| {
        format.index() == Some(*name) || format.single_files().contains(name) || format.shard_number(name).is_some()
    })
}

/// The files of a format: those of the index, else a single one, else numbered shards.
fn files(folder: &Path, format: WeightFormat, names: &[String]) -> Result<Vec<PathBuf>, CheckpointError> {
    if let Some(index) = format.index()
        && folder.join(index).is_file()
    {
        let shards = indexed_shards(&folder.join(index))?;
        return present(folder, &shards, &format!("every file that `{index}` names"));
    }
    let mut single = format.single_files().iter();
    if let Some(name) = single.find(|name| folder.join(name).is_file()) {
        return Ok(vec![folder.join(name)]);
    }
    let shards: BTreeMap<usize, (&String, Option<usize>)> = names
        .iter()
        .filter_map(|name| {
            let (number, count) = format.shard_number(name)?;
            Some((number, (name, count)))
        })
        .collect();
    let last = shards.keys().last().map_or(0, |last| last + 1);
    let count = shards.values().filter_map(|(_, count)| *count).max().unwrap_or(last);
    // A count in a name may be anything; nothing is done for each number but for the first that lacks a file.
    match (0..count).find(|number| !shards.contains_key(number)) {
        None => Ok(shards.values().map(|(name, _)| folder.join(name)).collect()),
        Some(number) => Err(CheckpointError::MissingShards {
            folder: folder.to_owned(),
            missing: std::iter::once(format!("shard {} of {count}", number + 1)).collect(),
            expected: "every shard that the names of the others count".to_owned(),
        }),
    }
}

fn present(folder: &Path, names: &BTreeSet<String>, expected: &str) -> Result<Vec<PathBuf>, CheckpointError> {
    let missing: Listing = names
        .iter()
        .filter(|name| !folder.join(name).is_file())
        .cloned()
        .collect();
    if missing.is_empty() {
        Ok(names.iter().map(|name| folder.join(name)).collect())
    } else {
        Err(CheckpointError::MissingShards {
            folder: folder.to_owned(),
            missing,
            expected: expected.to_owned(),
        })
    }
}

/// The shards that an index names, sorted.
pub(super) fn indexed_shards(index: &Path) -> Result<BTreeSet<String>, CheckpointError> {
    let unusable = |found: String| CheckpointError::Index {
        path: index.to_owned(),
        found,
    };
    let text = std::fs::read_to_string(index).map_err(|error| unusable(error.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    let map = value
        .get("weight_map")
        .and_then(Value::as_object)
        .filter(|map| !map.is_empty())
        .ok_or_else(|| unusable("no object `weight_map` with entries".to_owned()))?;
    let mut names = BTreeSet::new();
    for file in map.values() {
        match file.as_str() {
            // A shard is a plain file name; anything else could lead out of the folder.
            Some(name) if is_plain_name(name) => {
                names.insert(name.to_owned());
            }
            _ => return Err(unusable(format!("the shard name {file}"))),
        }
    }
    Ok(names)
}

fn is_plain_name(name: &str) -> bool {
    Path::new(name).file_name() == Some(name.as_ref()) && !name.contains(['/', '\\'])
}
