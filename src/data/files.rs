//! The files that a data argument stands for.

use std::fs;
use std::path::{Path, PathBuf};

use super::record::RecordKeys;
use super::records::{DataError, RecordFile};
use crate::evidence::Listing;
use crate::suggestion::closest;

/// Extensions of data files, in mlx-lm's form first.
const EXTENSIONS: [&str; 2] = ["jsonl", "json"];

/// What rows are for, as files are named after it.
const PARTS: [&str; 3] = ["train", "valid", "test"];

/// The files of a data argument.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFiles {
    /// What is trained on.
    pub train: RecordFile,
    /// What is only measured, where there is such a file.
    pub valid: Option<RecordFile>,
    /// What is measured once, after training, where there is such a file.
    pub test: Option<RecordFile>,
    /// Data files of the folder that nothing reads, sorted.
    pub unread_files: Vec<String>,
}

impl DataFiles {
    /// Reads a folder with `train.jsonl` or `train.json`, and perhaps a file named `valid` and one named `test`; or a
    /// single file.
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn read(path: &Path) -> Result<Self, DataError> {
        Self::read_with(path, &RecordKeys::default())
    }

    /// As [`Self::read`], with other names for the keys of rows.
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn read_with(path: &Path, keys: &RecordKeys) -> Result<Self, DataError> {
        if !path.is_dir() {
            return Ok(RecordFile::read_with(path, keys)?.into());
        }
        let names = data_files(path)?;
        let file = |part: &str| -> Result<Option<RecordFile>, DataError> {
            part_of(path, &names, part)?
                .map(|file| RecordFile::read_with(&file, keys))
                .transpose()
        };
        let [train, valid, test] = PARTS.map(file);
        let train = train?.ok_or_else(|| no_training_file(path, &names))?;
        let is_read = |name: &&String| {
            let parted = name.split_once('.');
            parted.is_some_and(|(part, extension)| PARTS.contains(&part) && EXTENSIONS.contains(&extension))
        };
        Ok(Self {
            train,
            valid: valid?,
            test: test?,
            unread_files: names.iter().filter(|name| !is_read(name)).cloned().collect(),
        })
    }
}

impl DataFiles {
    /// Each file with the name that mlx-lm has for it.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &RecordFile)> {
        let files = [
            ("train.jsonl", Some(&self.train)),
            ("valid.jsonl", self.valid.as_ref()),
            ("test.jsonl", self.test.as_ref()),
        ];
        files.into_iter().filter_map(|(name, file)| Some((name, file?)))
    }
}

impl From<RecordFile> for DataFiles {
    /// Rows that are all trained on.
    fn from(train: RecordFile) -> Self {
        Self {
            train,
            valid: None,
            test: None,
            unread_files: Vec::new(),
        }
    }
}

/// The names of the data files in a folder, sorted.
fn data_files(folder: &Path) -> Result<Vec<String>, DataError> {
    let unreadable = |source| DataError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        // A name that is not Unicode is none that is looked for.
        let Some(name) = name.to_str() else { continue };
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The one file of a folder with the rows for `part`.
fn part_of(folder: &Path, names: &[String], part: &str) -> Result<Option<PathBuf>, DataError> {
    let wanted = EXTENSIONS.map(|extension| format!("{part}.{extension}"));
    match wanted.each_ref().map(|name| names.contains(name)) {
        [true, true] => {
            let [first, second] = wanted;
            Err(DataError::Ambiguous {
                path: folder.to_owned(),
                first,
                second,
            })
        }
        [true, false] => Ok(Some(folder.join(&wanted[0]))),
        [false, true] => Ok(Some(folder.join(&wanted[1]))),
        [false, false] => Ok(None),
    }
}

fn no_training_file(folder: &Path, names: &[String]) -> DataError {
    let found = match names {
        [] => "no .jsonl or .json file".to_owned(),
        names => names.iter().cloned().collect::<Listing>().to_string(),
    };
    let meant = closest("train.jsonl", names.iter().map(String::as_str));
    let hint = match (meant, names) {
        (Some(name), _) => format!("name `{name}` train.jsonl, if it holds the rows to train on"),
        (None, [only]) => format!("give the file itself: {}", folder.join(only).display()),
        (None, _) => "name the file with the rows to train on train.jsonl".to_owned(),
    };
    DataError::NoTrainingFile {
        path: folder.to_owned(),
        found,
        hint,
    }
}
