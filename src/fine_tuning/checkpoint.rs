//! Everything a run needs to go on as if it had never stopped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::Crc;
use mlx_rs::Array;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::settings::EarlyStopping;
use crate::atomic_write::{UnfinishedFolder, write_file};
use crate::data::BatchState;
use crate::model::{WeightFileError, load_safetensors, save_safetensors};

/// Version of `state.json`.
const VERSION: u32 = 2;
const STATE: &str = "state.json";
const PARAMETERS: &str = "parameters.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
/// The files of tensors.
const TENSORS: [&str; 2] = [PARAMETERS, OPTIMIZER];
/// Bytes that are read at once for a checksum.
const PART: usize = 1 << 20;
/// Digits of a checkpoint's name, so that names sort as numbers do.
const NAME_DIGITS: usize = 7;

/// Where a run is.
///
/// Nothing random is among it: the order of the rows and what dropout drops follow from the seed and these counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Optimizer updates made; the position in the schedule.
    pub update: usize,
    /// Batches drawn.
    pub batches: usize,
    /// The position in the data behind them; `None` before the first.
    pub data: Option<BatchState>,
    /// Tokens trained on, padding not counted.
    pub tokens: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// The best loss on rows for validation, and the update after which it was measured.
    pub best: Option<(usize, f64)>,
    /// Measurements since that were no better.
    pub worse_in_a_row: usize,
    /// Factor on the loss of 16-bit training; `None` where none is needed.
    pub loss_scale: Option<f64>,
    /// Updates since that factor was last changed.
    pub updates_at_loss_scale: usize,
}

impl Progress {
    /// Whether held-out rows got no better for as long as `stopping` waits.
    pub fn has_lost_patience(&self, stopping: Option<EarlyStopping>) -> bool {
        stopping.is_some_and(|stopping| self.worse_in_a_row >= stopping.patience)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredState {
    version: u32,
    optimizer: String,
    optimizer_updates: u64,
    /// Checksums (CRC-32) of the files of tensors, by name: a disk that failed gives back other bytes.
    files: BTreeMap<String, u32>,
    progress: Progress,
}

/// A run at one moment.
#[derive(Debug, Clone)]
pub struct RunCheckpoint {
    /// Where it is.
    pub progress: Progress,
    /// Every trained value by its path.
    pub parameters: BTreeMap<String, Array>,
    /// The optimizer's name.
    pub optimizer: String,
    /// Updates the optimizer counted.
    pub optimizer_updates: u64,
    /// The optimizer's arrays by name.
    pub optimizer_state: BTreeMap<String, Array>,
}

/// Why a checkpoint could not be written or read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// A file of tensors is broken or cannot be written.
    #[error(transparent)]
    Tensors(#[from] WeightFileError),
    /// A file or folder could not be read, written or removed.
    #[error("checkpoint `{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There are checkpoints, and none is whole.
    #[error("no checkpoint of the run can be used\n  found: {newest}\n  expected: one that is whole, in `{}`\n  hint: begin a new run with another `--out`; what is in the folder of this one is left as it is", folder.display())]
    NoneWhole {
        /// The folder of the checkpoints.
        folder: PathBuf,
        /// What is wrong with the newest.
        newest: String,
    },
    /// A file of it is broken.
    #[error("checkpoint `{}` cannot be used\n  found: {found}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
}

impl RunCheckpoint {
    /// Writes the checkpoint into `folder` under a temporary name and renames it, then removes all but the newest `keep`.
    ///
    /// A process that is killed leaves the checkpoint whole or not at all.
    pub fn write(&self, folder: &Path, keep: usize) -> Result<PathBuf, CheckpointError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| CheckpointError::Io { path, source }
        };
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let target = folder.join(format!("{:0NAME_DIGITS$}", self.progress.update));
        if target.exists() {
            // The run was resumed from an earlier checkpoint and came here again.
            std::fs::remove_dir_all(&target).map_err(io(&target))?;
        }
        let unfinished = UnfinishedFolder::for_target(&target).map_err(io(&target))?;
        let path = |name: &str| unfinished.path().join(name);
        save_safetensors(&self.parameters, None, &path(PARAMETERS))?;
        save_safetensors(&self.optimizer_state, None, &path(OPTIMIZER))?;
        let mut files = BTreeMap::new();
        for name in TENSORS {
            let path = path(name);
            // Renamed files whose bytes are still on their way would be empty after a loss of power.
            File::open(&path).and_then(|file| file.sync_all()).map_err(io(&path))?;
            files.insert(name.to_owned(), checksum(&path).map_err(io(&path))?);
        }
        let state = StoredState {
            version: VERSION,
            optimizer: self.optimizer.clone(),
            optimizer_updates: self.optimizer_updates,
            files,
            progress: self.progress.clone(),
        };
        let text = serde_json::to_string_pretty(&state).map_err(|error| CheckpointError::Broken {
            path: target.clone(),
            found: error.to_string(),
        })?;
        write_file(&path(STATE), format!("{text}\n").as_bytes()).map_err(io(&target))?;
        unfinished.finish().map_err(io(&target))?;
        for old in numbered(folder)?.into_iter().rev().skip(keep.max(1)) {
            std::fs::remove_dir_all(&old).map_err(io(&old))?;
        }
        Ok(target)
    }

