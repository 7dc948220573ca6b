//! A streamed chat completion, as OpenAI documents it and as local servers extend it.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat/streaming>. Extensions: `reasoning_content` (llama.cpp, LM
//! Studio), `reasoning` (mlx-lm, vLLM), `timings` (llama.cpp, milliseconds), `stats` (LM Studio's API v0, seconds), and error
//! objects in the middle of the stream.

use serde_json::{Map, Value, json};

use super::answer_reader::{AnswerReader, Framing, Step};
use super::event_stream::Event;
use super::failure::error_of;
use super::json_field::{count, duration, items, rate, text};
use super::{Answer, ChatRequest};
use crate::compare::{Failure, FailureKind, ServerTimings, Usage};
use crate::excerpt::beginning;

/// The last event's data.
const DONE: &str = "[DONE]";
/// Milliseconds in a second.
const MILLISECONDS: f64 = 1e3;

/// The body that asks for a streamed chat completion, decoded greedily; `model` is left out where the server serves one only.
pub(in crate::compare) fn chat_body(model: Option<&str>, request: &ChatRequest) -> Value {
    let mut body = Map::new();
    if let Some(model) = model {
        body.insert("model".to_owned(), model.into());
    }
    body.insert("messages".to_owned(), messages(request));
    body.insert("max_tokens".to_owned(), request.max_tokens.into());
    body.insert("temperature".to_owned(), 0.into());
    body.insert("stream".to_owned(), true.into());
    body.insert("stream_options".to_owned(), json!({ "include_usage": true }));
    body.extend(request.more.iter().cloned());
    Value::Object(body)
}

/// The conversation as OpenAI, LM Studio and Ollama write it.
pub(in crate::compare) fn messages(request: &ChatRequest) -> Value {
    let messages = request.messages.iter();
    messages
        .map(|message| json!({ "role": message.role, "content": message.content }))
        .collect()
}

/// Reads the stream of one answer.
#[derive(Debug, Default)]
pub(in crate::compare) struct OpenAiStream {
    expected_model: Option<String>,
    asked_model: Option<String>,
    hint_for_nothing: Option<&'static str>,
}

impl OpenAiStream {
    /// An answer that only this model may give.
    #[must_use]
    pub(in crate::compare) fn of_model(self, model: &str) -> Self {
        Self {
            expected_model: Some(model.to_owned()),
            ..self
        }
    }

    /// An answer to a request that names this model, if any; another name is kept, since servers may know a model by several.
    #[must_use]
    pub(in crate::compare) fn asking(self, model: Option<&str>) -> Self {
        Self {
            asked_model: model.map(str::to_owned),
            ..self
        }
    }

    /// What may help where the answer is empty.
    #[must_use]
    pub(in crate::compare) fn with_hint_for_nothing(self, hint: &'static str) -> Self {
        Self {
            hint_for_nothing: Some(hint),
            ..self
        }
    }
}

impl AnswerReader for OpenAiStream {
    fn framing(&self) -> Framing {
        Framing::EventStream
    }

    fn read(&mut self, event: &Event, at: f64, answer: &mut Answer) -> Result<Step, Failure> {
        if event.data.trim() == DONE {
            return Ok(Step::Last);
        }
        let chunk = parse(&event.data)?;
        if let Some(message) = error_of(&chunk) {
            return Err(told(&message));
        }
        if event.name == "error" {
            return Err(told(&event.data));
        }
        if let Some(found) = text(&chunk, "model")? {
            if let Some(expected) = &self.expected_model {
                check_model(expected, found)?;
            }
            if self.asked_model.as_deref().is_some_and(|asked| asked != found) {
                answer.other_model = Some(found.to_owned());
            }
        }
        // Only one answer is asked for.
        if let Some(choice) = items(&chunk, "choices")?.first() {
            read_choice(choice, at, answer)?;
        }
        if let Some(usage) = chunk.get("usage").filter(|usage| !usage.is_null()) {
            answer.usage = Some(read_usage(usage)?);
        }
        if let Some(timings) = chunk.get("timings").filter(|timings| !timings.is_null()) {
            answer.timings = Some(read_timings(timings)?);
        }
        if let Some(stats) = chunk
            .get("stats")
            .filter(|stats| stats.as_object().is_some_and(|stats| !stats.is_empty()))
        {
            answer.timings = Some(read_stats(stats)?);
        }
        Ok(Step::More)
    }

