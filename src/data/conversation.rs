//! The messages of a conversation as OpenAI and mlx-lm write them.

use serde_json::{Map, Value};

use super::record::kind;
use super::sharegpt;
use crate::model::{Message, Problem};
use crate::suggestion::closest;

/// Roles that chat templates know.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// The `tools` of a row.
pub(super) fn tools(object: &Map<String, Value>) -> Result<Option<Vec<Value>>, Problem> {
    match object.get("tools") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(tools)) => Ok(Some(tools.clone())),
        Some(other) => Err(Problem::new("tools", kind(other), "an array of tools")),
    }
}

/// One of a row's turns.
pub(super) struct Turn<'row> {
    /// Where it is reported at.
    pub(super) place: String,
    /// What it says.
    pub(super) fields: &'row Map<String, Value>,
}

/// The array of objects under `key`, at least one.
pub(super) fn turns<'row>(
    object: &'row Map<String, Value>,
    key: &str,
    expected: &str,
) -> Result<Vec<Turn<'row>>, Problem> {
    let values = match object.get(key) {
        Some(Value::Array(values)) if !values.is_empty() => values,
        Some(Value::Array(_)) => return Err(Problem::new(key, "an empty array", "at least one message")),
        other => {
            return Err(Problem::new(
                key,
                other.map_or("no value", kind),
                "an array of messages",
            ));
        }
    };
    let turn = |(index, value): (usize, &'row Value)| {
        let place = format!("{key}[{index}]");
        match value {
            Value::Object(fields) => Ok(Turn { place, fields }),
            other => Err(Problem::new(place, kind(other), expected)),
        }
    };
    values.iter().enumerate().map(turn).collect()
}

/// The messages under `key`, each with a role that chat templates know.
pub(super) fn messages(object: &Map<String, Value>, key: &str) -> Result<Vec<Message>, Problem> {
    turns(object, key, "an object with a role and a content")?
        .into_iter()
        .map(|Turn { place, fields }| {
            message(fields).map_err(|problem| Problem {
                location: format!("{place}.{}", problem.location),
                ..problem
            })
        })
        .collect()
}

/// A message of a role that chat templates know, with something to say.
pub(super) fn message(fields: &Map<String, Value>) -> Result<Message, Problem> {
    let message = Message::from_fields(fields.clone()).map_err(|problem| suggest_key(problem, fields))?;
    if !ROLES.contains(&message.role()) {
        let meant = sharegpt::role(message.role()).or_else(|| closest(message.role(), ROLES));
        let expected = ROLES.map(|role| format!("`{role}`")).join(", ");
        let meant = meant.map_or_else(String::new, |role| format!("; did you mean `{role}`?"));
        let found = format!("`{}`", message.role());
        return Err(Problem::new("role", found, expected + &meant));
    }
    let may_be_silent = message.role() == "assistant" && fields.contains_key("tool_calls");
    if !may_be_silent && fields.get("content").is_none_or(Value::is_null) {
        return Err(suggest_key(Problem::new("content", "no value", "a text"), fields));
    }
    Ok(message)
}

/// The problem of an absent key, with the key that may have been meant for it.
pub(super) fn suggest_key(problem: Problem, fields: &Map<String, Value>) -> Problem {
    if fields.contains_key(&problem.location) {
        return problem;
    }
    let given = fields.keys().map(String::as_str);
    match closest(&problem.location, given) {
        Some(key) => Problem {
            found: format!("{}, but `{key}`", problem.found),
            ..problem
        },
        None => problem,
    }
}
