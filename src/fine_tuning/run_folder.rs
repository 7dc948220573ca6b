//! The folder that a run leaves, and what lies where in it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::checkpoint::newest_update;
use super::run_inputs::RunInputs;
use super::run_lock::RunLock;
use crate::atomic_write::write_file;

/// Version of `run.json`.
const VERSION: u32 = 2;
/// Beginning of the names under which unfinished files and folders stand.
const UNFINISHED: &str = ".partial-";

/// What a run began with, for going on with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    version: u32,
    /// Every setting of the run.
    pub settings: Value,
    /// What it was given beside them.
    pub inputs: RunInputs,
}

impl RunRecord {
    /// A record of a run that begins now.
    pub fn new(settings: Value, inputs: RunInputs) -> Self {
        Self {
            version: VERSION,
            settings,
            inputs,
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
    /// Another process trains in it.
    #[error("a run is going on in `{}`\n  expected: a folder that no other process trains in\n  hint: wait for its end, or choose another `--out`", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
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
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Held while a run goes on; a folder that is only read has none.
    lock: Option<RunLock>,
}

impl RunFolder {
    /// A new folder for a run, which is made where it does not exist.
    ///
    /// # Errors
    /// Something is in it already: nothing is ever overwritten. Or another run is going on in it.
    pub fn create(path: &Path) -> Result<Self, RunFolderError> {
        std::fs::create_dir_all(path).map_err(writing(path))?;
        let mut folder = Self {
            path: path.to_owned(),
            lock: None,
        };
        // A folder of something else does not even get the file that is locked.
        if !RunLock::path(path).exists() {
            folder.refuse_used()?;
        }
        folder.lock = Some(RunLock::take(path)?);
        folder.refuse_used()?;
        folder.remove_unfinished()?;
        Ok(folder)
    }

    /// The folder of a run that another process keeps: nothing is written to it.
    pub fn of_another(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            lock: None,
        }
    }

    /// Finds out whether [`Self::create`] would succeed, and leaves everything as it is.
    ///
    /// # Errors
    /// As of [`Self::create`].
    pub fn check_new(path: &Path) -> Result<(), RunFolderError> {
        if path.is_dir() {
            if RunLock::path(path).exists() {
                RunLock::take(path)?;
            }
            let folder = Self {
                path: path.to_owned(),
                lock: None,
            };
            folder.refuse_used()?;
        }
        // What does not exist yet will lie in the first folder above it that does.
        let whole = std::path::absolute(path).map_err(writing(path))?;
        let place = whole.ancestors().find(|place| place.exists()).unwrap_or(path);
        tempfile::tempfile_in(place).map(drop).map_err(writing(path))
    }

    /// The folder of a run that began earlier, to go on with it, and its record.
    ///
    /// # Errors
    /// There is no run in it, or the run is going on.
    pub fn resume(path: &Path) -> Result<(Self, RunRecord), RunFolderError> {
        let (mut folder, record) = Self::open(path)?;
        folder.lock = Some(RunLock::take(path)?);
        folder.remove_unfinished()?;
        Ok((folder, record))
    }

    /// The folder of a run, which may be going on, to read from it, and its record.
    ///
    /// # Errors
    /// There is no run in it.
    pub fn open(path: &Path) -> Result<(Self, RunRecord), RunFolderError> {
        let folder = Self {
            path: path.to_owned(),
            lock: None,
        };
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
        Ok((folder, record))
    }

    /// Refuses a folder with anything in it but what a killed run left unfinished.
    fn refuse_used(&self) -> Result<(), RunFolderError> {
        let path = &self.path;
        let is_ours = |name: &String| name.starts_with(UNFINISHED) || path.join(name) == RunLock::path(path);
        let mut names = self.names().map_err(writing(path))?;
        names.sort();
        let Some(found) = names.into_iter().find(|name| !is_ours(name)) else {
            return Ok(());
        };
        let hint = match Self::open(path) {
            Ok((folder, record)) if folder.has_all_updates(&record) => {
                "choose another `--out`: the run in this folder is finished".to_owned()
            }
            Ok(_) => format!(
                "go on with it by `diagnose train resume {}`, or choose another `--out`",
                path.display()
            ),
            Err(_) => "choose another `--out`".to_owned(),
        };
        Err(RunFolderError::Used {
            path: path.clone(),
            found,
            hint,
        })
    }

    fn has_all_updates(&self, record: &RunRecord) -> bool {
        newest_update(&self.checkpoints()) >= Some(record.inputs.updates as u64)
    }

    /// Writes what the run begins with.
    pub fn write_record(&self, record: &RunRecord) -> Result<(), RunFolderError> {
        let path = self.record_path();
        let text = serde_json::to_string_pretty(record).map_err(|error| RunFolderError::BrokenRecord {
            path: path.clone(),
            found: error.to_string(),
        })?;
        write_file(&path, format!("{text}\n").as_bytes()).map_err(writing(&path))
    }

    /// Removes the folder of a run that did not begin, where nothing is in it.
    pub fn remove_if_unused(self) {
        if self.refuse_used().is_ok() {
            // An empty folder that stays harms nobody.
            let _ = std::fs::remove_file(RunLock::path(&self.path)).and_then(|()| std::fs::remove_dir(&self.path));
        }
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
                    removed.map_err(writing(&path))?;
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

fn writing(path: &Path) -> impl FnOnce(std::io::Error) -> RunFolderError {
    let path = path.to_owned();
    move |source| RunFolderError::Write { path, source }
}
