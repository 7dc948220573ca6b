//! Fields of JSON objects that servers send: absent and null are the same, any other type is an error.

use serde_json::Value;

use super::bounds::{LARGEST_COUNT, LONGEST_TIME};
use crate::compare::{Failure, FailureKind};
use crate::excerpt::beginning;

/// A field that is there.
fn present<'value>(object: &'value Value, name: &str) -> Option<&'value Value> {
    object.get(name).filter(|value| !value.is_null())
}

fn wrong(name: &str, value: &Value, expected: &str) -> Failure {
    Failure::of(
        FailureKind::Malformed,
        format!(
            "the server's field `{name}` is {}, not {expected}",
            beginning(&value.to_string())
        ),
    )
}

/// A text.
pub(in crate::compare) fn text<'value>(object: &'value Value, name: &str) -> Result<Option<&'value str>, Failure> {
    let Some(value) = present(object, name) else {
        return Ok(None);
    };
    value.as_str().map(Some).ok_or_else(|| wrong(name, value, "a text"))
}

/// A number.
pub(in crate::compare) fn number(object: &Value, name: &str) -> Result<Option<f64>, Failure> {
    let Some(value) = present(object, name) else {
        return Ok(None);
    };
    value.as_f64().map(Some).ok_or_else(|| wrong(name, value, "a number"))
}

/// A number that is not negative, up to `most`: a rate, or a duration in a unit of the server's.
fn amount(object: &Value, name: &str, most: f64, expected: &str) -> Result<Option<f64>, Failure> {
    let Some(value) = present(object, name) else {
        return Ok(None);
    };
    let amount = value.as_f64().filter(|number| (0.0..=most).contains(number));
    amount.map(Some).ok_or_else(|| wrong(name, value, expected))
}

/// A time in seconds, of which the server's unit has `in_a_second`.
pub(in crate::compare) fn duration(object: &Value, name: &str, in_a_second: f64) -> Result<Option<f64>, Failure> {
    let time = amount(
        object,
        name,
        LONGEST_TIME * in_a_second,
        "a time that a request may take",
    )?;
    Ok(time.map(|time| time / in_a_second))
}

/// Tokens in a second.
pub(in crate::compare) fn rate(object: &Value, name: &str) -> Result<Option<f64>, Failure> {
    amount(object, name, LARGEST_COUNT, "a rate")
}

/// A count, which some servers write as `12.0`.
pub(in crate::compare) fn count(object: &Value, name: &str) -> Result<Option<usize>, Failure> {
    let Some(value) = present(object, name) else {
        return Ok(None);
    };
    let whole = value
        .as_f64()
        .filter(|number| (0.0..=LARGEST_COUNT).contains(number) && number.fract() == 0.0);
    let count = whole.map(|number| number as usize);
    count.map(Some).ok_or_else(|| wrong(name, value, "a count"))
}

/// The items of a list; none where it is absent.
pub(in crate::compare) fn items<'value>(object: &'value Value, name: &str) -> Result<&'value [Value], Failure> {
    let Some(value) = present(object, name) else {
        return Ok(&[]);
    };
    let items = value.as_array().map(Vec::as_slice);
    items.ok_or_else(|| wrong(name, value, "a list"))
}
