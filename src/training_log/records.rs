//! Logs of records with named fields: transformers' `trainer_state.json`, JSON lines, CSV.

use serde_json::{Map, Value};

use crate::counts::LARGEST_COUNT;
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

/// Records in order, and the numbers of the lines that are none.
pub(super) type Records = (Vec<LogEntry>, Vec<usize>);

/// One JSON object in each line.
pub(super) fn json_lines(text: &str) -> Records {
    let (mut entries, mut left_out) = (Vec::new(), Vec::new());
    let mut records = 0;
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        // Warnings get between the lines, and a trainer that is killed leaves half of one.
        match serde_json::from_str::<Map<String, Value>>(&python_json(line)) {
            Ok(record) => {
                records += 1;
                match entry(&record, Some(records)) {
                    Some(entry) => entries.push(entry),
                    // A record of other things is no broken line.
                    None if names_a_number(&record) => left_out.push(index + 1),
                    None => {}
                }
            }
            Err(_) => left_out.push(index + 1),
        }
    }
    (entries, left_out)
}

/// What stands between the names of the first line when they name a loss and another column; `None` when they do not.
pub(super) fn csv_delimiter(text: &str) -> Option<u8> {
    let header = text.lines().next().unwrap_or_default();
    [b',', b';', b'\t'].into_iter().find(|&delimiter| {
        let names: Vec<String> = header
            .split(char::from(delimiter))
            .map(|name| field_name(name.trim().trim_matches('"')))
            .collect();
        names.len() > 1
            && names
                .iter()
                .any(|name| LOSS.contains(&name.as_str()) || VALIDATION.contains(&name.as_str()))
    })
}

/// One record in each line behind a line of names; an empty field is absent.
pub(super) fn csv(text: &str, delimiter: u8) -> Records {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .delimiter(delimiter)
        .flexible(true)
        .from_reader(text.as_bytes());
    let names: Vec<String> = match reader.headers() {
        Ok(names) => names.iter().map(str::to_owned).collect(),
        Err(_) => return (Vec::new(), vec![1]),
    };
    let (mut entries, mut left_out) = (Vec::new(), Vec::new());
    for (index, fields) in reader.records().enumerate() {
        let line = index + 2;
        let Some(fields) = fields.ok().filter(|fields| fields.len() == names.len()) else {
            left_out.push(line);
            continue;
        };
        let line = fields.position().map_or(line, |position| position.line() as usize);
        let record: Map<String, Value> = names
            .iter()
            .zip(&fields)
            .filter(|(_, field)| !field.is_empty())
            .map(|(name, field)| (name.clone(), Value::String(with_point(field, delimiter))))
            .collect();
        match entry(&record, Some(index + 1)) {
            Some(entry) => entries.push(entry),
            // A record of other things is no broken line.
            None if names_a_number(&record) => left_out.push(line),
            None => {}
        }
    }
    (entries, left_out)
}

/// Where a comma cannot stand between fields it stands for the point, as spreadsheets of many countries write.
fn with_point(field: &str, delimiter: u8) -> String {
    if delimiter == b';' {
        field.replacen(',', ".", 1)
    } else {
        field.to_owned()
    }
}

/// Whether a record has a field for a loss or a gradient norm.
fn names_a_number(record: &Map<String, Value>) -> bool {
    [&LOSS[..], &VALIDATION, &GRADIENT_NORM]
        .iter()
        .any(|names| named(record, names).is_some())
}

/// A name as the lists above spell it: `Train Loss` is `train_loss`.
fn field_name(name: &str) -> String {
    name.to_lowercase().replace([' ', '-'], "_")
}

/// A record with a loss or a gradient norm, and no step that is none; `counted` is its step where it names none.
fn entry(record: &Map<String, Value>, counted: Option<usize>) -> Option<LogEntry> {
    let step = named(record, &STEP).and_then(number).and_then(LoggedNumber::finite);
    let counts = 0.0..=LARGEST_COUNT as f64;
    let entry = LogEntry {
        step: match step {
            Some(step) => counts.contains(&step).then_some(step as usize)?,
            None => counted?,
        },
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
    names.iter().find_map(|name| {
        let spelt_otherwise = || {
            record
                .iter()
                .find(|(key, _)| field_name(key) == *name)
                .map(|(_, value)| value)
        };
        record.get(*name).or_else(spelt_otherwise)
    })
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
