//! Files for parsers that take a path.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The file `name` with these bytes, in a folder that goes with the first part.
pub(super) fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = folder(&[(name, bytes)]);
    let path = folder.path().join(name);
    (folder, path)
}

/// A folder with these files.
pub(super) fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in files {
        write(&folder.path().join(name), bytes);
    }
    folder
}

pub(super) fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a temporary file");
}

/// A file or folder under `fixtures`.
pub(super) fn fixture(path: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().find(|folder| folder.join("fixtures").is_dir());
    root.expect("the repository").join("fixtures").join(path)
}

/// Its bytes.
pub(super) fn fixture_bytes(path: &str) -> Vec<u8> {
    fs::read(fixture(path)).expect("a fixture")
}
