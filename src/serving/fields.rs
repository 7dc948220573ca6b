//! The fields of a request, taken one by one, so that what nobody took is seen.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::api_error::ApiError;

/// The fields of one JSON object. Null stands for a field that is not there, as in OpenAI's interface.
#[derive(Debug)]
pub(super) struct Fields {
    values: Map<String, Value>,
    asked: Vec<&'static str>,
    /// What the names of the fields begin with in errors.
    place: String,
}

impl Fields {
    /// # Errors
    /// The value is no object.
    pub(super) fn new(value: Value, place: &str) -> Result<Self, ApiError> {
        let place = place.to_owned();
        match value {
            Value::Object(values) => Ok(Self {
                values,
                asked: Vec::new(),
                place,
            }),
            other if place.is_empty() => Err(ApiError::request(format!(
                "the body cannot be used: found {}, expected a JSON object",
                kind(&other)
            ))),
            other => Err(ApiError::field(place, &kind(&other), "an object")),
        }
    }

    fn path(&self, name: &str) -> String {
        match self.place.as_str() {
            "" => name.to_owned(),
            place => format!("{place}.{name}"),
        }
    }

    /// The value of a field.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.asked.push(name);
        self.values.remove(name).filter(|value| !value.is_null())
    }

    fn take_as<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match read(&value) {
            Some(read) => Ok(Some(read)),
            None => Err(ApiError::field(self.path(name), &kind(&value), expected)),
        }
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        self.take_as(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn boolean(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        self.take_as(name, "true or false", Value::as_bool)
    }

    /// A number that f32 can hold.
    pub(super) fn number(&mut self, name: &'static str) -> Result<Option<f32>, ApiError> {
        let finite = |number: f64| Some(number as f32).filter(|number| number.is_finite());
        self.take_as(name, "a number", |value| value.as_f64().and_then(finite))
    }

    /// A number within bounds.
    pub(super) fn number_within(
        &mut self,
        name: &'static str,
        bounds: RangeInclusive<f32>,
    ) -> Result<Option<f32>, ApiError> {
        self.take_as(name, &within(&bounds), |value| {
            let number = value.as_f64()? as f32;
            Some(number).filter(|number| bounds.contains(number))
        })
    }

    /// A whole number from `least` on.
    pub(super) fn count(&mut self, name: &'static str, least: u64) -> Result<Option<usize>, ApiError> {
        let expected = format!("a whole number, {least} or more");
        self.take_as(name, &expected, |value| {
            let number = value.as_u64().filter(|number| *number >= least)?;
            usize::try_from(number).ok()
        })
    }

    /// A whole number of 64 bits; negative ones count down from the largest.
    pub(super) fn seed(&mut self, name: &'static str) -> Result<Option<u64>, ApiError> {
        self.take_as(name, "a whole number", |value| {
            value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned))
        })
    }

    /// An object.
    pub(super) fn object(&mut self, name: &'static str) -> Result<Option<Self>, ApiError> {
        let path = self.path(name);
        self.take(name).map(|value| Self::new(value, &path)).transpose()
    }

    /// Passes over fields that have no effect on an answer.
    pub(super) fn pass_over(&mut self, names: &[&'static str]) {
        for name in names {
            self.take(name);
        }
    }

    /// Refuses a field unless it says what holds anyway.
    pub(super) fn refuse(
        &mut self,
        name: &'static str,
        supported: &str,
        is_supported: impl FnOnce(&Value) -> bool,
    ) -> Result<(), ApiError> {
        let path = self.path(name);
        match self.take(name) {
            Some(value) if !is_supported(&value) => Err(ApiError::unsupported(&path, supported)),
            _ => Ok(()),
        }
    }

    /// The names and values that nobody took.
    pub(super) fn into_rest(self) -> Map<String, Value> {
        self.values
    }

    /// # Errors
    /// There is a field that nobody took.
    pub(super) fn end(self) -> Result<(), ApiError> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(name) if self.place.is_empty() => Err(ApiError::unknown_field(name, &self.asked)),
            Some(name) => {
                let asked: Vec<String> = self.asked.iter().map(|asked| self.path(asked)).collect();
                let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
                Err(ApiError::unknown_field(&self.path(name), &asked))
            }
        }
    }
}

pub(super) fn within(bounds: &RangeInclusive<f32>) -> String {
    format!("a number from {} to {}", bounds.start(), bounds.end())
}

/// A value in a few words: numbers and short texts as they are, others by their kind.
pub(super) fn kind(value: &Value) -> String {
    const SHOWN: usize = 40;
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.len() <= SHOWN => format!("the text {value}"),
        Value::String(text) => format!("a text of {} bytes", text.len()),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}
