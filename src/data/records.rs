//! Reads training records from a file of rows: JSON lines or a JSON array, in one of five formats.
//!
//! Three formats are mlx-lm's, two are those of Alpaca and `ShareGPT`. Where mlx-lm judges a file by its first row and
//! fails in the middle of training, every row is checked before anything else is done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use super::json_rows::{Layout, Row, RowFault, rows, shorten};
use super::record::{DataFormat, Record, RecordKeys};
use crate::model::{Problem, Problems};

/// Most bytes that are read of what is no file.
const LARGEST_STREAM: u64 = 256 << 20;
/// How many lines an error about mixed formats shows for each.
const SHOWN_LINES: usize = 10;

/// Why training data could not be read.
#[derive(Debug, Error)]
pub enum DataError {
    /// The path could not be read.
    #[error("data `{}` cannot be read\n  found: {source}\n  hint: give a .jsonl file, a .json file, or a folder with a train.jsonl", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What comes from a pipe or a device does not end.
    #[error("data `{}` is too large for what is no file\n  found: more than {LARGEST_STREAM} bytes\n  expected: rows that end\n  hint: write them to a file", path.display())]
    Endless {
        /// The pipe or device.
        path: PathBuf,
    },
    /// A folder does not say what to train on.
    #[error("data folder `{}` has no training file\n  found: {found}\n  expected: train.jsonl or train.json\n  hint: {hint}", path.display())]
    NoTrainingFile {
        /// The folder.
        path: PathBuf,
        /// The data files it has.
        found: String,
        /// What to do.
        hint: String,
    },
    /// A folder holds the same rows' file twice.
    #[error("data folder `{}` says twice what to read\n  found: {first} and {second}\n  expected: one of them\n  hint: move the other out of the folder", path.display())]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// The file holds no record.
    #[error("data `{}` is empty\n  found: no record\n  expected: at least one JSON object\n  hint: check that the file was written to its end", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Rows could not be used.
    #[error("data `{}` has {} that cannot be used ({} of {rows})\n{problems}\n  hint: {}", path.display(), layout.rows(), problems.len(), layout.hint(*fault))]
    Rows {
        /// The file.
        path: PathBuf,
        /// How the file holds its rows.
        layout: Layout,
        /// What has to be mended first.
        fault: RowFault,
        /// Rows that were met: lines that are not blank, or elements up to one that ends the reading.
        rows: usize,
        /// One entry per unusable row, located as `file:line`, in arrays with the number of the element.
        problems: Problems,
    },
    /// The rows stand in the file in another way.
    #[error("data `{}` holds its rows in another way\n  found: {found}\n  expected: one JSON object on each line, or one array of them in a .json file\n  hint: {hint}", path.display())]
    OtherLayout {
        /// The file.
        path: PathBuf,
        /// How they stand there.
        found: String,
        /// What to do.
        hint: String,
    },
    /// The rows are not all of one format.
    #[error("data `{}` mixes formats\n  found: {found}\n  expected: one format in all rows\n  hint: split the file by format", path.display())]
    Mixed {
        /// The file.
        path: PathBuf,
        /// Each format with its lines.
        found: String,
    },
}

/// The records of one file, all of one format, at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordFile {
    /// The file.
    pub path: PathBuf,
    /// The format of every row, by which reports name it.
    pub format: DataFormat,
    /// The records in the order of the file.
    pub records: Vec<Record>,
    /// For each record the line on which it begins, counted from 1.
    pub lines: Vec<usize>,
    /// Keys of rows that nothing reads, sorted.
    pub unread_keys: Vec<String>,
}

impl RecordFile {
    /// Reads a file of rows: an array of objects in a `.json` file, JSON lines in any other and in a `.json` file that
    /// does not begin with a bracket. Blank lines and a byte order mark are passed over.
    ///
    /// # Errors
    /// See [`DataError`]; every unusable row is listed.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        Self::read_with(path, &RecordKeys::default())
    }

    /// As [`Self::read`], with other names for the keys of rows.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_with(path: &Path, keys: &RecordKeys) -> Result<Self, DataError> {
        Self::parse_with(path, &content(path)?, keys)
    }

    /// Reads the content of a file; `path` is named in errors, and its extension says whether it may be an array.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, DataError> {
        Self::parse_with(path, bytes, &RecordKeys::default())
    }

    /// As [`Self::parse`], with other names for the keys of rows.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse_with(path: &Path, bytes: &[u8], keys: &RecordKeys) -> Result<Self, DataError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let layout = Layout::of(path, bytes);
        let mut problems = Problems::default();
        let mut records = Vec::new();
        let mut lines = Vec::new();
        let mut lines_by_format: BTreeMap<DataFormat, Vec<usize>> = BTreeMap::new();
        let mut unread_keys = BTreeSet::new();
        let mut faults = BTreeSet::new();
        let mut met = 0;
        for row in rows(layout, bytes) {
            met += 1;
            let (line, element) = (row.line, row.element);
            match read_row(row, keys, &mut unread_keys) {
                Ok((format, record)) => {
                    records.push(record);
                    lines.push(line);
                    lines_by_format.entry(format).or_default().push(line);
                }
                Err((fault, problem)) => {
                    faults.insert(fault);
                    problems.push(Problem {
                        location: locate(path, line, element, &problem.location),
                        ..problem
                    });
                }
            }
        }
        if let Some(&fault) = faults.first() {
            if let Some((found, hint)) = other_layout(layout, bytes, keys).filter(|_| records.is_empty()) {
                let path = path.to_owned();
                return Err(DataError::OtherLayout { path, found, hint });
            }
            return Err(DataError::Rows {
                path: path.to_owned(),
                layout,
                fault,
                rows: met,
                problems,
            });
        }
        if lines_by_format.len() > 1 {
            return Err(DataError::Mixed {
                path: path.to_owned(),
                found: describe_formats(&lines_by_format),
            });
        }
        let Some((&format, _)) = lines_by_format.first_key_value() else {
            return Err(DataError::Empty { path: path.to_owned() });
        };
        Ok(Self {
            path: path.to_owned(),
            format,
            records,
            lines,
            unread_keys: unread_keys.into_iter().collect(),
        })
    }
}

