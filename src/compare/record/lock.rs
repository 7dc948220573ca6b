//! That only one comparison writes into a folder at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::PathBuf;

use super::ResultsFolder;

/// What is locked. It stays, since another comparison may have opened it already.
const LOCK_FILE: &str = ".lock";
/// Bytes of the number of a process.
const LONGEST_NUMBER: u64 = 20;

/// The right to write into a folder, until it is dropped or this program ends, however it does.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Why a folder may not be written to.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another comparison does.
    #[error("another comparison writes to `{}`\n  found: {holder}\n  expected: one comparison at a time; two would measure each other's load\n  hint: wait until it has ended", path.display())]
    Held {
        /// The folder.
        path: PathBuf,
        /// Who holds it.
        holder: String,
    },
    /// The file that is locked cannot be written.
    #[error("`{}` cannot be locked\n  found: {source}\n  expected: a folder that can be written to", path.display())]
    NotWritten {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ResultsFolder {
    /// Keeps other comparisons out of it.
    ///
    /// # Errors
    /// Another one is at it, or the folder cannot be written to.
    pub fn lock(&self) -> Result<FolderLock, LockError> {
        let path = self.path().join(LOCK_FILE);
        let not_written = |source| LockError::NotWritten {
            path: path.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(not_written)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held {
                    path: self.path().to_owned(),
                    holder: holder(&mut file),
                });
            }
            // Some file systems of other machines have no locks; nobody can hold one there either.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(not_written(error)),
        }
        let written = file.set_len(0).and_then(|()| file.rewind());
        written
            .and_then(|()| write!(file, "{}", std::process::id()))
            .map_err(not_written)?;
        Ok(FolderLock { _file: file })
    }
}

/// Who wrote into the file that is locked.
fn holder(file: &mut File) -> String {
    let mut number = String::new();
    let read = file.take(LONGEST_NUMBER).read_to_string(&mut number);
    match read.ok().and_then(|_| number.trim().parse::<u32>().ok()) {
        Some(id) => format!("process {id}"),
        None => "a process that has not said its number".to_owned(),
    }
}
