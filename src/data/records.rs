//! Reads training records from JSON lines: conversations, completions or plain text.
//!
//! The formats are mlx-lm's. Where mlx-lm judges a file by its first row and fails in the middle of training, every
//! line is checked before anything else is done.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

use crate::evidence::Listing;
use crate::model::{Message, Problem, Problems};

/// File of a data folder that training reads.
const TRAIN_FILE: &str = "train.jsonl";
/// File of a data folder that validation reads, if it exists.
const VALID_FILE: &str = "valid.jsonl";

/// Roles that chat templates know.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// How many lines an error about mixed formats shows for each.
const SHOWN_LINES: usize = 10;

/// Longest part of a line that an error repeats, in characters.
const SHOWN_CHARACTERS: usize = 40;

const EXPECTED_RECORD: &str = "an object with `messages`, with `prompt` and `completion`, or with `text`";

/// Why training data could not be read.
#[derive(Debug, Error)]
pub enum DataError {
    /// The path, or the file that a folder must have, could not be read.
    #[error("data `{}` cannot be read\n  found: {source}\n  hint: give a .jsonl file, or a folder with a train.jsonl", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no record.
    #[error("data `{}` is empty\n  found: no line with a record\n  expected: one JSON object on each line\n  hint: check that the file was written to its end", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Lines could not be used.
    #[error("data `{}` has lines that cannot be used ({} of {lines})\n{problems}\n  hint: write one whole JSON object on each line", path.display(), problems.len())]
    Lines {
        /// The file.
        path: PathBuf,
        /// Lines that are not blank.
        lines: usize,
        /// One entry per unusable line, located as `file:line`.
        problems: Problems,
    },
    /// The lines are not all of one format.
    #[error("data `{}` mixes formats\n  found: {found}\n  expected: one format in all lines\n  hint: split the file by format", path.display())]
    Mixed {
        /// The file.
        path: PathBuf,
        /// Each format with its lines.
        found: String,
    },
}

/// The three kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataFormat {
    /// `messages`, optionally `tools`.
    Chat,
    /// `prompt` and `completion`.
    Completions,
    /// `text`.
    Text,
}

impl DataFormat {
    /// The name used in reports: `chat`, `completions` or `text`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Text => "text",
        }
    }
}

impl fmt::Display for DataFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One row of training data.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A conversation.
    Chat {
        /// At least one message.
        messages: Vec<Message>,
        /// Descriptions of tools, for the chat template.
        tools: Option<Vec<Value>>,
    },
    /// A question and its answer.
    Completions {
        /// What the user says.
        prompt: String,
        /// What the assistant answers.
        completion: String,
        /// Descriptions of tools, for the chat template.
        tools: Option<Vec<Value>>,
    },
    /// Plain text, not empty.
    Text(String),
}

impl Record {
    /// The record's kind.
    pub fn format(&self) -> DataFormat {
        match self {
            Self::Chat { .. } => DataFormat::Chat,
            Self::Completions { .. } => DataFormat::Completions,
            Self::Text(_) => DataFormat::Text,
        }
    }
}

/// The records of one file, all of one format, at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordFile {
    /// The file.
    pub path: PathBuf,
    /// The format of every record.
    pub format: DataFormat,
    /// The records in the order of the file.
    pub records: Vec<Record>,
    /// For each record the line it comes from, counted from 1.
    pub lines: Vec<usize>,
}

impl RecordFile {
    /// Reads a JSON lines file. Blank lines and a byte order mark are passed over.
    ///
    /// # Errors
    /// See [`DataError`]; every unusable line is listed.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let bytes = fs::read(path).map_err(|source| DataError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &bytes)
    }

    /// Reads the content of a JSON lines file; `path` is named in errors.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, DataError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut problems = Problems::default();
        let mut records = Vec::new();
        let mut lines = Vec::new();
        let mut filled = 0;
        for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            filled += 1;
            match parse_line(line) {
                Ok(record) => {
                    records.push(record);
                    lines.push(index + 1);
                }
                Err(problem) => problems.push(Problem {
                    location: locate(path, index + 1, &problem.location),
                    ..problem
                }),
            }
        }
        if !problems.is_empty() {
            return Err(DataError::Lines {
                path: path.to_owned(),
                lines: filled,
                problems,
            });
        }
        let Some(first) = records.first() else {
            return Err(DataError::Empty { path: path.to_owned() });
        };
        let format = first.format();
        if records.iter().any(|record| record.format() != format) {
            return Err(DataError::Mixed {
                path: path.to_owned(),
                found: describe_formats(&records, &lines),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            format,
            records,
            lines,
        })
    }
}

/// The files of a data argument.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFiles {
    /// What is trained on.
    pub train: RecordFile,
    /// What is only measured, where there is such a file.
    pub valid: Option<RecordFile>,
}

