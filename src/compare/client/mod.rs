//! Asking a server over HTTP: one streamed answer, with the moment at which each piece of it came.

mod address;
mod answer_reader;
mod api_key;
mod bounds;
mod event_stream;
mod exchange;
mod failure;
mod http;
mod json_field;
mod json_lines;
mod lines;
mod open_ai_stream;

use std::time::Instant;

use serde_json::Value;

use super::{AnswerTimes, Failure, ServerTimings, Usage};

pub use event_stream::{Event, EventStream, StreamError};

pub(super) use address::Address;
pub(super) use answer_reader::{AnswerReader, Framing, Step};
pub(super) use api_key::ApiKey;
pub(super) use failure::error_of;
pub(super) use http::{HttpClient, Reply};
pub(super) use json_field::{count, duration, items, number, rate, text};
pub(super) use open_ai_stream::{OpenAiStream, chat_body, check_model, messages, parse, told};

/// The clock of a test: seconds since it began.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Self {
        Self { began: Instant::now() }
    }

    /// Seconds until now.
    pub fn now(self) -> f64 {
        self.seconds(Instant::now())
    }

    /// Seconds until `instant`, which is not before the beginning.
    pub fn seconds(self, instant: Instant) -> f64 {
        instant.saturating_duration_since(self.began).as_secs_f64()
    }
}

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What it says.
    pub content: String,
}

/// What a server is asked for, decoded greedily.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The conversation; a system message that begins with a number of its own defeats prompt caches.
    pub messages: Vec<ChatMessage>,
    /// Longest answer in tokens.
    pub max_tokens: usize,
    /// Fields that go into the body as they are, where the server's API has them.
    pub more: Vec<(String, Value)>,
}

/// What came back, as far as it came.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// When its parts came.
    pub times: AnswerTimes,
    /// The HTTP status; `None` where none came.
    pub status: Option<u16>,
    /// The model that answered, as the server names it, where that is not the name that the request has.
    pub other_model: Option<String>,
    /// All text: content, reasoning, arguments of tool calls.
    pub text: String,
    /// `stop`, `length` and so on.
    pub finish_reason: Option<String>,
    /// Tokens as the server counts them.
    pub usage: Option<Usage>,
    /// Times as the server measured them.
    pub timings: Option<ServerTimings>,
    /// Why it ended early; `None` where it did not.
    pub failure: Option<Failure>,
}

impl Answer {
    /// None, since it could not even be asked for.
    pub(super) fn failed(failure: Failure, clock: Clock) -> Self {
        let now = clock.now();
        Self {
            times: AnswerTimes {
                sent: now,
                ended: now,
                ..AnswerTimes::default()
            },
            failure: Some(failure),
            ..Self::default()
        }
    }

    /// Adds text that came `at` seconds by the clock of the test; no text is no piece.
    pub(super) fn add_piece(&mut self, text: &str, at: f64) {
        if !text.is_empty() {
            self.times.pieces.push(at);
            self.text.push_str(text);
        }
    }
}
