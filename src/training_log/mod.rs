//! Reads what trainers write while they run: mlx-lm's lines, transformers' output and `trainer_state.json`, JSON lines and
//! CSV.

mod mlx_lm;
mod records;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::evidence::{LogEntry, LogEvidence};

/// Why a log could not be read.
#[derive(Debug, Error)]
pub enum LogError {
    /// The file could not be read.
    #[error("cannot read the log `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No line of it is one of a training.
    #[error("`{}` holds no losses\n  expected: the output of mlx-lm or transformers, trainer_state.json, or JSON lines or CSV with `step` and `loss`", path.display())]
    NoLosses {
        /// The file.
        path: PathBuf,
    },
    /// It is neither whole JSON nor whole CSV.
    #[error("the log `{}` is broken\n  found: {found}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
    },
}

/// Reads a log of any of the four formats, told apart by their content.
///
/// # Errors
/// The file cannot be read, is broken, or holds no losses.
pub fn read(path: &Path) -> Result<LogEvidence, LogError> {
    let unreadable = |source| LogError::Read {
        path: path.to_owned(),
        source,
    };
    // A pipe would be waited for.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(LogError::Broken {
            path: path.to_owned(),
            found: "no regular file".to_owned(),
        });
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    // Terminals' logs may hold anything; what is no text cannot be a number.
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_start_matches('\u{feff}');
    let broken = |found: String| LogError::Broken {
        path: path.to_owned(),
        found,
    };
    let (format, entries) = if text.trim_start().starts_with('{') && !text.trim_start().starts_with("{'") {
        if let Some(entries) = records::trainer_state(text) {
            ("trainer_state.json", entries)
        } else {
            ("JSON lines", records::json_lines(text).map_err(broken)?)
        }
    } else if let Some(entries) = records::printed(text) {
        ("transformers' output", entries)
    } else if records::is_csv(text) {
        ("CSV", records::csv(text).map_err(broken)?)
    } else {
        ("mlx-lm", mlx_lm::entries(text))
    };
    if entries
        .iter()
        .all(|entry: &LogEntry| entry.loss.is_none() && entry.validation_loss.is_none())
    {
        return Err(LogError::NoLosses { path: path.to_owned() });
    }
    Ok(LogEvidence {
        format: format.to_owned(),
        entries,
    })
}
