//! Files and folders that appear whole or not at all: written under a temporary name beside the target, then renamed.

use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Permission bits of a finished file.
const FILE_MODE: u32 = 0o644;
/// Permission bits of a finished folder.
const FOLDER_MODE: u32 = 0o755;

/// Writes `contents` to `path`.
pub fn write_file(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let mut temporary = tempfile::Builder::new()
        .prefix(".partial-")
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
        .prefix(".partial-")
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
}

impl UnfinishedFolder {
    /// An empty folder that will be `target`.
    pub fn for_target(target: &Path) -> std::io::Result<Self> {
        Ok(Self {
            temporary: tempfile::Builder::new()
                .prefix(".partial-")
                .tempdir_in(folder_of(target))?,
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
