//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::answers::Choice;
use super::api_error::ApiError;
use super::fields::{Fields, kind};
use super::generation_options::{GenerationOptions, top_log_probabilities};
use super::logprobs::chat_entry;
use super::reply::{Asked, Envelope, Reply, answer, finish_reason};
use super::service::Service;
use crate::engine::{AnswerToken, FinishReason};
use crate::model::{Message, Tokenizer};

/// Messages of one conversation. Templates loop over them, some with a cost that grows with the square.
const MAX_MESSAGES: usize = 4096;

pub(super) async fn create(State(service): State<Arc<Service>>, request: Request<Body>) -> Result<Response, ApiError> {
    answer(service, request, read).await
}

fn read(service: &Service, body: Value) -> Result<Asked<ChatReply>, ApiError> {
    let mut fields = Fields::new(body, "")?;
    let options = GenerationOptions::read(&mut fields, service)?;
    let messages = messages(fields.take("messages"))?;
    let (length_name, asked_length) = length(&mut fields)?;
    let wants_logprobs = fields.boolean("logprobs")?.unwrap_or(false);
    let top = top_log_probabilities(&mut fields, service, "top_logprobs")?;
    if top.is_some() && !wants_logprobs {
        return Err(ApiError::field(
            "top_logprobs",
            "it without `logprobs`",
            "`logprobs` true",
        ));
    }
    refuse_what_cannot_be_done(&mut fields)?;
    fields.end()?;
    let tokenizer = &service.model.tokenizer;
    if tokenizer.chat_template().is_none() {
        return Err(ApiError::request(
            "the model has no chat template; ask at /v1/completions, or start the server with `--template`",
        ));
    }
    // The templates of models refuse conversations that they were not made for.
    let prompt = tokenizer
        .encode_chat(&messages, None, true)
        .map_err(|error| ApiError::field("messages", &error.to_string(), "a conversation that the template takes"))?;
    let max_tokens = service.answer_length(("messages", prompt.len()), (length_name, asked_length))?;
    let top = wants_logprobs.then(|| top.unwrap_or(0));
    Ok(Asked {
        requests: options.requests(service, &prompt, max_tokens, top),
        reply: ChatReply {
            tokenizer: Arc::clone(tokenizer),
            wants_logprobs,
        },
        envelope: Envelope {
            id: service.answer_id("chatcmpl"),
            object: "chat.completion",
            chunk_object: "chat.completion.chunk",
            model: options.model,
            choices: options.choices,
        },
        stream: options.stream,
    })
}

