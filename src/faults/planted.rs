use std::path::{Path, PathBuf};

use super::{Fault, FaultError, Operator, RunFiles};
use crate::diagnosis::{DataSource, DiagnosisOptions};
use crate::model::ModelSource;
use crate::temporary_folder::TemporaryFolder;

/// A fault in place, with the inputs it changed; dropping it removes them.
pub struct Planted {
    /// The steps of the faulty run.
    pub fault: Box<dyn Fault>,
    _folder: TemporaryFolder,
}

impl Operator {
    /// Plants the fault in a run: `options` are changed, and lead to copies of the inputs that they led to.
    ///
    /// A model in one GGUF file is left where it is; faults in model folders are impossible there.
    pub fn plant(&self, severity: f64, options: &mut DiagnosisOptions) -> Result<Planted, FaultError> {
        let folder = TemporaryFolder::new().map_err(|source| io(Path::new("a temporary folder"), source))?;
        let files = RunFiles {
            model: folder.path().join("model"),
            data: folder.path().join("data"),
        };
        for folder in [&files.model, &files.data] {
            std::fs::create_dir(folder).map_err(|source| io(folder, source))?;
        }
        if let ModelSource::Folder(original) = &options.source {
            link_all(original, &files.model)?;
            options.source = ModelSource::Folder(files.model.clone());
        }
        match &options.data {
            DataSource::Embedded(text) => {
                let path = files.data.join("train.jsonl");
                std::fs::write(&path, text).map_err(|source| io(&path, source))?;
            }
            DataSource::Path(path) if path.is_dir() => link_all(path, &files.data)?,
            DataSource::Path(path) => link(path, &files.data.join("train.jsonl"))?,
        }
        options.data = DataSource::Path(files.data.clone());
        let fault = (self.make)(severity);
        fault.alter(options, &files)?;
        Ok(Planted { fault, _folder: folder })
    }
}

/// Links every file of `source` into `target`: faults replace files by renaming, which leaves the originals alone.
fn link_all(source: &Path, target: &Path) -> Result<(), FaultError> {
    let entries = std::fs::read_dir(source).map_err(|error| io(source, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| io(source, error))?;
        link(&entry.path(), &target.join(entry.file_name()))?;
    }
    Ok(())
}

fn link(source: &Path, target: &Path) -> Result<(), FaultError> {
    let absolute = std::path::absolute(source).map_err(|error| io(source, error))?;
    std::os::unix::fs::symlink(absolute, target).map_err(|error| io(target, error))
}

fn io(path: &Path, source: std::io::Error) -> FaultError {
    FaultError::Io {
        path: PathBuf::from(path),
        source,
    }
}
