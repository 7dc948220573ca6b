//! From a body to an answer: what chats and completions have in common.

use std::sync::Arc;

use axum::body::Body;
use axum::http;
use axum::response::Response;
use serde_json::{Value, json};

use super::answers::{Answers, Choice};
use super::api_error::{ApiError, json_response};
use super::event_stream::{StreamOptions, event_stream};
use super::request_body;
use super::service::{Phase, Service, now};
use crate::engine::{AnswerToken, FinishReason, Request, Usage};

/// How one of the interfaces words its answers; every value is an entry of `choices`.
pub(super) trait Reply: Send + 'static {
    /// A whole answer.
    fn whole(&mut self, index: usize, choice: &Choice) -> Value;
    /// What a stream says first of an answer.
    fn begin(&self, index: usize) -> Option<Value>;
    /// More of an answer; `None` where there is nothing to say.
    fn piece(&mut self, index: usize, text: &str, token: Option<&AnswerToken>) -> Option<Value>;
    /// What a stream says last of an answer.
    fn end(&self, index: usize, reason: FinishReason) -> Value;
}

/// What surrounds the choices.
#[derive(Debug)]
pub(super) struct Envelope {
    /// Of the answer and of all its chunks.
    pub(super) id: String,
    /// The type of a whole answer.
    pub(super) object: &'static str,
    /// The type of a chunk.
    pub(super) chunk_object: &'static str,
    /// As the request called it.
    pub(super) model: String,
    /// Answers to each prompt.
    pub(super) choices: usize,
}

impl Envelope {
    pub(super) fn around(&self, object: &str, created: u64, choices: Vec<Value>) -> Value {
        let mut around = json!({
            "id": self.id,
            "object": object,
            "created": created,
            "model": self.model,
            "system_fingerprint": concat!("mlx-diagnose-", env!("CARGO_PKG_VERSION")),
        });
        around["choices"] = choices.into();
        around
    }

    /// The tokens of all answers; a prompt counts once, however many answers it got.
    pub(super) fn usage(&self, usages: &[Usage]) -> Value {
        let of_prompts = || usages.iter().step_by(self.choices);
        let prompt: usize = of_prompts().map(|usage| usage.prompt_tokens).sum();
        let cached: usize = of_prompts().map(|usage| usage.reused_tokens).sum();
        let generated: usize = usages.iter().map(|usage| usage.generated_tokens).sum();
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": { "cached_tokens": cached },
        })
    }
}

/// A request that was understood.
pub(super) struct Asked<R> {
    pub(super) requests: Vec<Request>,
    pub(super) reply: R,
    pub(super) envelope: Envelope,
    pub(super) stream: Option<StreamOptions>,
}

/// Answers one request over HTTP, whose body `read` understands.
pub(super) async fn answer<R: Reply>(
    service: Arc<Service>,
    request: http::Request<Body>,
    read: fn(&Service, Value) -> Result<Asked<R>, ApiError>,
) -> Result<Response, ApiError> {
    service.check_open()?;
    let (head, body) = request.into_parts();
    let mut phase = service.phase.clone();
    let body = tokio::select! {
        body = request_body::read(&head.headers, body, &service.settings) => body?,
        // Who has not asked yet does not hold up the end.
        _ = phase.wait_for(|phase| *phase != Phase::Open) => return Err(ApiError::stopping()),
    };
    service.check_room()?;
    let of_reader = Arc::clone(&service);
    // Templates and tokenizers compute, and would hold up everybody else's answers.
    let understood = tokio::task::spawn_blocking(move || read(&of_reader, request_body::parse(&body)?));
    let asked = understood
        .await
        .map_err(|_| ApiError::internal("the request could not be read"))??;
    let answers = service.submit(asked.requests)?;
    match asked.stream {
        Some(options) => Ok(event_stream(answers, asked.reply, asked.envelope, options)),
        None => whole(answers, asked.reply, &asked.envelope).await,
    }
}

async fn whole<R: Reply>(answers: Answers, mut reply: R, envelope: &Envelope) -> Result<Response, ApiError> {
    let created = now();
    let choices = answers.complete().await?;
    let usages: Vec<Usage> = choices.iter().map(|choice| choice.usage).collect();
    let choices = choices
        .iter()
        .enumerate()
        .map(|(index, choice)| reply.whole(index, choice));
    let mut body = envelope.around(envelope.object, created, choices.collect());
    body["usage"] = envelope.usage(&usages);
    Ok(json_response(&body))
}

/// OpenAI's word for an end.
pub(super) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
    }
}
