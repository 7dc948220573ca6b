//! Files that appear whole or not at all: written under a temporary name beside the target, then renamed.

use std::io::Write;
use std::path::Path;

/// Writes `contents` to `path`.
pub fn write_file(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let mut temporary = tempfile::Builder::new()
        .prefix(".partial-")
        .tempfile_in(folder_of(path))?;
    temporary.write_all(contents)?;
    temporary.as_file().sync_all()?;
    make_readable(temporary.path())?;
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
    make_readable(&temporary)?;
    temporary.persist(path).map_err(|error| E::from(error.error))?;
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Temporary files are private to the user; results are not.
#[cfg(unix)]
fn make_readable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_path: &Path) -> std::io::Result<()> {
    Ok(())
}
