//! Evidence that was saved.

use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use super::{EVIDENCE_SCHEMA_VERSION, Evidence, RanksEvidence};
use crate::counts::beyond_counting;

/// Why a file is no evidence that can be judged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvidenceFileError {
    /// It is no evidence.
    #[error("`{}` is not evidence of this program\n  found: {found}\n  expected: an evidence.json that `--out` left\n  hint: run the diagnosis again", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// Another version of this program wrote it.
    #[error("`{}` is evidence of another version\n  found: schema version {found}\n  expected: {EVIDENCE_SCHEMA_VERSION}\n  hint: use the program that wrote it, or run the diagnosis again", path.display())]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version; `unknown` where it says none.
        found: String,
    },
}

impl Evidence {
    /// Reads the text of an `evidence.json`; `path` is named in errors.
    ///
    /// # Errors
    /// See [`EvidenceFileError`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, EvidenceFileError> {
        let foreign = |found: String| EvidenceFileError::Foreign {
            path: path.to_owned(),
            found,
        };
        let value: Value = serde_json::from_str(text).map_err(|error| foreign(error.to_string()))?;
        let version = value.get("schema_version").and_then(Value::as_u64);
        if version != Some(u64::from(EVIDENCE_SCHEMA_VERSION)) {
            return Err(EvidenceFileError::OtherVersion {
                path: path.to_owned(),
                found: version.map_or_else(|| "unknown".to_owned(), |version| version.to_string()),
            });
        }
        if let Some(found) = beyond_counting(&value) {
            return Err(foreign(found));
        }
        let evidence: Self = serde_json::from_value(value).map_err(|error| foreign(error.to_string()))?;
        match evidence.ranks.ran().and_then(RanksEvidence::missing) {
            Some(found) => Err(foreign(found)),
            None => Ok(evidence),
        }
    }
}
