//! `metrics.jsonl`: one line for every update and every measurement of held-out rows.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::atomic_write::write_file;
use crate::evidence::StepRecord;

/// One measurement of held-out rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationRecord {
    /// Updates made before it.
    pub update: usize,
    /// Mean loss per supervised token, in nats.
    pub loss: f64,
    /// Supervised tokens that were measured.
    pub tokens: usize,
    /// Seconds it took.
    pub seconds: f64,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricsLine {
    /// An update of the optimizer.
    Update(StepRecord),
    /// A measurement of held-out rows.
    Validation(ValidationRecord),
}

impl MetricsLine {
    /// Updates made when it was written.
    pub fn update(&self) -> usize {
        match self {
            Self::Update(step) => step.step,
            Self::Validation(record) => record.update,
        }
    }
}

/// Why the file could not be read or written.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// The system refused.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is none of this program's.
    #[error("`{}` has a line that is no measurement\n  found: line {line}: {found}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        found: String,
    },
}

/// The file, open at its end.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// A new file, or an earlier one cut behind update number `update`; returns its lines up to there.
    ///
    /// A killed run wrote lines of updates that the resumed run makes again, and perhaps a part of a line.
    pub fn resume(path: &Path, update: usize) -> Result<(Self, Vec<MetricsLine>), MetricsError> {
        let lines = kept_lines(path, update)?;
        let texts: Vec<&str> = lines.iter().flat_map(|(text, _)| [text.as_str(), "\n"]).collect();
        let text = texts.concat();
        let io = |source| MetricsError::Io {
            path: path.to_owned(),
            source,
        };
        write_file(path, text.as_bytes()).map_err(io)?;
        let file = OpenOptions::new().append(true).open(path).map_err(io)?;
        let metrics = Self {
            path: path.to_owned(),
            file,
        };
        Ok((metrics, lines.into_iter().map(|(_, line)| line).collect()))
    }

    /// Appends a line, at once.
    pub fn append(&mut self, line: &MetricsLine) -> Result<(), MetricsError> {
        let io = |source| MetricsError::Io {
            path: self.path.clone(),
            source,
        };
        let text = serde_json::to_string(line).map_err(|error| io(error.into()))?;
        self.file.write_all(format!("{text}\n").as_bytes()).map_err(io)
    }
}

/// The lines up to `update`, as text and as they are read. A last line without an end was cut by a kill.
fn kept_lines(path: &Path, update: usize) -> Result<Vec<(String, MetricsLine)>, MetricsError> {
    if update == 0 || !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).map_err(|source| MetricsError::Io {
        path: path.to_owned(),
        source,
    })?;
    let mut kept = Vec::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let Some(line) = line.strip_suffix('\n') else {
            break;
        };
        let parsed: MetricsLine = serde_json::from_str(line).map_err(|error| MetricsError::Line {
            path: path.to_owned(),
            line: index + 1,
            found: error.to_string(),
        })?;
        if parsed.update() > update {
            break;
        }
        kept.push((line.to_owned(), parsed));
    }
    Ok(kept)
}
