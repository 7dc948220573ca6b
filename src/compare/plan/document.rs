//! A YAML document whose values know their lines, and reading values of it with every problem collected.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_saphyr::Spanned;

use super::PlanProblem;
use crate::suggestion::closest;
use crate::yaml::{self, Node, SETTINGS};

/// Keys that are known, and where each stands.
pub(super) struct Table<'node> {
    path: String,
    line: u64,
    entries: &'node [(Spanned<String>, Spanned<Node>)],
}

/// What was read, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Everything that is wrong so far.
    pub problems: Vec<PlanProblem>,
    /// Where its keys stand.
    pub lines: Lines,
}

/// Where keys stand, by their paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Lines(BTreeMap<String, u64>);

impl Lines {
    /// The line of a key, or of the nearest key around it.
    pub fn line_of(&self, path: &str) -> Option<u64> {
        let mut path = path;
        loop {
            if let Some(line) = self.0.get(path) {
                return Some(*line);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

/// Reads YAML.
pub(super) fn parse(text: &str) -> Result<Spanned<Node>, PlanProblem> {
    yaml::parse(text).map_err(|error| PlanProblem::new("", error.found, error.expected).at(error.line))
}

/// Whether a key with this value counts as not given.
fn is_null(node: &Node) -> bool {
    matches!(node, Node::Scalar(Value::Null))
}

/// A value for people.
fn description(node: &Node) -> String {
    match node {
        Node::Scalar(Value::Null) => "nothing".to_owned(),
        Node::Scalar(Value::String(text)) => format!("the text `{text}`"),
        Node::Scalar(value) => format!("`{value}`"),
        Node::List(_) => "a list".to_owned(),
        Node::Table(_) => "keys and values".to_owned(),
    }
}

impl Table<'_> {
    /// The path of a key of it.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The value of a key; one without a value counts as not given.
    fn value(&self, key: &str) -> Option<&Spanned<Node>> {
        let entry = self.entries.iter().find(|(name, _)| name.value == key);
        entry.map(|(_, node)| node).filter(|node| !is_null(&node.value))
    }

    /// Whether a key has a value.
    pub fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// The value of a key as it stands, for keys whose values have several forms.
    pub fn node(&self, key: &str) -> Option<&Spanned<Node>> {
        self.value(key)
    }
}

impl Reading {
    fn wrong(&mut self, path: &str, node: &Spanned<Node>, expected: &str) {
        let problem = PlanProblem::new(path, description(&node.value), expected);
        self.problems.push(problem.at(node.referenced.line()));
    }

    /// Keys and values of which only `keys` may be there.
    pub fn table<'node>(&mut self, path: &str, node: &'node Spanned<Node>, keys: &[&str]) -> Option<Table<'node>> {
        let table = self.open_table(path, node)?;
        for (key, _) in table.entries {
            if !keys.contains(&key.value.as_str()) {
                let expected = format!("one of {}", keys.join(", "));
                let problem = PlanProblem::new(table.path(&key.value), "an unknown key", expected);
                let near = closest(&key.value, keys.iter().copied());
                self.problems.push(problem.at(key.referenced.line()).meaning(near));
            }
        }
        Some(table)
    }

    /// Keys and values of any names.
    fn open_table<'node>(&mut self, path: &str, node: &'node Spanned<Node>) -> Option<Table<'node>> {
        let Node::Table(entries) = &node.value else {
            self.wrong(path, node, SETTINGS);
            return None;
        };
        let line = self.lines.0.get(path).copied().unwrap_or(node.referenced.line());
        let table = Table {
            path: path.to_owned(),
            line,
            entries,
        };
        for (key, _) in entries {
            self.lines.0.insert(table.path(&key.value), key.referenced.line());
        }
        Some(table)
    }

    /// Says that a key is missing unless it has a value.
    pub fn required(&mut self, table: &Table<'_>, key: &str, expected: &str) {
        if !table.has(key) {
            let problem = PlanProblem::new(table.path(key), "nothing", expected);
            self.problems.push(problem.at(table.line));
        }
    }

    /// A text; numbers are taken as they are written.
    pub fn text(&mut self, table: &Table<'_>, key: &str) -> Option<String> {
        let node = table.value(key)?;
        self.text_of(&table.path(key), node)
    }

    fn text_of(&mut self, path: &str, node: &Spanned<Node>) -> Option<String> {
        match &node.value {
            Node::Scalar(Value::String(text)) => Some(text.clone()),
            Node::Scalar(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
            _ => {
                self.wrong(path, node, "a text");
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn truth(&mut self, table: &Table<'_>, key: &str) -> Option<bool> {
        let node = table.value(key)?;
        let Node::Scalar(Value::Bool(value)) = node.value else {
            self.wrong(&table.path(key), node, "true or false");
            return None;
        };
        Some(value)
    }

    /// A whole number that is not negative.
    pub fn count(&mut self, table: &Table<'_>, key: &str) -> Option<u64> {
        let node = table.value(key)?;
        self.count_of(&table.path(key), node)
    }

    fn count_of(&mut self, path: &str, node: &Spanned<Node>) -> Option<u64> {
        let count = match &node.value {
            Node::Scalar(value) => value.as_u64(),
            Node::List(_) | Node::Table(_) => None,
        };
        if count.is_none() {
            self.wrong(path, node, "a whole number");
        }
        count
    }

    /// Any number.
    pub fn number(&mut self, table: &Table<'_>, key: &str) -> Option<f64> {
        let node = table.value(key)?;
        let number = match &node.value {
            Node::Scalar(value) => value.as_f64(),
            Node::List(_) | Node::Table(_) => None,
        };
        if number.is_none() {
            self.wrong(&table.path(key), node, "a number");
        }
        number
    }

    /// The places of a list, each with its path.
    pub fn list<'node>(
        &mut self,
        table: &'node Table<'_>,
        key: &str,
        expected: &str,
    ) -> Option<Vec<(String, &'node Spanned<Node>)>> {
        let node = table.value(key)?;
        let path = table.path(key);
        let Node::List(nodes) = &node.value else {
            self.wrong(&path, node, expected);
            return None;
        };
        let mut places = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.lines.0.insert(path.clone(), node.referenced.line());
            places.push((path, node));
        }
        Some(places)
    }

    /// A list of texts.
    pub fn texts(&mut self, table: &Table<'_>, key: &str, expected: &str) -> Option<Vec<String>> {
        let places = self.list(table, key, expected)?;
        places
            .into_iter()
            .map(|(path, node)| self.text_of(&path, node))
            .collect()
    }

    /// A list of whole numbers.
    pub fn counts(&mut self, table: &Table<'_>, key: &str) -> Option<Vec<u64>> {
        let places = self.list(table, key, "a list of whole numbers")?;
        places
            .into_iter()
            .map(|(path, node)| self.count_of(&path, node))
            .collect()
    }

    /// Names of any kind, each with a text.
    pub fn variables(&mut self, table: &Table<'_>, key: &str) -> Option<BTreeMap<String, String>> {
        let node = table.value(key)?;
        let inner = self.open_table(&table.path(key), node)?;
        let mut variables = BTreeMap::new();
        for (name, node) in inner.entries {
            if let Some(text) = self.text_of(&inner.path(&name.value), node) {
                variables.insert(name.value.clone(), text);
            }
        }
        Some(variables)
    }
}
