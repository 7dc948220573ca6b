//! The folder that a run leaves, and what lies where in it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::atomic_write::write_file;

/// Version of `run.json`.
const VERSION: u32 = 1;
/// Beginning of the names under which unfinished files and folders stand.
const UNFINISHED: &str = ".partial-";

/// What a run began with, for going on with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    version: u32,
    /// Every setting of the run.
    pub settings: Value,
    /// Checksum of the rows as tokens, by which changed data is noticed.
    pub data_checksum: u32,
    /// Optimizer updates of the whole run.
    pub updates: usize,
}

impl RunRecord {
    /// A record of a run that begins now.
    pub fn new(settings: Value, data_checksum: u32, updates: usize) -> Self {
        Self {
            version: VERSION,
            settings,
            data_checksum,
            updates,
        }
    }
}

/// Why a folder is not, or cannot be, that of a run.
#[derive(Debug, Error)]
pub enum RunFolderError {
    /// Something else is in the folder.
    #[error("`{}` is not empty\n  found: `{found}`\n  expected: a new folder\n  hint: {hint}", path.display())]
    Used {
        /// The folder.
        path: PathBuf,
        /// The first name in it.
        found: String,
        /// What to do.
        hint: String,
    },
    /// There is no run in it.
    #[error("there is no run in `{}`\n  found: {source}\n  expected: a folder that `diagnose train` left, with a run.json", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its record is broken.
    #[error("the record of the run in `{}` cannot be used\n  found: {found}", path.display())]
    BrokenRecord {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// A file or folder could not be written or removed.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The folder of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// A new folder for a run, which is made where it does not exist.
    ///
    /// # Errors
    /// Something is in it already: nothing is ever overwritten.
    pub fn create(path: &Path) -> Result<Self, RunFolderError> {
        let writing = |source| RunFolderError::Write {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(path).map_err(writing)?;
        let folder = Self { path: path.to_owned() };
        let mut names = folder.names().map_err(writing)?;
        names.sort();
        match names.into_iter().find(|name| !name.starts_with(UNFINISHED)) {
            None => {
                folder.remove_unfinished()?;
                Ok(folder)
            }
            Some(found) => Err(RunFolderError::Used {
                path: path.to_owned(),
                found,
                hint: if folder.record_path().is_file() {
                    format!(
                        "go on with it by `diagnose train resume {}`, or choose another `--out`",
                        path.display()
                    )
                } else {
                    "choose another `--out`".to_owned()
                },
            }),
        }
    }

    /// The folder of a run that began earlier, and its record.
    pub fn open(path: &Path) -> Result<(Self, RunRecord), RunFolderError> {
        let folder = Self { path: path.to_owned() };
        let text = std::fs::read_to_string(folder.record_path()).map_err(|source| RunFolderError::NoRun {
            path: path.to_owned(),
            source,
        })?;
        let broken = |found: String| RunFolderError::BrokenRecord {
            path: folder.record_path(),
            found,
        };
        let record: RunRecord = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
        if record.version != VERSION {
            return Err(broken(format!(
                "version {}, this program has {VERSION}",
                record.version
            )));
        }
        folder.remove_unfinished()?;
        Ok((folder, record))
    }

    /// Writes what the run begins with.
    pub fn write_record(&self, record: &RunRecord) -> Result<(), RunFolderError> {
        let path = self.record_path();
        let text = serde_json::to_string_pretty(record).map_err(|error| RunFolderError::BrokenRecord {
            path: path.clone(),
            found: error.to_string(),
        })?;
        write_file(&path, format!("{text}\n").as_bytes()).map_err(|source| RunFolderError::Write { path, source })
    }

    /// Removes the folder of a run that did not begin, where nothing is in it.
    pub fn remove_if_empty(&self) {
        // A folder with something in it is not removed, and an empty one that stays harms nobody.
        let _ = std::fs::remove_dir(&self.path);
    }

    /// Removes what a killed run was in the middle of writing.
    fn remove_unfinished(&self) -> Result<(), RunFolderError> {
        for folder in [self.path.clone(), self.checkpoints()] {
            let Ok(entries) = folder.read_dir() else {
                continue;
            };
            for entry in entries.flatten() {
                let path = entry.path();
                if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                    let removed = if path.is_dir() {
                        std::fs::remove_dir_all(&path)
                    } else {
                        std::fs::remove_file(&path)
                    };
                    removed.map_err(|source| RunFolderError::Write { path, source })?;
                }
            }
        }
        Ok(())
    }

    fn names(&self) -> std::io::Result<Vec<String>> {
        let entries = self.path.read_dir()?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// The folder itself, which holds the adapter in mlx-lm's format when the run is over.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn record_path(&self) -> PathBuf {
        self.path.join("run.json")
    }

    /// One line for every update and measurement.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The checkpoints, each a folder named by its update.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The whole model that full fine-tuning leaves.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// The course of the losses, for a browser.
    pub fn loss_plot(&self) -> PathBuf {
        self.path.join("loss.html")
    }

    /// The trained values with the best loss on rows for validation, where a run may end early.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// The report of a diagnosis that ended the run.
    pub fn diagnosis(&self) -> PathBuf {
        self.path.join("diagnosis.md")
    }
}
