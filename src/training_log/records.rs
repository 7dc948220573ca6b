//! Logs of records with named fields: transformers' `trainer_state.json`, JSON lines, CSV.

use serde_json::{Map, Value};

use crate::evidence::{LogEntry, LoggedNumber};

/// Names of the step, the likeliest first.
const STEP: [&str; 6] = ["step", "iteration", "iter", "global_step", "_step", "train/global_step"];
/// Names of the training loss.
const LOSS: [&str; 3] = ["loss", "train_loss", "train/loss"];
/// Names of the validation loss.
const VALIDATION: [&str; 7] = [
    "eval_loss",
    "val_loss",
    "valid_loss",
    "validation_loss",
    "eval/loss",
    "val/loss",
    "valid/loss",
];
/// Names of the gradient norm.
const GRADIENT_NORM: [&str; 4] = ["grad_norm", "gradient_norm", "train/grad_norm", "grad_norm/global"];
/// Names of the learning rate.
const LEARNING_RATE: [&str; 3] = ["learning_rate", "lr", "train/learning_rate"];

/// The history in transformers' `trainer_state.json`; `None` when the text is another JSON.
pub(super) fn trainer_state(text: &str) -> Option<Vec<LogEntry>> {
    let value: Value = serde_json::from_str(&python_json(text)).ok()?;
    let history = value.get("log_history")?.as_array()?;
    let records = history.iter().filter_map(Value::as_object);
    // The last record is a summary: its mean loss is none of a step.
    let steps = records.filter(|record| !record.contains_key("train_runtime"));
    Some(steps.filter_map(|record| entry(record, None)).collect())
}

/// The records that transformers prints as Python writes a dictionary; `None` when there is none.
///
/// They name no step, so they are counted.
pub(super) fn printed(text: &str) -> Option<Vec<LogEntry>> {
    let records = text
        .split(['\n', '\r'])
        .map(str::trim)
        .filter(|line| line.starts_with("{'") && line.ends_with('}') && !line.contains("'train_runtime'"))
        .filter_map(|line| serde_json::from_str::<Map<String, Value>>(&python_json(&with_json_words(line))).ok());
    let entries: Vec<LogEntry> = records
        .enumerate()
        .filter_map(|(index, record)| entry(&record, Some(index + 1)))
        .collect();
    (!entries.is_empty()).then_some(entries)
}

/// Python's quotes and its words for what is no number, as JSON's neighbours write them.
fn with_json_words(line: &str) -> String {
    line.replace('\'', "\"")
        .replace(": nan", ": NaN")
        .replace(": inf", ": Infinity")
        .replace(": -inf", ": -Infinity")
}

/// One record in each line.
///
/// # Errors
/// A line that is no JSON object, by its number; the last one may be cut off.
pub(super) fn json_lines(text: &str) -> Result<Vec<LogEntry>, String> {
    let lines: Vec<(usize, &str)> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .collect();
    let mut entries = Vec::new();
    for (index, (number, line)) in lines.iter().enumerate() {
        match serde_json::from_str::<Map<String, Value>>(&python_json(line)) {
            Ok(record) => entries.extend(entry(&record, Some(index + 1))),
            // A trainer that is killed leaves half a line.
            Err(_) if index + 1 == lines.len() && index > 0 => {}
            Err(error) => return Err(format!("line {}: {error}", number + 1)),
        }
    }
    Ok(entries)
}

/// Whether the first line names a loss and another column.
pub(super) fn is_csv(text: &str) -> bool {
    let header = text.lines().next().unwrap_or_default();
    let names: Vec<&str> = header.split(',').map(|name| name.trim().trim_matches('"')).collect();
    names.len() > 1
        && names
            .iter()
            .any(|name| LOSS.contains(name) || VALIDATION.contains(name))
}

/// One record in each line behind a line of names; an empty field is absent.
///
/// # Errors
/// A line with another number of fields.
pub(super) fn csv(text: &str) -> Result<Vec<LogEntry>, String> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let names = reader.headers().map_err(|error| error.to_string())?.clone();
    let mut entries = Vec::new();
    for (index, fields) in reader.records().enumerate() {
        let fields = fields.map_err(|error| error.to_string())?;
        let record: Map<String, Value> = names
            .iter()
            .zip(&fields)
            .filter(|(_, field)| !field.is_empty())
            .map(|(name, field)| (name.to_owned(), Value::String(field.to_owned())))
            .collect();
        entries.extend(entry(&record, Some(index + 1)));
    }
    Ok(entries)
}

/// A record with a loss or a gradient norm; `counted` is its step where it names none.
fn entry(record: &Map<String, Value>, counted: Option<usize>) -> Option<LogEntry> {
    let step = named(record, &STEP).and_then(number).and_then(LoggedNumber::finite);
    let entry = LogEntry {
        step: step.map(|step| step as usize).or(counted)?,
        loss: named(record, &LOSS).and_then(number),
        validation_loss: named(record, &VALIDATION).and_then(number),
        gradient_norm: named(record, &GRADIENT_NORM).and_then(number),
        learning_rate: named(record, &LEARNING_RATE)
            .and_then(number)
            .and_then(LoggedNumber::finite),
    };
    let says_something = entry.loss.is_some() || entry.validation_loss.is_some() || entry.gradient_norm.is_some();
    says_something.then_some(entry)
}

fn named<'record>(record: &'record Map<String, Value>, names: &[&str]) -> Option<&'record Value> {
    names.iter().find_map(|name| record.get(*name))
}

/// A number, or a text that is one; `null` stands for a number that is not finite, which JSON cannot hold.
fn number(value: &Value) -> Option<LoggedNumber> {
    let value = match value {
        Value::Null => f64::NAN,
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.parse().ok()?,
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    Some(value.into())
}

/// Python writes `NaN` and `Infinity` where JSON has no word for them; as texts they can be read.
fn python_json(text: &str) -> String {
    const WORDS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    let mut json = String::with_capacity(text.len());
    let (mut in_text, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let word = WORDS.into_iter().find(|word| !in_text && rest.starts_with(word));
        if let Some(word) = word {
            json.push('"');
            json.push_str(word);
            json.push('"');
            rest = &rest[word.len()..];
            continue;
        }
        if character == '"' && !escaped {
            in_text = !in_text;
        }
        escaped = in_text && character == '\\' && !escaped;
        json.push(character);
        rest = &rest[character.len_utf8()..];
    }
    json
}
