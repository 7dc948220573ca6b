//! Instructions with their outputs, as Stanford's Alpaca has them (<https://github.com/tatsu-lab/stanford_alpaca>).

use serde_json::{Map, Value};

use super::record::{Record, kind, optional_text, text_field};
use crate::model::{Message, Problem};

/// Key of what the user asks for.
pub(super) const INSTRUCTION: &str = "instruction";

/// Key of the answer.
pub(super) const OUTPUT: &str = "output";

/// Keys that a row may have.
pub(super) const OPTIONAL: [&str; 3] = ["input", "system", "history"];

/// A row with `instruction` and `output`: a question and its answer, with the `system` text and the `history` before
/// it. An `input` follows its instruction on a line of its own, as in `LLaMA-Factory`.
pub(super) fn read(object: &Map<String, Value>) -> Result<Record, Problem> {
    let mut messages = Vec::new();
    if let Some(system) = optional_text(object, "system")? {
        messages.push(Message::new("system", &system));
    }
    for [asked, answered] in history(object)? {
        messages.push(Message::new("user", asked));
        messages.push(Message::new("assistant", answered));
    }
    let instruction = text_field(object, INSTRUCTION)?;
    let question = match optional_text(object, "input")? {
        Some(input) if instruction.is_empty() => input,
        Some(input) => format!("{instruction}\n{input}"),
        None if instruction.is_empty() => {
            return Err(Problem::new(INSTRUCTION, "an empty text", "at least one character"));
        }
        None => instruction,
    };
    messages.push(Message::new("user", &question));
    messages.push(Message::new("assistant", &text_field(object, OUTPUT)?));
    Ok(Record::Chat { messages, tools: None })
}

/// Earlier questions with their answers.
fn history<'row>(object: &'row Map<String, Value>) -> Result<Vec<[&'row str; 2]>, Problem> {
    let rounds = match object.get("history") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(rounds)) => rounds,
        Some(other) => return Err(Problem::new("history", kind(other), "an array of pairs of texts")),
    };
    let pair = |(index, round): (usize, &'row Value)| match round.as_array().map(Vec::as_slice) {
        Some([Value::String(asked), Value::String(answered)]) => Ok([asked.as_str(), answered.as_str()]),
        _ => Err(Problem::new(
            format!("history[{index}]"),
            kind(round),
            "a question and its answer, both texts",
        )),
    };
    rounds.iter().enumerate().map(pair).collect()
}
