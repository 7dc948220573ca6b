//! Everything a run needs to go on as if it had never stopped.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use mlx_rs::Array;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::atomic_write::{UnfinishedFolder, write_file};
use crate::data::BatchState;
use crate::model::{WeightFileError, load_safetensors, save_safetensors};

/// Version of `state.json`.
const VERSION: u32 = 1;
const STATE: &str = "state.json";
const PARAMETERS: &str = "parameters.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredState {
    version: u32,
    optimizer: String,
    optimizer_updates: u64,
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
    /// Its state is broken.
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
        let state = StoredState {
            version: VERSION,
            optimizer: self.optimizer.clone(),
            optimizer_updates: self.optimizer_updates,
            progress: self.progress.clone(),
        };
        let text = serde_json::to_string_pretty(&state).map_err(|error| CheckpointError::Broken {
            path: target.clone(),
            found: error.to_string(),
        })?;
        write_file(&path(STATE), format!("{text}\n").as_bytes()).map_err(io(&target))?;
        // Renamed files whose bytes are still on their way would be empty after a loss of power.
        for name in [PARAMETERS, OPTIMIZER] {
            let path = path(name);
            File::open(&path).and_then(|file| file.sync_all()).map_err(io(&path))?;
        }
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
        Ok(Self {
            progress: state.progress,
            parameters: load_safetensors(&folder.join(PARAMETERS))?,
            optimizer: state.optimizer,
            optimizer_updates: state.optimizer_updates,
            optimizer_state: load_safetensors(&folder.join(OPTIMIZER))?,
        })
    }

    /// The newest checkpoint in `folder` that is whole, and what is wrong with newer ones; `None` when there is none.
    pub fn newest(folder: &Path) -> Result<(Option<Self>, Vec<CheckpointError>), CheckpointError> {
        let mut broken = Vec::new();
        for path in numbered(folder)?.into_iter().rev() {
            match Self::read(&path) {
                Ok(checkpoint) => return Ok((Some(checkpoint), broken)),
                Err(error) => broken.push(error),
            }
        }
        Ok((None, broken))
    }
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