/// The longest answer, by its new name or its old one.
fn length(fields: &mut Fields) -> Result<(&'static str, Option<usize>), ApiError> {
    let names = ("max_completion_tokens", "max_tokens");
    match (fields.count(names.0, 1)?, fields.count(names.1, 1)?) {
        (Some(new), Some(old)) if new != old => Err(ApiError::field(
            names.1,
            &format!("{old} beside `{}` {new}", names.0),
            "one of the two",
        )),
        (Some(new), _) => Ok((names.0, Some(new))),
        (None, old) => Ok((names.1, old)),
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

fn refuse_what_cannot_be_done(fields: &mut Fields) -> Result<(), ApiError> {
    fields.refuse("tools", "an empty list", is_empty)?;
    fields.refuse("functions", "an empty list", is_empty)?;
    fields.refuse("tool_choice", "`none`", |value| value == "none")?;
    fields.refuse("function_call", "`none`", |value| value == "none")?;
    fields.refuse("parallel_tool_calls", "null", Value::is_boolean)?;
    fields.refuse("response_format", "{\"type\": \"text\"}", |value| {
        *value == json!({ "type": "text" })
    })?;
    fields.refuse("modalities", "[\"text\"]", |value| *value == json!(["text"]))?;
    for name in [
        "audio",
        "prediction",
        "reasoning_effort",
        "verbosity",
        "web_search_options",
    ] {
        fields.refuse(name, "null", |_| false)?;
    }
    Ok(())
}

fn messages(value: Option<Value>) -> Result<Vec<Message>, ApiError> {
    let name = "messages";
    let messages = match value {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        Some(other) => return Err(ApiError::field(name, &kind(&other), "a list of one message or more")),
        None => return Err(ApiError::field(name, "nothing", "a list of one message or more")),
    };
    if messages.len() > MAX_MESSAGES {
        let expected = format!("{MAX_MESSAGES} or fewer");
        return Err(ApiError::field(
            name,
            &format!("{} messages", messages.len()),
            &expected,
        ));
    }
    let messages = messages.into_iter().enumerate();
    messages
        .map(|(index, value)| message(value, &format!("{name}[{index}]")))
        .collect()
}

fn message(value: Value, place: &str) -> Result<Message, ApiError> {
    let mut fields = Fields::new(value, place)?;
    let expected = "`system`, `developer`, `user` or `assistant`";
    let role = match fields.text("role")?.as_deref() {
        // The newer name of the same thing, which templates do not know.
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some(role) => {
            let found = kind(&role.into());
            return Err(ApiError::field(format!("{place}.role"), &found, expected));
        }
        None => return Err(ApiError::field(format!("{place}.role"), "nothing", expected)),
    };
    let content = content(fields.take("content"), &format!("{place}.content"))?;
    let name = fields.text("name")?;
    // Answers of other servers that are handed back bring these, without a value.
    for name in ["tool_calls", "annotations"] {
        fields.refuse(name, "an empty list", is_empty)?;
    }
    for name in ["tool_call_id", "function_call", "refusal", "audio"] {
        fields.refuse(name, "null", |_| false)?;
    }
    fields.end()?;
    let mut of_template = Map::new();
    of_template.insert("role".to_owned(), role.into());
    of_template.insert("content".to_owned(), content.into());
    if let Some(name) = name {
        of_template.insert("name".to_owned(), name.into());
    }
    Message::from_fields(of_template).map_err(|problem| {
        ApiError::field(
            format!("{place}.{}", problem.location),
            &problem.found,
            &problem.expected,
        )
    })
}

/// A text, or parts of text that are joined.
fn content(value: Option<Value>, place: &str) -> Result<String, ApiError> {
    let parts = match value {
        Some(Value::String(text)) => return Ok(text),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(ApiError::field(place, &kind(&other), "a text or a list of parts")),
        None => return Err(ApiError::field(place, "nothing", "a text or a list of parts")),
    };
    let mut joined = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        let place = format!("{place}[{index}]");
        let mut fields = Fields::new(part, &place)?;
        let expected = "`text`, the only kind that this server reads";
        match fields.text("type")?.as_deref() {
            Some("text") => (),
            Some(other) => {
                return Err(ApiError::field(format!("{place}.type"), &kind(&other.into()), expected));
            }
            None => return Err(ApiError::field(format!("{place}.type"), "nothing", expected)),
        }
        match fields.text("text")? {
            Some(text) => joined.push_str(&text),
            None => return Err(ApiError::field(format!("{place}.text"), "nothing", "a text")),
        }
        fields.end()?;
    }
    Ok(joined)
}

struct ChatReply {
    tokenizer: Arc<Tokenizer>,
    wants_logprobs: bool,
}

impl ChatReply {
    fn logprobs<'a>(&self, tokens: impl IntoIterator<Item = &'a AnswerToken>) -> Value {
        if !self.wants_logprobs {
            return Value::Null;
        }
        let entries = tokens
            .into_iter()
            .filter_map(|token| chat_entry(&self.tokenizer, token));
        json!({ "content": entries.collect::<Vec<_>>(), "refusal": null })
    }
}

fn chunk(index: usize, delta: &Value, logprobs: &Value, reason: Option<&str>) -> Value {
    json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason })
}

impl Reply for ChatReply {
    fn whole(&mut self, index: usize, choice: &Choice) -> Value {
        json!({
            "index": index,
            "message": { "role": "assistant", "content": choice.text, "refusal": null },
            "logprobs": self.logprobs(&choice.tokens),
            "finish_reason": finish_reason(choice.reason),
        })
    }

    fn begin(&self, index: usize) -> Option<Value> {
        let delta = json!({ "role": "assistant", "content": "" });
        Some(chunk(index, &delta, &Value::Null, None))
    }

    fn piece(&mut self, index: usize, text: &str, token: Option<&AnswerToken>) -> Option<Value> {
        let has_logprobs = self.wants_logprobs && token.is_some();
        if text.is_empty() && !has_logprobs {
            return None;
        }
        let logprobs = token.map_or(Value::Null, |token| self.logprobs([token]));
        Some(chunk(index, &json!({ "content": text }), &logprobs, None))
    }

    fn end(&self, index: usize, reason: FinishReason) -> Value {
        chunk(index, &json!({}), &Value::Null, Some(finish_reason(reason)))
    }
}
