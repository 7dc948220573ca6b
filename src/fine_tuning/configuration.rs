//! What a run is asked to do, gathered from layers: a profile, a file, the command line; each value knows where it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_saphyr::Spanned;
use thiserror::Error;

use crate::model::{Problem, Problems};
use crate::yaml::{self, LARGEST_FILE, Node, SETTINGS};

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
        let Some(text) = yaml::read_file(path).map_err(reading)? else {
            return Err(ConfigurationFileError::TooLarge { path: path.to_owned() });
        };
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
        let root = yaml::parse(text)
            .map_err(|error| Problem::new(origin(error.line).to_string(), error.found, error.expected))?;
        let mut configuration = Self::default();
        match root.value {
            Node::Table(table) => configuration.insert_table("", table, &origin),
            Node::Scalar(Value::Null) => {}
            Node::Scalar(_) | Node::List(_) => {
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

    fn insert_table(
        &mut self,
        above: &str,
        table: Vec<(Spanned<String>, Spanned<Node>)>,
        origin: &impl Fn(u64) -> Origin,
    ) {
        for (key, node) in table {
            let key = format!("{above}{}", key.value);
            let origin_here = origin(node.referenced.line());
            match node.value {
                Node::Table(table) => self.insert_table(&format!("{key}."), table, origin),
                other => self.set(&key, other.into_value(), origin_here),
            }
        }
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
