//! `metrics.jsonl`: one line for every update, every measurement of held-out rows, and every look at several processes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::atomic_write::write_file;
use crate::evidence::{RanksUpdate, StepRecord};

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
    /// What each of several processes did in an update.
    Ranks(RanksUpdate),
}

impl MetricsLine {
    /// Updates made when it was written.
    pub fn update(&self) -> usize {
        match self {
            Self::Update(step) => step.step,
            Self::Validation(record) => record.update,
            Self::Ranks(ranks) => ranks.update,
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
    /// A killed run wrote lines of updates that the resumed run makes again, and perhaps a part of a line. What is no line
    /// of figures, and what follows it, is cut off too: figures are no reason not to go on.
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

/// The lines up to `update`, as text and as they are read.
fn kept_lines(path: &Path, update: usize) -> Result<Vec<(String, MetricsLine)>, MetricsError> {
    if update == 0 || !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = std::fs::read(path).map_err(|source| MetricsError::Io {
        path: path.to_owned(),
        source,
    })?;
    let whole = bytes.split_inclusive(|&byte| byte == b'\n').map_while(|line| {
        let text = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
        let parsed: MetricsLine = serde_json::from_str(text).ok()?;
        Some((text.to_owned(), parsed))
    });
    Ok(whole.take_while(|(_, line)| line.update() <= update).collect())
}
