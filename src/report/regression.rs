//! The comparison with a stored run, in words.

use serde_json::Value;

use crate::regression::{Comparison, EnvironmentChange, Movement};
use crate::rules::wording::{counted, grouped, shortest};

/// The figures on one line.
pub(super) fn summary(comparison: &Comparison) -> String {
    format!(
        "{} of {} moved beyond their tolerance, {} equal to the last bit",
        grouped(comparison.moved.len() as u64),
        counted(comparison.compared, "value"),
        grouped(comparison.identical as u64)
    )
}

/// One movement without its path.
pub(super) fn moved(movement: &Movement) -> String {
    let allowed = match movement.allowed {
        Some(allowed) => format!("may be {allowed:.1e} apart"),
        None => "must be equal".to_owned(),
    };
    format!(
        "{} then, {} now; {} {allowed}",
        value(&movement.stored),
        value(&movement.now),
        movement.class
    )
}

/// What else changed, on one line; `None` when nothing did.
pub(super) fn environment(changes: &[EnvironmentChange]) -> Option<String> {
    let changes: Vec<String> = changes
        .iter()
        .map(|change| {
            format!(
                "{} {} then, {} now",
                change.field.replace('_', " "),
                change.stored,
                change.now
            )
        })
        .collect();
    (!changes.is_empty()).then(|| changes.join("; "))
}

/// Text in backticks on one line, cut where it is long; a number in its shortest form.
fn value(value: &Value) -> String {
    const SHOWN_CHARACTERS: usize = 60;
    match value {
        Value::String(text) => {
            let line: String = text
                .chars()
                .map(|character| if character.is_control() { ' ' } else { character })
                .collect();
            if line.chars().count() <= SHOWN_CHARACTERS {
                return format!("`{line}`");
            }
            let start: String = line.chars().take(SHOWN_CHARACTERS).collect();
            format!("`{start}...`")
        }
        Value::Number(number) if number.is_f64() => number.as_f64().map_or_else(String::new, shortest),
        other => other.to_string(),
    }
}
