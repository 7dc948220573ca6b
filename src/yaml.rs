//! Values of YAML that know their lines, and what is said of a text that is none.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::{Error, Spanned};

/// Largest file that is read, in bytes; a larger one is another file by mistake.
pub const LARGEST_FILE: u64 = 1 << 20;

/// What a configuration is.
pub const SETTINGS: &str = "keys and values, one `key: value` on each line";

/// A value of YAML.
#[derive(Debug)]
pub enum Node {
    /// Null, a truth value, a number or a text.
    Scalar(Value),
    /// A list.
    List(Vec<Spanned<Node>>),
    /// Keys and values in their order.
    Table(Vec<(Spanned<String>, Spanned<Node>)>),
}

/// A text that is no YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotYaml {
    /// Where, counted from 1.
    pub line: u64,
    /// What stands there.
    pub found: String,
    /// What was expected there.
    pub expected: &'static str,
}

/// Reads YAML.
///
/// # Errors
/// It is none, or holds more than a configuration does.
pub fn parse(text: &str) -> Result<Spanned<Node>, NotYaml> {
    serde_saphyr::from_str(text).map_err(|error: Error| {
        let line = error.location().map_or(1, |location| location.line());
        let (found, expected) = in_our_words(error.without_snippet());
        NotYaml { line, found, expected }
    })
}

/// The text of a file; `None` where it is larger than [`LARGEST_FILE`].
///
/// # Errors
/// The file cannot be read, or is no text.
pub fn read_file(path: &Path) -> std::io::Result<Option<String>> {
    let mut text = String::new();
    // A device states no length, and may have no end.
    let read = File::open(path)?.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
    Ok((read as u64 <= LARGEST_FILE).then_some(text))
}

/// A number as a value. JSON has no infinity and no NaN; as a text it is refused where it is read as a number.
pub fn number(value: f64) -> Value {
    Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
}

/// What was found in a text that is no YAML of keys and values, and what was expected there.
fn in_our_words(error: &Error) -> (String, &'static str) {
    match error {
        Error::DuplicateMappingKey { key, .. } => {
            let key = key
                .as_deref()
                .map_or("a key".to_owned(), |key| format!("the key `{key}`"));
            (format!("{key} twice"), "each key once")
        }
        Error::NonFiniteFloat { value, .. } => (format!("`{value}`"), "a finite number"),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::RecursiveReferencesRequireWeakTypes { .. } => (
            "more values, levels or aliases than a configuration has".to_owned(),
            SETTINGS,
        ),
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => in_our_words(error),
        Error::MultipleDocuments { .. } => ("a second document".to_owned(), "one document of keys and values"),
        Error::NullIntoString { .. } => ("a key without a name".to_owned(), SETTINGS),
        Error::Unexpected {
            expected: "string scalar",
            ..
        } => ("a list or keys and values in place of a key".to_owned(), SETTINGS),
        other => (other.to_string(), SETTINGS),
    }
}

impl Node {
    /// The value without its lines.
    pub fn into_value(self) -> Value {
        match self {
            Self::Scalar(value) => value,
            Self::List(list) => list.into_iter().map(|node| node.value.into_value()).collect(),
            Self::Table(table) => Value::Object(
                table
                    .into_iter()
                    .map(|(key, node)| (key.value, node.value.into_value()))
                    .collect(),
            ),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(number(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = access.next_element()? {
            list.push(node);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = access.next_entry()? {
            table.push(entry);
        }
        Ok(Node::Table(table))
    }
}
