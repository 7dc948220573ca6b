//! Conversations as `ShareGPT`'s exports have them, with the roles that `LLaMA-Factory` and axolotl read.

use serde_json::{Map, Value, json};

use super::conversation::{Turn, message, suggest_key, tools, turns};
use super::record::{Record, kind, optional_text};
use crate::model::{Message, Problem};
use crate::suggestion::closest;

/// Key of the turns.
pub(super) const CONVERSATIONS: &str = "conversations";

/// Keys beside the turns.
pub(super) const OPTIONAL: [&str; 2] = ["system", "tools"];

/// Who speaks by the names that datasets use, and the role of such a message.
const SPEAKERS: [(&str, &str); 13] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("assistant", "assistant"),
    ("model", "assistant"),
    ("bot", "assistant"),
    ("system", "system"),
    ("tool", "tool"),
    ("observation", "tool"),
    ("function_response", "tool"),
    ("function_call", "assistant"),
    ("tool_call", "assistant"),
];

/// Speakers whose words are the calls of tools.
const CALLERS: [&str; 2] = ["function_call", "tool_call"];

/// The role of a speaker.
pub(super) fn role(speaker: &str) -> Option<&'static str> {
    SPEAKERS
        .iter()
        .find(|(name, _)| *name == speaker)
        .map(|(_, role)| *role)
}

/// A row with `conversations`.
pub(super) fn read(object: &Map<String, Value>) -> Result<Record, Problem> {
    let mut messages = Vec::new();
    if let Some(system) = optional_text(object, "system")? {
        messages.push(Message::new("system", &system));
    }
    let has_system = !messages.is_empty();
    for Turn { place, fields } in turns(object, CONVERSATIONS, "an object with `from` and `value`")? {
        let at = |problem: Problem| Problem {
            location: format!("{place}.{}", problem.location),
            ..problem
        };
        let message = turn(fields).map_err(at)?;
        if has_system && message.role() == "system" {
            let expected = "no system message beside the row's own `system`";
            return Err(at(Problem::new("from", "`system`", expected)));
        }
        messages.push(message);
    }
    Ok(Record::Chat {
        messages,
        tools: written_tools(object)?,
    })
}

/// A turn with `from` and `value`, or with the names of a message. Further fields are kept for the chat template.
fn turn(fields: &Map<String, Value>) -> Result<Message, Problem> {
    if !fields.contains_key("from") && fields.contains_key("role") {
        return message(fields);
    }
    let missing = |problem| Err(suggest_key(problem, fields));
    let speaker = match fields.get("from") {
        Some(Value::String(speaker)) => speaker.as_str(),
        other => return missing(Problem::new("from", other.map_or("no value", kind), "`human` or `gpt`")),
    };
    let Some(role) = role(speaker) else {
        let names = SPEAKERS.map(|(name, _)| name);
        let expected = names.map(|name| format!("`{name}`")).join(", ");
        let meant = closest(speaker, names).map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
        return Err(Problem::new("from", format!("`{speaker}`"), expected + &meant));
    };
    let words = match fields.get("value") {
        Some(Value::String(words)) => words,
        other => return missing(Problem::new("value", other.map_or("no value", kind), "a text")),
    };
    let mut kept: Map<String, Value> = Map::new();
    kept.insert("role".to_owned(), role.into());
    if CALLERS.contains(&speaker) {
        kept.insert("content".to_owned(), Value::Null);
        kept.insert("tool_calls".to_owned(), calls(words)?);
    } else {
        kept.insert("content".to_owned(), words.as_str().into());
    }
    for (key, value) in fields {
        if key != "from" && key != "value" && !kept.contains_key(key) {
            kept.insert(key.clone(), value.clone());
        }
    }
    Message::from_fields(kept)
}

/// The calls that a text spells out as JSON, as chat templates expect them.
fn calls(words: &str) -> Result<Value, Problem> {
    let expected = "a JSON object with a `name` and `arguments`, or an array of them";
    let unusable = |found: String| Problem::new("value", found, expected);
    let value: Value = serde_json::from_str(words).map_err(|error| unusable(format!("a text that is {error}")))?;
    let calls = match value {
        Value::Array(calls) => calls,
        call => vec![call],
    };
    let is_call = |call: &Value| call["name"].is_string() && !call["arguments"].is_null();
    if calls.is_empty() || !calls.iter().all(is_call) {
        return Err(unusable("a text with other JSON".to_owned()));
    }
    Ok(calls
        .into_iter()
        .map(|call| json!({"type": "function", "function": call}))
        .collect())
}

/// The `tools` of a row, as an array or as a text that spells one out.
fn written_tools(object: &Map<String, Value>) -> Result<Option<Vec<Value>>, Problem> {
    let Some(Value::String(text)) = object.get("tools") else {
        return tools(object);
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    serde_json::from_str(text)
        .map(Some)
        .map_err(|error| Problem::new("tools", format!("a text that is {error}"), "an array of tools"))
}
