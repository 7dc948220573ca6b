//! What a run is asked to do, gathered from layers: a profile, a file, the command line; each value knows where it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::Spanned;
use thiserror::Error;

use crate::model::{Problem, Problems};

/// Largest configuration file that is read, in bytes; a larger one is another file by mistake.
const LARGEST_FILE: u64 = 1 << 20;

/// What a configuration is.
const SETTINGS: &str = "keys and values, one `key: value` on each line";

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a profile of this program.
    Profile(String),
    /// In a file.
    File {
        /// Its name without folders.
        name: String,
        /// Counted from 1.
        line: u64,
    },
    /// On the command line, for example `--batch-size`.
    Option(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Profile(name) => write!(formatter, "profile {name}"),
            Self::File { name, line } => write!(formatter, "{name}:{line}"),
            Self::Option(name) => formatter.write_str(name),
        }
    }
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The value; never null and never an object.
    pub value: Value,
    /// Where it was given.
    pub origin: Origin,
}

/// Why a configuration file was refused.
#[derive(Debug, Error)]
pub enum ConfigurationFileError {
    /// The file could not be read.
    #[error("configuration `{}` cannot be read\n  found: {source}\n  expected: a YAML file with the settings of a run", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is far too large.
    #[error("configuration `{}` is too large\n  found: more than {LARGEST_FILE} bytes\n  expected: a YAML file with the settings of a run", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not YAML, or not of keys and values.
    #[error("configuration `{}` cannot be used\n{problems}", path.display())]
    NotSettings {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        problems: Problems,
    },
}

/// Values by key; the keys of nested tables are joined by dots, as in `lora_parameters.rank`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Configuration {
    entries: BTreeMap<String, Entry>,
}

impl Configuration {
    /// Reads a YAML file. A key without a value counts as not given.
    pub fn read(path: &Path) -> Result<Self, ConfigurationFileError> {
        let reading = |source| ConfigurationFileError::Read {
            path: path.to_owned(),
            source,
        };
        let mut text = String::new();
        let file = File::open(path).map_err(reading)?;
        // A device states no length, and may have no end.
        let read = file.take(LARGEST_FILE + 1).read_to_string(&mut text).map_err(reading)?;
        if read as u64 > LARGEST_FILE {
            return Err(ConfigurationFileError::TooLarge { path: path.to_owned() });
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).display().to_string();
        Self::parse(&text, |line| Origin::File {
            name: name.clone(),
            line,
        })
        .map_err(|problem| ConfigurationFileError::NotSettings {
            path: path.to_owned(),
            problems: problem.into(),
        })
    }

    /// Reads YAML; `origin` says what a line is called.
    pub(super) fn parse(text: &str, origin: impl Fn(u64) -> Origin) -> Result<Self, Problem> {
        let root: Spanned<Node> = serde_saphyr::from_str(text).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line());
            let (found, expected) = in_our_words(error.without_snippet());
            Problem::new(origin(line).to_string(), found, expected)
        })?;
        let mut configuration = Self::default();
        match root.value {
            Node::Table(table) => configuration.insert_table("", table, &origin),
            Node::Value(Value::Null) => {}
            Node::Value(_) | Node::List(_) => {
                let place = origin(root.referenced.line()).to_string();
                return Err(Problem::new(place, "a list or a single value", SETTINGS));
            }
        }
        Ok(configuration)
    }

    /// Values from a table in JSON, which stands in the file `name`.
    pub fn from_json(table: &Value, name: &str) -> Self {
        let mut configuration = Self::default();
        configuration.insert_json("", table, name);
        configuration
    }

    fn insert_json(&mut self, above: &str, table: &Value, name: &str) {
        for (key, value) in table.as_object().into_iter().flatten() {
            let key = format!("{above}{key}");
            if value.is_object() {
                self.insert_json(&format!("{key}."), value, name);
            } else {
                let origin = Origin::File {
                    name: name.to_owned(),
                    line: 1,
                };
                self.set(&key, value.clone(), origin);
            }
        }
    }

    fn insert_table(&mut self, above: &str, table: Vec<(String, Spanned<Node>)>, origin: &impl Fn(u64) -> Origin) {
        for (key, node) in table {
            let key = format!("{above}{key}");
            let origin_here = origin(node.referenced.line());
            match node.value {
                Node::Table(table) => self.insert_table(&format!("{key}."), table, origin),
                other => self.set(&key, other.into_value(), origin_here),
            }
        }
    }

    /// A number as a value. JSON has no infinity and no NaN; as a text it is refused where it is read as a number.
    pub fn number(value: f64) -> Value {
        Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
    }

    /// Gives `key` a value; null leaves it as it is.
    pub fn set(&mut self, key: &str, value: Value, origin: Origin) {
        if !value.is_null() {
            self.entries.insert(key.to_owned(), Entry { value, origin });
        }
    }

    /// Lays `upper` over these values.
    pub fn overlay(&mut self, upper: Self) {
        // What is said anew about a schedule or a length replaces all that was said below.
        for group in [&["iters", "epochs"][..], &["supervision", "mask_prompt"]] {
            if group.iter().any(|key| upper.entries.contains_key(*key)) {
                self.entries.retain(|key, _| !group.contains(&key.as_str()));
            }
        }
        let is_schedule = |key: &String| key == "lr_schedule" || key.starts_with("lr_schedule.");
        if upper.entries.keys().any(is_schedule) {
            self.entries.retain(|key, _| !is_schedule(key));
        }
        let is_strength = |key: &String| key == "lora_parameters.scale" || key == "lora_parameters.alpha";
        if upper.entries.keys().any(is_strength) {
            self.entries.retain(|key, _| !is_strength(key));
        }
        self.entries.extend(upper.entries);
    }

    /// Every value by its key, sorted.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }
}

/// What was found in a text that is no YAML of keys and values, and what was expected there.
fn in_our_words(error: &serde_saphyr::Error) -> (String, &'static str) {
    use serde_saphyr::Error;
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
        other => (other.to_string(), SETTINGS),
    }
}

/// A value of YAML before its keys are joined.
#[derive(Debug)]
enum Node {
    Value(Value),
    List(Vec<Spanned<Node>>),
    Table(Vec<(String, Spanned<Node>)>),
}

impl Node {
    fn into_value(self) -> Value {
        match self {
            Self::Value(value) => value,
            Self::List(list) => list.into_iter().map(|node| node.value.into_value()).collect(),
            Self::Table(table) => Value::Object(
                table
                    .into_iter()
                    .map(|(key, node)| (key, node.value.into_value()))
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
        Ok(Node::Value(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Value(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Value(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Value(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Value(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Value(Configuration::number(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Value(value.into()))
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
