//! Files and folders that appear whole or not at all: written under a temporary name beside the target, then renamed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Permission bits of a finished file.
const FILE_MODE: u32 = 0o644;
/// Permission bits of a finished folder.
const FOLDER_MODE: u32 = 0o755;
/// Beginning of temporary names.
const UNFINISHED: &str = ".partial-";

/// Writes `contents` to `path`.
pub fn write_file(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let mut temporary = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(folder_of(path))?;
    temporary.write_all(contents)?;
    temporary.as_file().sync_all()?;
    make_readable(temporary.path(), FILE_MODE)?;
    temporary.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Lets `write` fill a temporary file with the extension of `path`, then renames it to `path`.
pub fn replace_file<E: From<std::io::Error>>(path: &Path, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let extension = path
        .extension()
        .map_or_else(String::new, |extension| format!(".{}", extension.to_string_lossy()));
    let temporary = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .suffix(&extension)
        .tempfile_in(folder_of(path))?
        .into_temp_path();
    write(&temporary)?;
    make_readable(&temporary, FILE_MODE)?;
    temporary.persist(path).map_err(|error| E::from(error.error))?;
    Ok(())
}

/// A folder under a temporary name; removed unless it is finished.
#[derive(Debug)]
pub struct UnfinishedFolder {
    temporary: TempDir,
    target: PathBuf,
    /// Locked while this process writes, by which those of killed processes are told; `None` where there are no locks.
    _lock: Option<File>,
}

impl UnfinishedFolder {
    /// An empty folder that will be `target`. What killed processes left of the same target is removed.
    pub fn for_target(target: &Path) -> std::io::Result<Self> {
        let folder = folder_of(target);
        let mut prefix = OsString::from(UNFINISHED);
        prefix.push(target.file_name().unwrap_or_default());
        prefix.push("-");
        remove_left_behind(folder, &prefix);
        let temporary = tempfile::Builder::new().prefix(&prefix).tempdir_in(folder)?;
        Ok(Self {
            _lock: locked(temporary.path()),
            temporary,
            target: target.to_owned(),
        })
    }

    /// Where to write until it is finished.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Renames the folder to its target, which must not hold anything.
    pub fn finish(self) -> std::io::Result<()> {
        make_readable(self.temporary.path(), FOLDER_MODE)?;
        std::fs::rename(self.temporary.path(), &self.target)?;
        // Nothing is left under the temporary name to be removed.
        let _ = self.temporary.keep();
        Ok(())
    }
}

/// The folder, locked; `None` where another process holds it, or it cannot be locked.
fn locked(folder: &Path) -> Option<File> {
    let folder = File::open(folder).ok()?;
    folder.try_lock().ok()?;
    Some(folder)
}

/// Removes unfinished folders whose names begin with `prefix` and that no process writes any more. One that stays is in
/// nobody's way.
fn remove_left_behind(folder: &Path, prefix: &OsStr) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let is_unfinished = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(prefix.as_encoded_bytes());
        if is_unfinished && let Some(_lock) = locked(&entry.path()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Temporary files and folders are private to the user; results are not.
#[cfg(unix)]
fn make_readable(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn make_readable(_path: &Path, _mode: u32) -> std::io::Result<()> {
    Ok(())
}
