//! Reads what trainers write while they run: mlx-lm's lines, transformers' output and `trainer_state.json`, JSON lines and
//! CSV; and what each process of a training recorded.

mod mlx_lm;
mod ranks;
mod records;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::evidence::{Listing, LogEntry, LogEvidence};
pub use ranks::read as read_ranks;
use records::Records;

/// The name of a format that is told in two ways.
const JSON_LINES: &str = "JSON lines";

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
    /// A rank of a training has left no records.
    #[error("there is no `{}`\n  expected: a file of records for each rank of a training, as examples/record_ranks.py writes them\n  hint: give the folder that holds them, or the file of a log", path.display())]
    NoRecords {
        /// The file.
        path: PathBuf,
    },
    /// It is no file of text.
    #[error("the log `{}` is broken\n  found: {found}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
    },
}

/// Reads a log of any of the five formats, told apart by their content.
///
/// What can be read of it is kept, in order of its steps, and lines that cannot are counted: a trainer that is killed
/// leaves half a line.
///
/// # Errors
/// The file cannot be read, is no regular one, or holds no losses.
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
    let text = decoded(&bytes);
    let (format, (mut entries, left_out)) = recognised(text.trim_start_matches('\u{feff}'));
    if entries
        .iter()
        .all(|entry: &LogEntry| entry.loss.is_none() && entry.validation_loss.is_none())
    {
        return Err(LogError::NoLosses { path: path.to_owned() });
    }
    if names_each_step_once(&entries) {
        entries.sort_by_key(|entry| entry.step);
    }
    Ok(LogEvidence {
        format: format.to_owned(),
        entries,
        lines_left_out: Listing::numbered("line", left_out.into_iter()),
    })
}

/// The format of a text, and what it holds.
fn recognised(text: &str) -> (&'static str, Records) {
    let text = text.trim_start();
    if text.starts_with('{') && !text.starts_with("{'") {
        return match records::trainer_state(text) {
            Some(entries) => ("trainer_state.json", (entries, Vec::new())),
            None => (JSON_LINES, records::json_lines(text)),
        };
    }
    if let Some(entries) = records::printed(text) {
        return ("transformers' output", (entries, Vec::new()));
    }
    if let Some(delimiter) = records::csv_delimiter(text) {
        return ("CSV", records::csv(text, delimiter));
    }
    let entries = mlx_lm::entries(text);
    if entries.is_empty() {
        // Something else was printed before the first of them.
        return (JSON_LINES, records::json_lines(text));
    }
    ("mlx-lm", (entries, Vec::new()))
}

/// Text of UTF-8, or of UTF-16 where its first bytes say so: what PowerShell's `>` writes.
fn decoded(bytes: &[u8]) -> String {
    let units = |of: fn([u8; 2]) -> u16| -> String {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| of([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xFF, 0xFE, ..] => units(u16::from_le_bytes),
        [0xFE, 0xFF, ..] => units(u16::from_be_bytes),
        // Terminals' logs may hold anything; what is no text cannot be a number.
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Whether no step has two training losses or two validation losses: a file of two runs keeps its order.
fn names_each_step_once(entries: &[LogEntry]) -> bool {
    let mut seen = BTreeSet::new();
    entries
        .iter()
        .all(|entry| seen.insert((entry.step, entry.loss.is_some(), entry.validation_loss.is_some())))
}
