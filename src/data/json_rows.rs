//! Takes a file apart into its rows: JSON lines, or one JSON array.

use std::path::Path;

use serde_json::Value;

use super::strict_json::StrictValue;
use crate::model::Problem;

/// Longest part of a row that an error repeats, in characters.
const SHOWN_CHARACTERS: usize = 40;

/// How a file holds its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One object on each line.
    Lines,
    /// One array of objects.
    Array,
}

impl Layout {
    /// An array in a `.json` file that begins with a bracket, lines in every other.
    pub fn of(path: &Path, bytes: &[u8]) -> Self {
        let is_json = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        if is_json && first == Some(&b'[') {
            Self::Array
        } else {
            Self::Lines
        }
    }

    /// What a row of such a file is called.
    pub fn rows(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::Array => "elements",
        }
    }

    /// What makes a file of rows usable, the first of whose faults is `fault`.
    pub fn hint(self, fault: RowFault) -> &'static str {
        match (fault, self) {
            (RowFault::Encoding, _) => "save the file as UTF-8",
            (RowFault::Json, Self::Lines) => {
                "write one whole JSON object on each line, or one array of objects into a .json file"
            }
            (RowFault::Json, Self::Array) => "write one array of whole JSON objects, with a comma between them",
            (RowFault::Content, _) => "mend these rows, or leave them out",
        }
    }
}

/// What keeps a row from being used; what has to be mended first comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowFault {
    /// It is no UTF-8.
    Encoding,
    /// It is not one JSON object.
    Json,
    /// The object has other fields than a row.
    Content,
}

/// One row of a file.
#[derive(Debug)]
pub struct Row<'file> {
    /// Line on which it begins, counted from 1.
    pub line: usize,
    /// Its place in the array, counted from 1; `None` for a line.
    pub element: Option<usize>,
    /// Its beginning, for messages.
    pub text: &'file str,
    /// Its value, or what keeps it from being one; the location is empty.
    pub value: Result<Value, (RowFault, Problem)>,
}

/// The rows of a file, in order. A problem inside a line is followed by the next line, one in an array ends the rows.
pub fn rows<'file>(layout: Layout, bytes: &'file [u8]) -> Box<dyn Iterator<Item = Row<'file>> + 'file> {
    match layout {
        Layout::Lines => Box::new(lines(bytes)),
        Layout::Array => match std::str::from_utf8(bytes) {
            Ok(text) => Box::new(ArrayRows::new(text)),
            Err(error) => {
                let before = &bytes[..error.valid_up_to()];
                let begin = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
                Box::new(std::iter::once(Row {
                    line: count_lines(before) + 1,
                    element: None,
                    text: "",
                    value: Err(not_utf8(before.len() - begin)),
                }))
            }
        },
    }
}

/// The beginning of a row, for messages.
pub fn shorten(text: &str) -> String {
    let mut characters = text.trim().chars();
    let start: String = characters.by_ref().take(SHOWN_CHARACTERS).collect();
    if characters.next().is_some() {
        format!("{start}...")
    } else {
        start
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = Row<'_>> {
    let lines = bytes.split(|&byte| byte == b'\n').enumerate();
    let filled = lines.filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace));
    filled.map(|(index, line)| {
        let (text, value) = match std::str::from_utf8(line) {
            Ok(text) => (
                text,
                serde_json::from_str(text)
                    .map(|StrictValue(value)| value)
                    .map_err(|error| {
                        let found = format!("`{}`, {} at column {}", shorten(text), cause(&error), error.column());
                        (RowFault::Json, Problem::new("", found, "one JSON object"))
                    }),
            ),
            Err(error) => ("", Err(not_utf8(error.valid_up_to()))),
        };
        Row {
            line: index + 1,
            element: None,
            text,
            value,
        }
    })
}

fn not_utf8(valid: usize) -> (RowFault, Problem) {
    let found = format!("bytes that are not UTF-8 at column {}", valid + 1);
    (RowFault::Encoding, Problem::new("", found, "UTF-8 text"))
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.split(|&byte| byte == b'\n').count() - 1
}

/// What the library says without its own line and column.
fn cause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ")
        .map_or(text.clone(), |(cause, _)| cause.to_owned())
}

/// The elements of an array, one parsed at a time.
struct ArrayRows<'file> {
    text: &'file str,
    /// Where reading goes on, in bytes.
    position: usize,
    /// The line of that position, counted from 1.
    line: usize,
    /// Elements read.
    elements: usize,
    is_over: bool,
}

impl<'file> ArrayRows<'file> {
    /// `text` begins with a bracket, after white space.
    fn new(text: &'file str) -> Self {
        let mut rows = Self {
            text,
            position: 0,
            line: 1,
            elements: 0,
            is_over: false,
        };
        rows.skip_blanks();
        rows.position += 1;
        rows
    }

    fn rest(&self) -> &'file str {
        &self.text[self.position..]
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        let blanks = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.advance(blanks);
    }

    fn advance(&mut self, bytes: usize) {
        let end = self.position + bytes;
        self.line += count_lines(&self.text.as_bytes()[self.position..end]);
        self.position = end;
    }

    /// The last row: what is wrong with the array at this place.
    fn broken(&mut self, line: usize, found: String, expected: &str) -> Row<'file> {
        self.is_over = true;
        Row {
            line,
            element: Some(self.elements + 1),
            text: "",
            value: Err((RowFault::Json, Problem::new("", found, expected))),
        }
    }

    fn shown(&self) -> String {
        match shorten(self.rest()) {
            nothing if nothing.is_empty() => "the end of the file".to_owned(),
            text => format!("`{text}`"),
        }
    }

    /// Passes what separates an element from the next; a row when that is wrong, or when the array is over and more
    /// follows.
    fn separate(&mut self) -> Option<Row<'file>> {
        self.skip_blanks();
        match self.rest().bytes().next() {
            Some(b']') => {
                self.is_over = true;
                self.position += 1;
                self.skip_blanks();
                (!self.rest().is_empty()).then(|| self.broken(self.line, self.shown(), "the end of the file"))
            }
            _ if self.elements == 0 => None,
            Some(b',') => {
                self.position += 1;
                self.skip_blanks();
                let closes = self.rest().starts_with(']');
                closes.then(|| self.broken(self.line, "a comma before `]`".to_owned(), "an object behind a comma"))
            }
            _ => Some(self.broken(self.line, self.shown(), "`,` or `]` behind an element")),
        }
    }
}

impl<'file> Iterator for ArrayRows<'file> {
    type Item = Row<'file>;

    fn next(&mut self) -> Option<Row<'file>> {
        if self.is_over {
            return None;
        }
        let wrong = self.separate();
        if wrong.is_some() || self.is_over {
            return wrong;
        }
        let text = self.rest();
        let line = self.line;
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<StrictValue>();
        match values.next() {
            Some(Ok(StrictValue(value))) => {
                let length = values.byte_offset();
                self.advance(length);
                self.elements += 1;
                Some(Row {
                    line,
                    element: Some(self.elements),
                    text: &text[..length],
                    value: Ok(value),
                })
            }
            Some(Err(error)) => {
                let begin = self.text[..self.position].rfind('\n').map_or(0, |end| end + 1);
                let before = if error.line() == 1 { self.position - begin } else { 0 };
                let found = format!(
                    "{}, {} at column {}",
                    self.shown(),
                    cause(&error),
                    before + error.column()
                );
                Some(self.broken(line + error.line() - 1, found, "one JSON object"))
            }
            None => Some(self.broken(line, self.shown(), "one JSON object, or `]`")),
        }
    }
}