impl DataFiles {
    /// Reads a folder with `train.jsonl` and perhaps `valid.jsonl`, or a single file.
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn read(path: &Path) -> Result<Self, DataError> {
        if !path.is_dir() {
            return Ok(Self {
                train: RecordFile::read(path)?,
                valid: None,
            });
        }
        let valid = path.join(VALID_FILE);
        Ok(Self {
            train: RecordFile::read(&path.join(TRAIN_FILE))?,
            valid: valid.exists().then(|| RecordFile::read(&valid)).transpose()?,
        })
    }
}

fn locate(path: &Path, line: usize, field: &str) -> String {
    let file = path.file_name().unwrap_or(path.as_os_str()).display();
    if field.is_empty() {
        format!("{file}:{line}")
    } else {
        format!("{file}:{line} {field}")
    }
}

fn describe_formats(records: &[Record], lines: &[usize]) -> String {
    let mut by_format: BTreeMap<DataFormat, Vec<usize>> = BTreeMap::new();
    for (record, line) in records.iter().zip(lines) {
        by_format.entry(record.format()).or_default().push(*line);
    }
    let described: Vec<String> = by_format
        .into_iter()
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

/// One line as a record; the location of a problem is the field it is about, empty for the line as a whole.
fn parse_line(line: &[u8]) -> Result<Record, Problem> {
    let text = std::str::from_utf8(line).map_err(|error| {
        Problem::new(
            "",
            format!("bytes that are not UTF-8 at column {}", error.valid_up_to() + 1),
            "UTF-8 text",
        )
    })?;
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let cause = error.to_string();
        let cause = cause
            .rsplit_once(" at line ")
            .map_or(cause.as_str(), |(cause, _)| cause);
        Problem::new(
            "",
            format!("`{}`, {cause} at column {}", shorten(text), error.column()),
            "one JSON object",
        )
    })?;
    let Value::Object(object) = value else {
        return Err(Problem::new("", format!("`{}`", shorten(text)), EXPECTED_RECORD));
    };
    // mlx-lm's order of preference.
    if object.contains_key("prompt") && object.contains_key("completion") {
        return Ok(Record::Completions {
            prompt: text_field(&object, "prompt")?,
            completion: text_field(&object, "completion")?,
            tools: tools(&object)?,
        });
    }
    if object.contains_key("messages") {
        return Ok(Record::Chat {
            messages: messages(&object)?,
            tools: tools(&object)?,
        });
    }
    if object.contains_key("text") {
        let text = text_field(&object, "text")?;
        if text.is_empty() {
            return Err(Problem::new("text", "an empty text", "at least one character"));
        }
        return Ok(Record::Text(text));
    }
    let keys: Listing = object.keys().cloned().collect();
    Err(Problem::new("", format!("an object with {keys}"), EXPECTED_RECORD))
}

fn shorten(text: &str) -> String {
    let text = text.trim();
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(SHOWN_CHARACTERS).collect();
    if characters.next().is_some() {
        format!("{start}...")
    } else {
        start
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn text_field(object: &Map<String, Value>, key: &str) -> Result<String, Problem> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        other => Err(Problem::new(key, other.map_or("no value", kind), "a text")),
    }
}

fn tools(object: &Map<String, Value>) -> Result<Option<Vec<Value>>, Problem> {
    match object.get("tools") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(tools)) => Ok(Some(tools.clone())),
        Some(other) => Err(Problem::new("tools", kind(other), "an array of tools")),
    }
}

fn messages(object: &Map<String, Value>) -> Result<Vec<Message>, Problem> {
    let values = match object.get("messages") {
        Some(Value::Array(values)) if !values.is_empty() => values,
        Some(Value::Array(_)) => return Err(Problem::new("messages", "an empty array", "at least one message")),
        other => {
            return Err(Problem::new(
                "messages",
                other.map_or("no value", kind),
                "an array of messages",
            ));
        }
    };
    let mut messages = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let at = |problem: Problem| Problem {
            location: format!("messages[{index}].{}", problem.location),
            ..problem
        };
        let Value::Object(fields) = value else {
            return Err(Problem::new(
                format!("messages[{index}]"),
                kind(value),
                "an object with a role and a content",
            ));
        };
        let message = Message::from_fields(fields.clone()).map_err(at)?;
        if !ROLES.contains(&message.role()) {
            let expected = ROLES.map(|role| format!("`{role}`")).join(", ");
            return Err(at(Problem::new("role", format!("`{}`", message.role()), expected)));
        }
        let may_be_silent = message.role() == "assistant" && message.fields().contains_key("tool_calls");
        if !may_be_silent && message.fields().get("content").is_none_or(Value::is_null) {
            return Err(at(Problem::new("content", "no value", "a text")));
        }
        messages.push(message);
    }
    Ok(messages)
}
