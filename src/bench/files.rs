//! The files of a benchmark.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

use super::{BENCH_SCHEMA_VERSION, BenchResults, Comparison, PeerComparison, Summary, to_markdown, to_svg};
use crate::atomic_write::write_file;
use crate::counts::beyond_counting;

/// Every figure.
pub const RESULTS: &str = "mlx_benchmark_results.json";
/// It and the comparison with other programs, which is a file of its own, summed up.
const SUMMARY: &str = "benchmark_summary.json";
/// The tables.
const MARKDOWN: &str = "benchmark_results.md";
/// The plot.
const PLOT: &str = "benchmark_results.svg";
/// Every file of a benchmark but those of the comparison with other programs.
pub const FILES: [&str; 4] = [RESULTS, SUMMARY, MARKDOWN, PLOT];

/// A file could not be written.
#[derive(Debug, Error)]
#[error("cannot write `{}`: {source}", path.display())]
pub struct OutputError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

/// Why there is no earlier result to compare with.
#[derive(Debug, Error)]
pub enum BaselineError {
    /// It is not there, or cannot be read.
    #[error(
        "the baseline cannot be read: `{}`\n  found: {found}\n  expected: the folder that an earlier `diagnose bench --output-dir` filled",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        found: String,
    },
    /// It is no result.
    #[error(
        "`{}` is no result of `diagnose bench`\n  found: {found}\n  hint: measure the baseline again",
        path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// Another version of this program wrote it.
    #[error(
        "`{}` is a result of another version\n  found: schema version {found}\n  expected: {BENCH_SCHEMA_VERSION}\n  \
         hint: measure the baseline again with this program",
        path.display()
    )]
    OtherSchema {
        /// The file.
        path: PathBuf,
        /// Its version; `unknown` where it says none.
        found: String,
    },
}

/// Writes every file of a benchmark into `folder`, which is there, and returns their paths.
///
/// # Errors
/// [`OutputError`]; a file that was there before is still whole then.
pub fn write_results(
    folder: &Path,
    results: &BenchResults,
    comparison: Option<&Comparison>,
    pytorch: &PeerComparison,
) -> Result<Vec<PathBuf>, OutputError> {
    let summary = Summary::new(results, comparison, pytorch.clone());
    let texts = [
        (RESULTS, json(results)),
        (SUMMARY, json(&summary)),
        (MARKDOWN, Ok(to_markdown(results, comparison, pytorch, PLOT))),
        (PLOT, Ok(to_svg(results))),
    ];
    let mut paths = Vec::new();
    for (name, text) in texts {
        let path = folder.join(name);
        match text.and_then(|text| write_file(&path, text.as_bytes())) {
            Ok(()) => paths.push(path),
            Err(source) => return Err(OutputError { path, source }),
        }
    }
    Ok(paths)
}

fn json(value: &impl Serialize) -> std::io::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Reads the results in `folder`.
///
/// # Errors
/// [`BaselineError`].
pub fn read_results(folder: &Path) -> Result<BenchResults, BaselineError> {
    let path = folder.join(RESULTS);
    let text = std::fs::read_to_string(&path).map_err(|error| BaselineError::Unreadable {
        path: path.clone(),
        found: match error.kind() {
            ErrorKind::NotFound if !folder.is_dir() => "no such folder".to_owned(),
            ErrorKind::NotFound => "no such file in the folder".to_owned(),
            _ => error.to_string(),
        },
    })?;
    let broken = |found: String| BaselineError::Broken {
        path: path.clone(),
        found,
    };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
    let version = value.get("schema_version");
    if version.and_then(serde_json::Value::as_u64) != Some(u64::from(BENCH_SCHEMA_VERSION)) {
        return Err(BaselineError::OtherSchema {
            path,
            found: version.map_or_else(|| "unknown".to_owned(), ToString::to_string),
        });
    }
    if let Some(found) = beyond_counting(&value) {
        return Err(broken(found));
    }
    let results: BenchResults = serde_json::from_value(value).map_err(|error| broken(error.to_string()))?;
    let changed = results.figures().find(|(_, figure)| !figure.is_consistent());
    if let Some((subject, figure)) = changed {
        let found = format!(
            "the median or spread of {subject}/{} is not that of its samples",
            figure.name
        );
        return Err(BaselineError::Broken { path, found });
    }
    Ok(results)
}
