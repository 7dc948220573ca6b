//! Reads the fields of a JSON object one by one and collects everything that is wrong with them.

use serde_json::{Map, Value};

use super::problem::{Problem, Problems};

/// The fields of one object. A field that is absent or null reads as `None`; one of the wrong kind is a problem and
/// reads as `None` too, so that reading goes on to the next.
pub(super) struct JsonFields<'json> {
    object: &'json Map<String, Value>,
    /// Path of the object in the file, ending in a period; empty at the top.
    prefix: String,
    /// What was wrong so far.
    pub(super) problems: Problems,
}

impl<'json> JsonFields<'json> {
    /// The fields of the object at the top of a file.
    pub(super) fn new(object: &'json Map<String, Value>) -> Self {
        Self {
            object,
            prefix: String::new(),
            problems: Problems::default(),
        }
    }

    /// Reads the object that is the value of `key`, adding its problems to this one's.
    pub(super) fn nested<T>(
        &mut self,
        key: &str,
        object: &'json Map<String, Value>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let mut nested = Self {
            object,
            prefix: format!("{}{key}.", self.prefix),
            problems: std::mem::take(&mut self.problems),
        };
        let value = read(&mut nested);
        self.problems = nested.problems;
        value
    }

    /// Notes that the value of `key` is wrong.
    pub(super) fn problem(&mut self, key: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.problems
            .push(Problem::new(format!("{}{key}", self.prefix), found, expected));
    }

    /// Notes that `key` has no value.
    pub(super) fn missing(&mut self, key: &str, expected: impl Into<String>) {
        self.problem(key, "no value", expected);
    }

    /// All keys and values.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'json str, &'json Value)> + use<'json> {
        self.object.iter().map(|(key, value)| (key.as_str(), value))
    }

    fn get(&self, key: &str) -> Option<&'json Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// The value of `key` as `convert` reads it.
    fn read<T>(&mut self, key: &str, expected: &str, convert: impl FnOnce(&'json Value) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        let converted = convert(value);
        if converted.is_none() {
            self.problem(key, describe(value), expected);
        }
        converted
    }

    fn require<T>(&mut self, key: &str, expected: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && self.get(key).is_none() {
            self.missing(key, expected);
        }
        value
    }

    /// A whole number from 1 to `most`.
    pub(super) fn size(&mut self, key: &str, most: u64) -> Option<usize> {
        self.read(key, &format!("a whole number from 1 to {most}"), |value| {
            let number = value.as_u64().filter(|number| (1..=most).contains(number))?;
            usize::try_from(number).ok()
        })
    }

    /// As [`Self::size`], and absence is a problem.
    pub(super) fn required_size(&mut self, key: &str, most: u64) -> Option<usize> {
        let value = self.size(key, most);
        self.require(key, &format!("a whole number from 1 to {most}"), value)
    }

    /// A finite number above zero.
    pub(super) fn positive(&mut self, key: &str) -> Option<f64> {
        self.read(key, "a positive number", |value| {
            value.as_f64().filter(|number| number.is_finite() && *number > 0.0)
        })
    }

    /// As [`Self::positive`], and absence is a problem.
    pub(super) fn required_positive(&mut self, key: &str) -> Option<f64> {
        let value = self.positive(key);
        self.require(key, "a positive number", value)
    }

    /// Numbers above zero, and absence is a problem.
    pub(super) fn required_positives(&mut self, key: &str) -> Option<Vec<f64>> {
        let expected = "an array of positive numbers";
        let value = self.read(key, expected, |value| {
            let positive = |number: f64| number.is_finite() && number > 0.0;
            let numbers = value.as_array()?.iter().map(Value::as_f64);
            numbers
                .map(|number| number.filter(|&number| positive(number)))
                .collect()
        });
        self.require(key, expected, value)
    }

    /// True or false.
    pub(super) fn boolean(&mut self, key: &str) -> Option<bool> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// As [`Self::boolean`], and absence is a problem.
    pub(super) fn required_boolean(&mut self, key: &str) -> Option<bool> {
        let value = self.boolean(key);
        self.require(key, "true or false", value)
    }

    /// A text.
    pub(super) fn text(&mut self, key: &str) -> Option<&'json str> {
        self.read(key, "a text", Value::as_str)
    }

    /// An array of texts; empty when absent.
    pub(super) fn texts(&mut self, key: &str) -> Vec<&'json str> {
        self.read(key, "an array of texts", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
        .unwrap_or_default()
    }

    /// An object.
    pub(super) fn object(&mut self, key: &str) -> Option<&'json Map<String, Value>> {
        self.read(key, "an object", Value::as_object)
    }

    /// One token id or an array of them; empty when absent.
    pub(super) fn token_ids(&mut self, key: &str) -> Vec<u32> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        self.read(key, "a token id or an array of token ids", |value| match value {
            Value::Array(values) => values.iter().map(id).collect(),
            single => id(single).map(|id| vec![id]),
        })
        .unwrap_or_default()
    }
}

/// The kind of a value and, when short, the value itself, for messages.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("the text `{}`", text.chars().take(40).collect::<String>()),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
