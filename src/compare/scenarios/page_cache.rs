//! A model's files in the system's page cache.

use std::path::{Path, PathBuf};

use crate::compare::Side;
use crate::compare::client::Address;

/// Files of a model that lies on this machine, sorted: the file, with its other parts where it has several, or all files of
/// the folder.
///
/// # Errors
/// It lies elsewhere, or where is not known; why, in one sentence without a final period.
pub fn files(side: &Side) -> Result<Vec<PathBuf>, String> {
    let path = Path::new(&side.model);
    if side.address.as_ref().is_some_and(|address| !is_here(address)) {
        return Err("the server runs on another machine".to_owned());
    }
    let folder = match (path.is_dir(), path.is_file()) {
        (true, _) => path,
        (false, true) => path.parent().unwrap_or(Path::new(".")),
        (false, false) => return Err("only the server knows where the model's files lie".to_owned()),
    };
    let parts = parts_of(path);
    let belongs =
        |file: &PathBuf| path.is_dir() || file == path || parts.as_ref().is_some_and(|parts| parts.include(file));
    let entries = folder
        .read_dir()
        .map_err(|error| format!("`{}` cannot be read: {error}", folder.display()))?;
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| format!("`{}` cannot be read: {error}", folder.display()))?;
        files.extend(Some(entry.path()).filter(|file| file.is_file() && belongs(file)));
    }
    files.sort();
    Ok(files)
}

fn is_here(address: &str) -> bool {
    Address::read(address).is_ok_and(|address| address.is_local())
}

/// How the names of a model's parts begin and end.
struct Parts {
    beginning: String,
    end: String,
}

impl Parts {
    fn include(&self, file: &Path) -> bool {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&self.beginning) && name.ends_with(&self.end)
    }
}

/// The parts of a file that llama.cpp's `gguf-split` named `NAME-00001-of-00003.gguf`.
fn parts_of(path: &Path) -> Option<Parts> {
    let name = path.file_name()?.to_str()?;
    let (beginning, of) = name.rsplit_once("-of-")?;
    let (beginning, number) = beginning.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(number) && is_number(of.strip_suffix(".gguf")?)).then(|| Parts {
        beginning: format!("{beginning}-"),
        end: format!("-of-{of}"),
    })
}

/// Asks the system to drop the pages of files, so that they are read from the disk again.
///
/// # Errors
/// It cannot, or this system has no way to ask; why, in one sentence without a final period.
#[cfg(target_os = "linux")]
pub fn evict(files: &[PathBuf]) -> Result<(), String> {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    for path in files {
        let evicted = std::fs::File::open(path).and_then(|file| {
            // Pages that are not written yet would stay.
            file.sync_data()?;
            Ok(posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
        });
        evicted.map_err(|error| format!("the pages of `{}` cannot be dropped: {error}", path.display()))?;
    }
    Ok(())
}

/// Asks the system to drop the pages of files, so that they are read from the disk again.
///
/// # Errors
/// Always: this system lets nobody but the administrator ask.
#[cfg(not(target_os = "linux"))]
pub fn evict(_files: &[PathBuf]) -> Result<(), String> {
    Err("this system does not let a program drop the pages of a file".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::files;
    use crate::compare::{ServerKind, Side};

    fn side(model: &str, address: Option<&str>) -> Side {
        Side {
            server: ServerKind::LlamaServer,
            model: model.to_owned(),
            address: address.map(str::to_owned),
            command: None,
            environment: BTreeMap::new(),
            api_key_variable: None,
        }
    }

    #[test]
    fn all_parts_of_a_model_are_found_and_no_other_model() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "a-00001-of-00002.gguf",
            "a-00002-of-00002.gguf",
            "b-00001-of-00002.gguf",
            "a.gguf",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names = |model: &str| {
            let files = files(&side(&folder.path().join(model).display().to_string(), None)).unwrap();
            let name = |file: &std::path::PathBuf| file.file_name().unwrap().to_string_lossy().into_owned();
            files.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(
            names("a-00001-of-00002.gguf"),
            ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]
        );
        assert_eq!(names("a.gguf"), ["a.gguf"]);
        assert_eq!(names("").len(), 4);
    }

    #[test]
    fn a_model_elsewhere_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().display().to_string();
        assert_eq!(
            files(&side(&model, Some("http://192.168.0.2:8080"))).unwrap_err(),
            "the server runs on another machine"
        );
        assert_eq!(
            files(&side("llama-3.3-70b", None)).unwrap_err(),
            "only the server knows where the model's files lie"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pages_of_a_file_that_is_there_can_be_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights");
        std::fs::write(&file, [0; 4096]).unwrap();
        assert_eq!(super::evict(std::slice::from_ref(&file)), Ok(()));
        let missing = super::evict(&[folder.path().join("absent")]).unwrap_err();
        assert!(missing.contains("absent"), "{missing}");
    }
}
