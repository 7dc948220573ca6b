//! One row of training data, and how it is told which format a row has.

use std::fmt;

use serde_json::{Map, Value, json};

use super::conversation::{messages, tools};
use super::{instruction, sharegpt};
use crate::evidence::Listing;
use crate::model::{Message, Problem};
use crate::suggestion::{closest, one_slip_away};

/// The kinds of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataFormat {
    /// `messages`, optionally `tools`.
    Chat,
    /// `prompt` and `completion`.
    Completions,
    /// `text`.
    Text,
    /// `conversations` of turns `from` someone with a `value`, optionally `system` and `tools`.
    ShareGpt,
    /// `instruction` and `output`, optionally `input`, `system` and `history`.
    Instruction,
}

impl DataFormat {
    /// The name used in reports: `chat`, `completions`, `text`, `sharegpt` or `instruction`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Text => "text",
            Self::ShareGpt => "sharegpt",
            Self::Instruction => "instruction",
        }
    }
}

impl fmt::Display for DataFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One row of training data.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A conversation.
    Chat {
        /// At least one message.
        messages: Vec<Message>,
        /// Descriptions of tools, for the chat template.
        tools: Option<Vec<Value>>,
    },
    /// A question and its answer.
    Completions {
        /// What the user says.
        prompt: String,
        /// What the assistant answers.
        completion: String,
        /// Descriptions of tools, for the chat template.
        tools: Option<Vec<Value>>,
    },
    /// Plain text, not empty.
    Text(String),
}

impl Record {
    /// The row as mlx-lm writes it, under its default keys.
    pub fn to_json(&self) -> Value {
        let mut row = match self {
            Self::Chat { messages, .. } => json!({ "messages": messages }),
            Self::Completions { prompt, completion, .. } => json!({ "prompt": prompt, "completion": completion }),
            Self::Text(text) => json!({ "text": text }),
        };
        if let Self::Chat { tools: Some(tools), .. } | Self::Completions { tools: Some(tools), .. } = self {
            row["tools"] = json!(tools);
        }
        row
    }
}

/// The keys of rows, by mlx-lm's names for those that a configuration can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordKeys {
    /// What the user says: `prompt`.
    pub prompt_feature: String,
    /// What the assistant answers: `completion`.
    pub completion_feature: String,
    /// A conversation: `messages`.
    pub chat_feature: String,
    /// Plain text: `text`.
    pub text_feature: String,
}

impl Default for RecordKeys {
    fn default() -> Self {
        Self {
            prompt_feature: "prompt".to_owned(),
            completion_feature: "completion".to_owned(),
            chat_feature: "messages".to_owned(),
            text_feature: "text".to_owned(),
        }
    }
}

impl RecordKeys {
    /// What a row has to be.
    pub(super) fn expected(&self) -> String {
        format!(
            "an object with `{}`, with `{}` and `{}`, with `{}`, with `conversations`, or with `instruction` and `output`",
            self.chat_feature, self.prompt_feature, self.completion_feature, self.text_feature
        )
    }

    fn required(&self) -> [&str; 7] {
        [
            &self.prompt_feature,
            &self.completion_feature,
            &self.chat_feature,
            &self.text_feature,
            sharegpt::CONVERSATIONS,
            instruction::INSTRUCTION,
            instruction::OUTPUT,
        ]
    }

    /// The format of a row, in mlx-lm's order of preference and then ours.
    pub(super) fn format(&self, object: &Map<String, Value>) -> Option<DataFormat> {
        let has = |key: &str| object.contains_key(key);
        if has(&self.prompt_feature) && has(&self.completion_feature) {
            Some(DataFormat::Completions)
        } else if has(&self.chat_feature) {
            Some(DataFormat::Chat)
        } else if has(&self.text_feature) {
            Some(DataFormat::Text)
        } else if has(sharegpt::CONVERSATIONS) {
            Some(DataFormat::ShareGpt)
        } else if has(instruction::INSTRUCTION) && has(instruction::OUTPUT) {
            Some(DataFormat::Instruction)
        } else {
            None
        }
    }

    /// The keys that a format must have and those that it may have.
    fn of(&self, format: DataFormat) -> (Vec<&str>, &'static [&'static str]) {
        match format {
            DataFormat::Completions => (vec![&self.prompt_feature, &self.completion_feature], &["tools"]),
            DataFormat::Chat => (vec![&self.chat_feature], &["tools"]),
            DataFormat::Text => (vec![&self.text_feature], &[]),
            DataFormat::ShareGpt => (vec![sharegpt::CONVERSATIONS], &sharegpt::OPTIONAL),
            DataFormat::Instruction => (
                vec![instruction::INSTRUCTION, instruction::OUTPUT],
                &instruction::OPTIONAL,
            ),
        }
    }

    /// A row's format, its record, and the keys of it that nothing reads. The location of a problem is the field it is
    /// about, empty for the row as a whole.
    pub(super) fn read<'row>(
        &self,
        object: &'row Map<String, Value>,
    ) -> Result<(DataFormat, Record, Vec<&'row str>), Problem> {
        let Some(format) = self.format(object) else {
            return Err(self.no_format(object));
        };
        let (required, optional) = self.of(format);
        let keys = object.keys().map(String::as_str);
        let unread: Vec<&str> = keys
            .filter(|key| !required.contains(key) && !optional.contains(key))
            .collect();
        for &key in &unread {
            let absent = optional.iter().copied().filter(|name| !object.contains_key(*name));
            if let Some(meant) = one_slip_away(key, absent) {
                let found = format!("a key that the {format} format does not have");
                return Err(Problem::new(key, found, format!("`{meant}`, if that was meant")));
            }
        }
        let record = match format {
            DataFormat::Completions => Record::Completions {
                prompt: text_field(object, &self.prompt_feature)?,
                completion: text_field(object, &self.completion_feature)?,
                tools: tools(object)?,
            },
            DataFormat::Chat => Record::Chat {
                messages: messages(object, &self.chat_feature)?,
                tools: tools(object)?,
            },
            DataFormat::Text => Record::Text(filled_text(object, &self.text_feature)?),
            DataFormat::ShareGpt => sharegpt::read(object)?,
            DataFormat::Instruction => instruction::read(object)?,
        };
        Ok((format, record, unread))
    }

    fn no_format(&self, object: &Map<String, Value>) -> Problem {
        let keys: Listing = object.keys().cloned().collect();
        let required = self.required();
        let slip = object
            .keys()
            .filter(|key| !required.contains(&key.as_str()))
            .find_map(|key| {
                let absent = required.into_iter().filter(|name| !object.contains_key(*name));
                closest(key, absent).map(|meant| format!("; did you mean `{meant}` by `{key}`?"))
            });
        Problem::new(
            "",
            format!("an object with {keys}"),
            self.expected() + &slip.unwrap_or_default(),
        )
    }
}

/// The kind of a value, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A text, which may be empty.
pub(super) fn text_field(object: &Map<String, Value>, key: &str) -> Result<String, Problem> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        other => Err(Problem::new(key, other.map_or("no value", kind), "a text")),
    }
}

/// A text of at least one character.
pub(super) fn filled_text(object: &Map<String, Value>, key: &str) -> Result<String, Problem> {
    let text = text_field(object, key)?;
    if text.is_empty() {
        return Err(Problem::new(key, "an empty text", "at least one character"));
    }
    Ok(text)
}

/// A text that may be empty, null or absent; `None` for all three.
pub(super) fn optional_text(object: &Map<String, Value>, key: &str) -> Result<Option<String>, Problem> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => Ok(Some(text_field(object, key)?).filter(|text| !text.is_empty())),
    }
}
