//! Results of an earlier comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::folder::RECORD_FILE;
use super::{MemorySample, RECORD_SCHEMA_VERSION, Record, ResultsFolder, TestKey, TestRecord};
use crate::counts::beyond_counting;

/// Everything that a comparison measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// What was measured.
    pub record: Record,
    /// Samples of memory by test; tests whose memory was not watched, or whose file is missing, have none.
    pub samples: BTreeMap<TestKey, Vec<MemorySample>>,
}

/// Why results cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// A file is not there.
    #[error("`{}` is missing\n  hint: {hint}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What may help.
        hint: String,
    },
    /// A file is there and cannot be read.
    #[error("`{}` cannot be read\n  found: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file ends in the middle.
    #[error("`{}` ends in the middle\n  found: {source}\n  expected: a whole file of `diagnose compare`\n  hint: a copy of it may have been cut short; copy it again", path.display())]
    Cut {
        /// The file.
        path: PathBuf,
        /// Where it ends.
        source: serde_json::Error,
    },
    /// A file is of something else.
    #[error("`{}` is no result of a comparison\n  found: {found}\n  expected: {expected}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is in it.
        found: String,
        /// What would be.
        expected: String,
    },
    /// Another version of this program wrote it.
    #[error("`{}` was written by another version of this program\n  found: version {found} of the format\n  expected: version {RECORD_SCHEMA_VERSION}\n  hint: read it with the version that wrote it, or measure again", path.display())]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
}

/// The field that all files of a comparison begin with.
#[derive(Deserialize)]
struct Version {
    schema_version: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryFile {
    #[serde(rename = "schema_version")]
    _schema_version: u32,
    key: TestKey,
    samples: Vec<MemorySample>,
}

impl ResultsFolder {
    /// Everything that was measured.
    ///
    /// # Errors
    /// The record is missing, or a file is foreign, of another version, or cut. Samples whose file is missing are left out.
    pub fn read(&self) -> Result<Results, ResultsError> {
        let path = self.record_file();
        let record: Record = read_file(&path, || missing_record(self.path()))?;
        check(&record).map_err(|(found, expected)| ResultsError::Foreign { path, found, expected })?;
        let mut samples = BTreeMap::new();
        for test in record.tests.iter().filter(|test| test.memory.is_some()) {
            if let Some(of_test) = self.samples(test)? {
                samples.insert(test.key.clone(), of_test);
            }
        }
        Ok(Results { record, samples })
    }

    /// The samples of a test; `None` where their file is missing, so that the rest can be judged without them.
    fn samples(&self, test: &TestRecord) -> Result<Option<Vec<MemorySample>>, ResultsError> {
        let path = self.memory_file(&test.key);
        let file: MemoryFile = match read_file(&path, String::new) {
            Err(ResultsError::Missing { .. }) => return Ok(None),
            other => other?,
        };
        if file.key != test.key {
            return Err(ResultsError::Foreign {
                path,
                found: format!("samples of `{}`", file.key.file_name()),
                expected: format!("samples of `{}`", test.key.file_name()),
            });
        }
        Ok(Some(file.samples))
    }
}

/// What is wrong with a record that is well-formed, and what it should be: nothing could be judged of it, or not all.
fn check(record: &Record) -> Result<(), (String, String)> {
    match serde_json::to_value(record).map(|value| beyond_counting(&value)) {
        Ok(None) => {}
        Ok(Some(found)) => return Err((found, written_by_compare())),
        Err(error) => return Err((error.to_string(), written_by_compare())),
    }
    let plan = &record.plan;
    for (name, is_empty) in [
        ("pairs", plan.pairs.is_empty()),
        ("scenarios", plan.scenarios.is_empty()),
        ("formats", plan.formats.is_empty()),
    ] {
        if is_empty {
            return Err((
                format!("a plan without {name}"),
                "the plan that was measured".to_owned(),
            ));
        }
    }
    let mut seen = BTreeSet::new();
    for TestRecord { key, .. } in &record.tests {
        if plan.pairs.iter().all(|pair| pair.name != key.pair) {
            return Err((
                format!("a test of `{}`", key.pair),
                "tests of the plan's pairs".to_owned(),
            ));
        }
        if !seen.insert(key) {
            return Err((format!("`{}` twice", key.file_name()), "each test once".to_owned()));
        }
    }
    Ok(())
}

/// What a file of results should be.
fn written_by_compare() -> String {
    format!("a file that `diagnose compare` wrote with version {RECORD_SCHEMA_VERSION} of the format")
}

fn read_file<T: DeserializeOwned>(path: &Path, hint: impl Fn() -> String) -> Result<T, ResultsError> {
    let text = std::fs::read(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => ResultsError::Missing {
            path: path.to_owned(),
            hint: hint(),
        },
        _ => ResultsError::Unreadable {
            path: path.to_owned(),
            source,
        },
    })?;
    let refused = |error: serde_json::Error| {
        if error.is_eof() {
            ResultsError::Cut {
                path: path.to_owned(),
                source: error,
            }
        } else {
            ResultsError::Foreign {
                path: path.to_owned(),
                found: error.to_string(),
                expected: written_by_compare(),
            }
        }
    };
    let version: Version = serde_json::from_slice(&text).map_err(refused)?;
    if version.schema_version != u64::from(RECORD_SCHEMA_VERSION) {
        return Err(ResultsError::OtherVersion {
            path: path.to_owned(),
            found: version.schema_version,
        });
    }
    serde_json::from_slice(&text).map_err(refused)
}

/// Where results probably are, when they are not in `folder`.
fn missing_record(folder: &Path) -> String {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let newest = entries
        .map(|entry| entry.path())
        .filter(|path| path.join(RECORD_FILE).is_file())
        .max();
    match newest {
        Some(newest) => format!("did you mean `{}`?", newest.display()),
        None => "name a folder that `diagnose compare run` made, such as `results/20260131_120000`".to_owned(),
    }
}