    /// Some servers end the stream without `[DONE]`.
    fn is_complete(&self, answer: &Answer) -> bool {
        answer.finish_reason.is_some()
    }

    fn hint_for_nothing(&self) -> Option<&'static str> {
        self.hint_for_nothing
    }
}

/// The JSON value of an event.
///
/// # Errors
/// It is none.
pub(in crate::compare) fn parse(data: &str) -> Result<Value, Failure> {
    serde_json::from_str(data).map_err(|error| {
        Failure::of(
            FailureKind::Malformed,
            format!("an event of the stream is no JSON ({error}): {}", beginning(data)),
        )
    })
}

/// A failure that a server tells in the middle of a stream.
pub(in crate::compare) fn told(message: &str) -> Failure {
    Failure::of(
        FailureKind::ServerError,
        format!("the server failed in the middle of an answer: {}", beginning(message)),
    )
}

/// Refuses the answer of a model that was not asked.
pub(in crate::compare) fn check_model(expected: &str, found: &str) -> Result<(), Failure> {
    if found == expected {
        return Ok(());
    }
    Err(Failure::of(
        FailureKind::NotLoaded,
        format!("another model answered: `{found}`, not `{expected}`"),
    )
    .with_hint("unload what else is loaded, and turn off loading on demand"))
}

fn read_choice(choice: &Value, at: f64, answer: &mut Answer) -> Result<(), Failure> {
    if let Some(reason) = text(choice, "finish_reason")? {
        answer.finish_reason = Some(reason.to_owned());
    }
    let Some(delta) = choice.get("delta") else {
        return Ok(());
    };
    let mut piece = String::new();
    for name in ["reasoning_content", "reasoning", "content"] {
        piece.push_str(text(delta, name)?.unwrap_or(""));
    }
    for call in items(delta, "tool_calls")? {
        let function = call.get("function").unwrap_or(&Value::Null);
        for name in ["name", "arguments"] {
            piece.push_str(text(function, name)?.unwrap_or(""));
        }
    }
    answer.add_piece(&piece, at);
    Ok(())
}

fn read_usage(usage: &Value) -> Result<Usage, Failure> {
    let needed = |name: &str| {
        count(usage, name)?
            .ok_or_else(|| Failure::of(FailureKind::Malformed, format!("the server's `usage` has no `{name}`")))
    };
    let cached = match usage.get("prompt_tokens_details") {
        Some(details) => count(details, "cached_tokens")?,
        None => None,
    };
    Ok(Usage {
        prompt_tokens: needed("prompt_tokens")?,
        completion_tokens: needed("completion_tokens")?,
        cached_tokens: cached,
    })
}

/// llama-server's `timings`.
fn read_timings(timings: &Value) -> Result<ServerTimings, Failure> {
    let seconds = |name: &str| duration(timings, name, MILLISECONDS);
    Ok(ServerTimings {
        prompt_tokens: count(timings, "prompt_n")?,
        prompt: seconds("prompt_ms")?,
        generated_tokens: count(timings, "predicted_n")?,
        generation: seconds("predicted_ms")?,
        tokens_per_second: rate(timings, "predicted_per_second")?,
        ..ServerTimings::default()
    })
}

/// `stats` of LM Studio's API v0.
fn read_stats(stats: &Value) -> Result<ServerTimings, Failure> {
    Ok(ServerTimings {
        first_token: duration(stats, "time_to_first_token", 1.0)?,
        generation: duration(stats, "generation_time", 1.0)?,
        tokens_per_second: rate(stats, "tokens_per_second")?,
        ..ServerTimings::default()
    })
}
