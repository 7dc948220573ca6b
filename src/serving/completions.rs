//! `POST /v1/completions`: the continuation of texts.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use serde_json::{Value, json};

use super::answers::Choice;
use super::api_error::ApiError;
use super::fields::{Fields, kind};
use super::generation_options::{GenerationOptions, MAX_CHOICES, top_log_probabilities};
use super::logprobs::of_completion;
use super::reply::{Asked, Envelope, Reply, answer, finish_reason};
use super::service::Service;
use crate::engine::{AnswerToken, FinishReason};
use crate::model::Tokenizer;

/// Tokens of a completion that says nothing of its length, as OpenAI's reference has it.
const DEFAULT_LENGTH: usize = 16;

pub(super) async fn create(State(service): State<Arc<Service>>, request: Request<Body>) -> Result<Response, ApiError> {
    answer(service, request, read).await
}

fn read(service: &Service, body: Value) -> Result<Asked<CompletionReply>, ApiError> {
    let mut fields = Fields::new(body, "")?;
    let options = GenerationOptions::read(&mut fields, service)?;
    let prompts = prompts(fields.take("prompt"))?;
    let asked_length = fields.count("max_tokens", 1)?;
    let top = top_log_probabilities(&mut fields, service, "logprobs")?;
    fields.refuse("echo", "false", |value| *value == json!(false))?;
    fields.refuse("suffix", "null", |value| value == "")?;
    let choices = options.choices;
    fields.refuse("best_of", "the value of `n`", |value| *value == json!(choices))?;
    for name in ["tools", "response_format"] {
        fields.refuse(name, "null", |_| false)?;
    }
    fields.end()?;
    let count = prompts.len() * choices;
    if count > MAX_CHOICES {
        let found = format!("{} with {choices} answers each", prompts.len());
        let expected = format!("{MAX_CHOICES} answers or fewer");
        return Err(ApiError::field("prompt", &found, &expected));
    }
    let mut requests = Vec::with_capacity(count);
    for prompt in prompts {
        let ids = match prompt {
            Prompt::Ids(ids) => ids,
            Prompt::Text(text) => {
                let ids = service.model.tokenizer.encode(&text, true);
                ids.map_err(|error| ApiError::internal(error.to_string()))?
            }
        };
        let length = service.answer_length(("prompt", ids.len()), ("max_tokens", asked_length))?;
        let length = match asked_length {
            None => length.min(DEFAULT_LENGTH),
            Some(_) => length,
        };
        requests.extend(options.requests(service, &ids, length, top));
    }
    Ok(Asked {
        reply: CompletionReply {
            tokenizer: Arc::clone(&service.model.tokenizer),
            wants_logprobs: top.is_some(),
            offsets: vec![0; requests.len()],
        },
        requests,
        envelope: Envelope {
            id: service.answer_id("cmpl"),
            object: "text_completion",
            chunk_object: "text_completion",
            model: options.model,
            choices,
        },
        stream: options.stream,
    })
}

enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

const EXPECTED_PROMPT: &str = "a text, a list of token ids, or a list of either";

/// The four forms of a prompt.
fn prompts(value: Option<Value>) -> Result<Vec<Prompt>, ApiError> {
    let name = "prompt";
    let items = match value {
        Some(Value::String(text)) => return Ok(vec![Prompt::Text(text)]),
        Some(Value::Array(items)) if !items.is_empty() => items,
        Some(other) => return Err(ApiError::field(name, &kind(&other), EXPECTED_PROMPT)),
        None => return Err(ApiError::field(name, "nothing", EXPECTED_PROMPT)),
    };
    if items.iter().all(Value::is_number) {
        return Ok(vec![Prompt::Ids(ids(&items, name)?)]);
    }
    if items.len() > MAX_CHOICES {
        let found = format!("{} prompts", items.len());
        return Err(ApiError::field(name, &found, &format!("{MAX_CHOICES} or fewer")));
    }
    let prompts = items.into_iter().enumerate().map(|(index, item)| match item {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(items) => ids(&items, &format!("{name}[{index}]")).map(Prompt::Ids),
        other => {
            let place = format!("{name}[{index}]");
            Err(ApiError::field(place, &kind(&other), "a text or a list of token ids"))
        }
    });
    prompts.collect()
}

fn ids(items: &[Value], place: &str) -> Result<Vec<u32>, ApiError> {
    let id = |(index, item): (usize, &Value)| {
        let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| ApiError::field(format!("{place}[{index}]"), &kind(item), "a token id"))
    };
    items.iter().enumerate().map(id).collect()
}

struct CompletionReply {
    tokenizer: Arc<Tokenizer>,
    wants_logprobs: bool,
    /// Characters told of each answer.
    offsets: Vec<usize>,
}

impl CompletionReply {
    fn logprobs<'a>(&mut self, index: usize, tokens: impl IntoIterator<Item = &'a AnswerToken>) -> Value {
        if !self.wants_logprobs {
            return Value::Null;
        }
        of_completion(&self.tokenizer, tokens, &mut self.offsets[index])
    }
}

fn entry(index: usize, text: &str, logprobs: &Value, reason: Option<&str>) -> Value {
    json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason })
}

impl Reply for CompletionReply {
    fn whole(&mut self, index: usize, choice: &Choice) -> Value {
        let logprobs = self.logprobs(index, &choice.tokens);
        entry(index, &choice.text, &logprobs, Some(finish_reason(choice.reason)))
    }

    fn begin(&self, _index: usize) -> Option<Value> {
        None
    }

    fn piece(&mut self, index: usize, text: &str, token: Option<&AnswerToken>) -> Option<Value> {
        let has_logprobs = self.wants_logprobs && token.is_some();
        if text.is_empty() && !has_logprobs {
            return None;
        }
        let logprobs = token.map_or(Value::Null, |token| self.logprobs(index, [token]));
        Some(entry(index, text, &logprobs, None))
    }

    fn end(&self, index: usize, reason: FinishReason) -> Value {
        entry(index, "", &Value::Null, Some(finish_reason(reason)))
    }
}
