//! Answers as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use serde_json::Value;

use super::answers::{Answers, Step};
use super::api_error::ApiError;
use super::fields::Fields;
use super::reply::{Envelope, Reply};
use super::service::now;
use crate::engine::Usage;

/// How long a stream may be silent. Proxies close connections on which nothing comes for a minute or so.
const SILENCE: Duration = Duration::from_secs(15);

/// How an answer is streamed.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamOptions {
    include_usage: bool,
}

impl StreamOptions {
    /// The options of a request; `None` where it wants the whole answer at one time.
    pub(super) fn read(fields: &mut Fields) -> Result<Option<Self>, ApiError> {
        let streams = fields.boolean("stream")?.unwrap_or(false);
        let mut include_usage = false;
        if let Some(mut options) = fields.object("stream_options")? {
            if !streams {
                return Err(ApiError::field(
                    "stream_options",
                    "it without `stream`",
                    "`stream` true",
                ));
            }
            include_usage = options.boolean("include_usage")?.unwrap_or(false);
            // Padding against listeners, which changes no answer.
            options.pass_over(&["include_obfuscation"]);
            options.end()?;
        }
        Ok(streams.then_some(Self { include_usage }))
    }
}

struct Streaming<R> {
    answers: Answers,
    reply: R,
    envelope: Envelope,
    options: StreamOptions,
    created: u64,
    usages: Vec<Option<Usage>>,
    /// Events that are ready to be sent.
    ready: VecDeque<Bytes>,
    has_ended: bool,
}

/// The response that tells `answers` as they come. Dropping it cancels them.
pub(super) fn event_stream<R: Reply>(
    answers: Answers,
    reply: R,
    envelope: Envelope,
    options: StreamOptions,
) -> Response {
    let mut streaming = Streaming {
        usages: vec![None; answers.len()],
        answers,
        reply,
        envelope,
        options,
        created: now(),
        ready: VecDeque::new(),
        has_ended: false,
    };
    streaming.begin();
    let events = stream::unfold(streaming, |mut streaming| async {
        let event = streaming.next().await?;
        Some((Ok::<_, Infallible>(event), streaming))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

impl<R: Reply> Streaming<R> {
    fn send(&mut self, data: &str) {
        self.ready.push_back(Bytes::from(format!("data: {data}\n\n")));
    }

    fn send_chunk(&mut self, choices: Vec<Value>, usage: &Value) {
        let mut chunk = self.envelope.around(self.envelope.chunk_object, self.created, choices);
        if self.options.include_usage {
            chunk["usage"] = usage.clone();
        }
        self.send(&chunk.to_string());
    }

    fn begin(&mut self) {
        for index in 0..self.answers.len() {
            if let Some(choice) = self.reply.begin(index) {
                self.send_chunk(vec![choice], &Value::Null);
            }
        }
    }

    /// The next event; `None` after the last.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.has_ended {
                return None;
            }
            match tokio::time::timeout(SILENCE, self.answers.next()).await {
                Err(_) => return Some(Bytes::from_static(b": the answer is not there yet\n\n")),
                Ok(Ok(Some((index, step)))) => self.tell(index, &step),
                Ok(Ok(None)) => self.end(),
                Ok(Err(error)) => {
                    self.has_ended = true;
                    self.send(&error.to_json().to_string());
                }
            }
        }
    }

    fn tell(&mut self, index: usize, step: &Step) {
        match step {
            Step::Token(token) => {
                if let Some(choice) = self.reply.piece(index, &token.text, Some(token)) {
                    self.send_chunk(vec![choice], &Value::Null);
                }
            }
            Step::Finished(finished) => {
                if let Some(choice) = self.reply.piece(index, &finished.text, None) {
                    self.send_chunk(vec![choice], &Value::Null);
                }
                let choice = self.reply.end(index, finished.reason);
                self.send_chunk(vec![choice], &Value::Null);
                self.usages[index] = Some(finished.usage);
            }
        }
    }

    fn end(&mut self) {
        self.has_ended = true;
        if self.options.include_usage {
            let usages: Vec<Usage> = self.usages.iter().copied().flatten().collect();
            let usage = self.envelope.usage(&usages);
            self.send_chunk(Vec::new(), &usage);
        }
        self.send("[DONE]");
    }
}
