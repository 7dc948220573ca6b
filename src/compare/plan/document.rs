//! A YAML document whose values know their lines, and reading values of it with every problem collected.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::Spanned;

use super::PlanProblem;
use crate::suggestion::closest;

/// What a configuration is.
const SETTINGS: &str = "keys and values, one `key: value` on each line";

/// A value of YAML.
#[derive(Debug)]
pub(super) enum Node {
    /// Null, a truth value, a number or a text.
    Scalar(Value),
    /// A list.
    List(Vec<Spanned<Node>>),
    /// Keys and values in their order.
    Table(Vec<(Spanned<String>, Spanned<Node>)>),
}

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
    lines: BTreeMap<String, u64>,
}

/// Reads YAML.
pub(super) fn parse(text: &str) -> Result<Spanned<Node>, PlanProblem> {
    serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let (found, expected) = in_our_words(error.without_snippet());
        PlanProblem::new("", found, expected).at(line)
    })
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

impl Node {
    fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(Value::Null))
    }

    /// For people.
    fn description(&self) -> String {
        match self {
            Self::Scalar(Value::Null) => "nothing".to_owned(),
            Self::Scalar(Value::String(text)) => format!("the text `{text}`"),
            Self::Scalar(value) => format!("`{value}`"),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "keys and values".to_owned(),
        }
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
        entry.map(|(_, node)| node).filter(|node| !node.value.is_null())
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
    /// The line of a key, or of the nearest key around it.
    pub fn line_of(&self, path: &str) -> Option<u64> {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Some(*line);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    fn wrong(&mut self, path: &str, node: &Spanned<Node>, expected: &str) {
        let problem = PlanProblem::new(path, node.value.description(), expected);
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
        let line = self.lines.get(path).copied().unwrap_or(node.referenced.line());
        let table = Table {
            path: path.to_owned(),
            line,
            entries,
        };
        for (key, _) in entries {
            self.lines.insert(table.path(&key.value), key.referenced.line());
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
            self.lines.insert(path.clone(), node.referenced.line());
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
        // JSON has no infinity and no NaN; as a text it is refused where a number is read.
        let number = Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number);
        Ok(Node::Scalar(number))
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
