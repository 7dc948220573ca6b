//! JSON text as Python's `json.dumps` writes it, for the `tojson` filter of chat templates.
//!
//! Models were trained on Python's text, so its separators, its order of keys and its spelling of floats are kept.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Deepest nesting of values that have a text: Python's `json.dumps` gives up at about as many.
const DEEPEST: usize = 1000;

/// How the text is laid out; the arguments of `json.dumps`.
#[derive(Debug, Clone)]
pub(super) struct JsonLayout {
    /// Spaces per level; `None` for everything on one line.
    pub(super) indent: Option<usize>,
    /// Between items.
    pub(super) item_separator: String,
    /// Between a key and its value.
    pub(super) key_separator: String,
    /// Whether keys are sorted.
    pub(super) sort_keys: bool,
    /// Whether characters beyond ASCII are escaped.
    pub(super) ensure_ascii: bool,
}

/// `value` as JSON text.
///
/// # Errors
/// When the value, or something in it, has no JSON form.
pub(super) fn to_json(value: &Value, layout: &JsonLayout) -> Result<String, Error> {
    let mut text = String::new();
    write_value(&mut text, value, layout, 0)?;
    Ok(text)
}

fn write_value(text: &mut String, value: &Value, layout: &JsonLayout, depth: usize) -> Result<(), Error> {
    if depth > DEEPEST {
        let message = format!("values nested deeper than {DEEPEST} levels have no JSON form");
        return Err(Error::new(ErrorKind::BadSerialization, message));
    }
    match value.kind() {
        ValueKind::None => text.push_str("null"),
        ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if value.is_integer() => text.push_str(&value.to_string()),
        ValueKind::Number => text.push_str(&float(value)?),
        ValueKind::String => write_text(text, value.as_str().unwrap_or(""), layout.ensure_ascii),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_items(text, ('[', ']'), items.len(), layout, depth, |text, index| {
                write_value(text, &items[index], layout, depth + 1)
            })?;
        }
        ValueKind::Map => {
            let mut entries = Vec::new();
            for key in value.try_iter()? {
                let item = value.get_item(&key)?;
                entries.push((key_text(&key)?, item));
            }
            if layout.sort_keys {
                entries.sort_by(|(first, _), (second, _)| first.cmp(second));
            }
            write_items(text, ('{', '}'), entries.len(), layout, depth, |text, index| {
                let (key, item) = &entries[index];
                write_text(text, key, layout.ensure_ascii);
                text.push_str(&layout.key_separator);
                write_value(text, item, layout, depth + 1)
            })?;
        }
        kind => return Err(not_serializable(kind)),
    }
    Ok(())
}

fn write_items(
    text: &mut String,
    (open, close): (char, char),
    count: usize,
    layout: &JsonLayout,
    depth: usize,
    mut write_item: impl FnMut(&mut String, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let new_line = |text: &mut String, depth: usize| {
        if let Some(indent) = layout.indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    text.push(open);
    for index in 0..count {
        if index > 0 {
            text.push_str(&layout.item_separator);
        }
        new_line(text, depth + 1);
        write_item(text, index)?;
    }
    if count > 0 {
        new_line(text, depth);
    }
    text.push(close);
    Ok(())
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or("").to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(key.is_true().to_string()),
        ValueKind::Number if key.is_integer() => Ok(key.to_string()),
        ValueKind::Number => float(key),
        kind => Err(not_serializable(kind)),
    }
}

fn not_serializable(kind: ValueKind) -> Error {
    Error::new(
        ErrorKind::BadSerialization,
        format!("a value of kind {kind} has no JSON form"),
    )
}

/// A float as Python's `repr`: the digits and limits are Rust's, but an exponent has a sign and two digits.
fn float(value: &Value) -> Result<String, Error> {
    let number = f64::try_from(value.clone())?;
    if number.is_nan() {
        return Ok("NaN".to_owned());
    }
    if number.is_infinite() {
        return Ok(if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned());
    }
    let text = format!("{number:?}");
    Ok(match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
    })
}

fn write_text(text: &mut String, content: &str, ensure_ascii: bool) {
    text.push('"');
    for character in content.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            control if control < ' ' => escape(text, control),
            // Python also escapes DEL when it keeps to ASCII.
            other if ensure_ascii && !(' '..='~').contains(&other) => escape(text, other),
            other => text.push(other),
        }
    }
    text.push('"');
}

fn escape(text: &mut String, character: char) {
    let mut units = [0; 2];
    for unit in character.encode_utf16(&mut units) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\\u{unit:04x}");
    }
}