impl RecordFile {
    /// Whether mlx-lm reads the file too: JSON lines in one of its own formats.
    pub fn is_for_mlx_lm(&self) -> bool {
        let is_json = self
            .path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        !is_json
            && matches!(
                self.format,
                DataFormat::Chat | DataFormat::Completions | DataFormat::Text
            )
    }

    /// The records as JSON lines in mlx-lm's formats.
    pub fn json_lines(&self) -> String {
        self.records
            .iter()
            .map(|record| record.to_json().to_string() + "\n")
            .collect()
    }
}

/// All bytes of a file, or of a pipe or device, which states no length and may have no end.
fn content(path: &Path) -> Result<Vec<u8>, DataError> {
    let unreadable = |source| DataError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    if file.metadata().map_err(unreadable)?.is_file() {
        file.read_to_end(&mut bytes).map_err(unreadable)?;
        return Ok(bytes);
    }
    let read = file
        .take(LARGEST_STREAM + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if read as u64 > LARGEST_STREAM {
        return Err(DataError::Endless { path: path.to_owned() });
    }
    Ok(bytes)
}

/// One row as a record. Keys that nothing reads are added to `unread`.
fn read_row(
    row: Row<'_>,
    keys: &RecordKeys,
    unread: &mut BTreeSet<String>,
) -> Result<(DataFormat, Record), (RowFault, Problem)> {
    let Value::Object(object) = row.value? else {
        let found = format!("`{}`", shorten(row.text));
        return Err((RowFault::Json, Problem::new("", found, keys.expected())));
    };
    let (format, record, unread_here) = keys.read(&object).map_err(|problem| (RowFault::Content, problem))?;
    for key in unread_here {
        if !unread.contains(key) {
            unread.insert(key.to_owned());
        }
    }
    Ok((format, record))
}

/// How the rows stand in a file whose lines are none, and what to do; `None` where they are not found anywhere.
fn other_layout(layout: Layout, bytes: &[u8], keys: &RecordKeys) -> Option<(String, String)> {
    if layout != Layout::Lines {
        return None;
    }
    let has_rows = |value: &Value| {
        let first = value.as_array().and_then(|rows| rows.first()?.as_object());
        first.is_some_and(|row| keys.format(row).is_some())
    };
    match serde_json::from_slice(bytes).ok()? {
        Value::Object(object) => {
            let (key, _) = object.iter().find(|(_, value)| has_rows(value))?;
            Some((
                format!("one JSON object with the rows in `{key}`"),
                format!("write what stands under `{key}` alone into a .json file"),
            ))
        }
        rows if has_rows(&rows) => Some((
            "one JSON array in a file of lines".to_owned(),
            "give the file the ending .json, or write one element on each line".to_owned(),
        )),
        _ => None,
    }
}

fn locate(path: &Path, line: usize, element: Option<usize>, field: &str) -> String {
    let file = path.file_name().unwrap_or(path.as_os_str()).display();
    let element = element.map_or_else(String::new, |element| format!(" element {element}"));
    let field = if field.is_empty() {
        String::new()
    } else {
        format!(" {field}")
    };
    format!("{file}:{line}{element}{field}")
}

fn describe_formats(lines_by_format: &BTreeMap<DataFormat, Vec<usize>>) -> String {
    let described: Vec<String> = lines_by_format
        .iter()
        .map(|(format, lines)| {
            let shown: Vec<String> = lines.iter().take(SHOWN_LINES).map(usize::to_string).collect();
            let more = lines.len() - shown.len();
            let more = if more == 0 {
                String::new()
            } else {
                format!(" and {more} more")
            };
            format!("{format} in lines {}{more}", shown.join(", "))
        })
        .collect();
    described.join("; ")
}
