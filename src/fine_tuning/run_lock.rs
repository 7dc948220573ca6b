//! A run keeps its folder to itself while it goes on.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::run_folder::RunFolderError;

/// The file that is locked; it stays in the folder, since removing it would let two processes lock two files of that name.
const NAME: &str = "run.lock";

/// A folder that no other process trains in; the system gives it free when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the folder, or says that a run is going on in it.
    pub(super) fn take(folder: &Path) -> Result<Self, RunFolderError> {
        let path = Self::path(folder);
        let writing = |source| RunFolderError::Write {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(writing)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(RunFolderError::InUse {
                path: folder.to_owned(),
            }),
            // Some network folders know no locks, and training there is still better than none.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(Self { _file: file }),
            Err(TryLockError::Error(source)) => Err(writing(source)),
        }
    }

    /// Where the file stands.
    pub(super) fn path(folder: &Path) -> PathBuf {
        folder.join(NAME)
    }
}