    /// Reads the checkpoint in `folder`.
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join(STATE);
        let text = std::fs::read_to_string(&path).map_err(|source| CheckpointError::Io {
            path: path.clone(),
            source,
        })?;
        let broken = |found: String| CheckpointError::Broken {
            path: path.clone(),
            found,
        };
        let state: StoredState = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
        if state.version != VERSION {
            return Err(broken(format!("version {}, this program has {VERSION}", state.version)));
        }
        for name in TENSORS {
            let file = folder.join(name);
            let found = checksum(&file).map_err(|source| CheckpointError::Io {
                path: file.clone(),
                source,
            })?;
            if state.files.get(name) != Some(&found) {
                return Err(CheckpointError::Broken {
                    path: file,
                    found: "other bytes than were written".to_owned(),
                });
            }
        }
        Ok(Self {
            progress: state.progress,
            parameters: load_safetensors(&folder.join(PARAMETERS))?,
            optimizer: state.optimizer,
            optimizer_updates: state.optimizer_updates,
            optimizer_state: load_safetensors(&folder.join(OPTIMIZER))?,
        })
    }

    /// The newest checkpoint in `folder` that is whole, and what is wrong with newer ones; `None` when there is none yet.
    ///
    /// # Errors
    /// There are some, and none of them is whole.
    pub fn newest(folder: &Path) -> Result<(Option<Self>, Vec<CheckpointError>), CheckpointError> {
        let mut broken = Vec::new();
        for path in numbered(folder)?.into_iter().rev() {
            match Self::read(&path) {
                Ok(checkpoint) => return Ok((Some(checkpoint), broken)),
                Err(error) => broken.push(error),
            }
        }
        match broken.first() {
            None => Ok((None, broken)),
            Some(newest) => Err(CheckpointError::NoneWhole {
                folder: folder.to_owned(),
                newest: newest.to_string().lines().collect::<Vec<_>>().join(";"),
            }),
        }
    }
}

fn checksum(path: &Path) -> std::io::Result<u32> {
    let mut file = File::open(path)?;
    let mut checksum = Crc::new();
    let mut part = vec![0; PART];
    loop {
        match file.read(&mut part)? {
            0 => return Ok(checksum.sum()),
            read => checksum.update(&part[..read]),
        }
    }
}

/// The number of the newest checkpoint in `folder`, whole or not; `None` where there is none that can be seen.
pub(super) fn newest_update(folder: &Path) -> Option<u64> {
    let path = numbered(folder).ok()?.pop()?;
    path.file_name()?.to_str()?.parse().ok()
}

/// The checkpoints in `folder`, the oldest first.
fn numbered(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let reading = |source| CheckpointError::Io {
        path: folder.to_owned(),
        source,
    };
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in folder.read_dir().map_err(reading)? {
        let entry = entry.map_err(reading)?;
        if let Ok(number) = entry.file_name().to_string_lossy().parse::<u64>() {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}
