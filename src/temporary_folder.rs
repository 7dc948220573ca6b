//! Folders for as long as a process needs them, removed even where it cannot end in order.
//!
//! MLX cannot be told to stop computing, nor a collective to stop waiting for a process that is lost. A process that has to
//! end all the same runs no destructors, so its folders are listed here.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static FOLDERS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A folder among the system's temporary files; removed when dropped, and by [`end_process`].
#[derive(Debug)]
pub struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    /// An empty folder that only the user may read.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new() -> io::Result<Self> {
        // Listed before it can be missed.
        let mut folders = folders();
        let path = tempfile::Builder::new().prefix("diagnose-").tempdir()?.keep();
        folders.insert(path.clone());
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // A folder that stays is in nobody's way.
        let _ = fs::remove_dir_all(&self.path);
        folders().remove(&self.path);
    }
}

/// Ends the process with `code` at once, whatever its other threads do; of what it made, only the temporary folders go.
pub fn end_process(code: i32) -> ! {
    remove_all();
    // `std::process::exit` would take apart what other threads still compute with.
    signal_hook::low_level::exit(code)
}

/// Removes the temporary folders of a process that is about to end.
pub fn remove_all() {
    for folder in std::mem::take(&mut *folders()) {
        // Under another name, so that no other thread adds to it meanwhile.
        let mut ended = folder.clone().into_os_string();
        ended.push("-ended");
        let _ = fs::rename(folder, &ended).and_then(|()| fs::remove_dir_all(ended));
    }
}

fn folders() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}
