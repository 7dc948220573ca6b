//! Requests to one server: whole answers as JSON, and streamed ones piece by piece.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::address::Address;
use super::answer_reader::{AnswerReader, Framer, Framing, Step};
use super::api_key::ApiKey;
use super::bounds::{KEPT_BEGINNING, LONGEST_BODY, LOOK};
use super::exchange::{Arrival, Exchange, JSON, Request};
use super::failure::{error_of, of_status};
use super::{Answer, Clock};
use crate::compare::{Failure, FailureKind, Limits};
use crate::excerpt::beginning;
use crate::interrupt::Interrupt;

/// Asks one server. Every request has a connection of its own.
#[derive(Debug, Clone)]
pub(in crate::compare) struct HttpClient {
    server: Address,
    key: Option<ApiKey>,
    limits: Limits,
    interrupt: Interrupt,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::compare) struct Reply {
    /// The HTTP status.
    pub(in crate::compare) status: u16,
    /// The body.
    pub(in crate::compare) body: Vec<u8>,
}

impl Reply {
    /// The body of a success.
    ///
    /// # Errors
    /// The status is none of success, or the body no JSON.
    pub(in crate::compare) fn json(&self) -> Result<Value, Failure> {
        if !(200..300).contains(&self.status) {
            return Err(of_status(self.status, &self.body));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            let found = beginning(&String::from_utf8_lossy(&self.body));
            Failure::of(
                FailureKind::Malformed,
                format!("the server's answer is no JSON ({error}): {found}"),
            )
        })
    }
}

/// Until when is waited; `None` waits for ever.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// For all of it, and how many seconds that were.
    total: (Option<Instant>, f64),
    /// For the next piece, likewise.
    stall: (Option<Instant>, f64),
}

impl Patience {
    /// Why waiting until `at` was too long; `None` where it was not.
    fn ended(&self, at: Instant) -> Option<Failure> {
        let is_over = |(until, _): (Option<Instant>, f64)| until.is_some_and(|until| at >= until);
        if is_over(self.total) {
            let seconds = self.total.1;
            return Some(Failure::of(
                FailureKind::TimedOut,
                format!("the request took longer than {seconds} s"),
            ));
        }
        is_over(self.stall).then(|| {
            let seconds = self.stall.1;
            Failure::of(FailureKind::Stalled, format!("no text came for {seconds} s"))
        })
    }
}

/// The moment `seconds` after `from`; `None` where that is beyond all clocks.
fn after(from: Instant, seconds: f64) -> Option<Instant> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .and_then(|wait| from.checked_add(wait))
}

impl HttpClient {
    /// A client of the server at `server`.
    pub(in crate::compare) fn new(server: Address, key: Option<ApiKey>, limits: Limits, interrupt: Interrupt) -> Self {
        Self {
            server,
            key,
            limits,
            interrupt,
        }
    }

    /// The same client, which goes on when the user ends the run: what was loaded has to be unloaded then, too.
    pub(in crate::compare) fn uninterrupted(&self) -> Self {
        Self {
            interrupt: Interrupt::default(),
            ..self.clone()
        }
    }

    /// The server that it asks.
    pub(in crate::compare) fn server(&self) -> &Address {
        &self.server
    }

    /// Gets `path`, or posts `body` to it, within `seconds`.
    ///
    /// # Errors
    /// No whole answer came; a status that is none of success is an answer.
    pub(in crate::compare) fn request(&self, path: &str, body: Option<&Value>, seconds: f64) -> Result<Reply, Failure> {
        let sent = Instant::now();
        let exchange = self.start(path, body)?;
        let patience = Patience {
            total: (after(sent, seconds), seconds),
            stall: (None, seconds),
        };
        let (_, Arrival::Head { status, .. }) = self.next(&exchange, patience)? else {
            return Err(without_status());
        };
        let body = self.rest(&exchange, patience)?;
        Ok(Reply { status, body })
    }

    /// Posts `body` to `path` and reads the stream that comes back, with all that came where it fails in the middle.
    pub(in crate::compare) fn ask(
        &self,
        path: &str,
        body: &Value,
        reader: &mut dyn AnswerReader,
        clock: Clock,
    ) -> Answer {
        let mut answer = Answer::default();
        let sent = Instant::now();
        answer.times.sent = clock.seconds(sent);
        match self.read_answer(path, body, reader, clock, sent, &mut answer) {
            Ok(ended) => answer.times.ended = clock.seconds(ended),
            Err(failure) => {
                answer.times.ended = clock.now();
                // What the server told before its connection ended is the reason for that.
                let told = (failure.kind == FailureKind::BrokenOff).then(|| reader.told_failure());
                answer.failure = Some(told.flatten().unwrap_or(failure));
            }
        }
        answer
    }

    /// Reads a stream to its last event; returns when that came.
    fn read_answer(
        &self,
        path: &str,
        body: &Value,
        reader: &mut dyn AnswerReader,
        clock: Clock,
        sent: Instant,
        answer: &mut Answer,
    ) -> Result<Instant, Failure> {
        let exchange = self.start(path, Some(body))?;
        let mut patience = Patience {
            total: (after(sent, self.limits.request), self.limits.request),
            stall: (after(sent, self.limits.stall), self.limits.stall),
        };
        let (status, media_type) = match self.next(&exchange, patience)? {
            (at, Arrival::Head { status, media_type }) => {
                answer.times.headers = Some(clock.seconds(at));
                answer.status = Some(status);
                (status, media_type)
            }
            _ => return Err(without_status()),
        };
        if !(200..300).contains(&status) {
            return Err(of_status(status, &self.rest(&exchange, patience)?));
        }
        if reader.framing() == Framing::EventStream && media_type.as_deref() == Some(JSON) {
            return Err(not_streamed(&self.rest(&exchange, patience)?));
        }
        let mut framer = Framer::new(reader.framing());
        let mut length = 0;
        // Of a body that has no event so far.
        let mut beginning = Some(Vec::new());
        loop {
            let (at, arrival) = self.next(&exchange, patience)?;
            let events = match &arrival {
                Arrival::Head { .. } => return Err(without_status()),
                Arrival::Bytes(bytes) => {
                    length += bytes.len();
                    if length > LONGEST_BODY {
                        return Err(too_long());
                    }
                    keep_beginning(&mut beginning, bytes);
                    let events = framer.push(bytes);
                    events.map_err(|error| Failure::of(FailureKind::Malformed, error.to_string()))?
                }
                Arrival::End => framer.finish().into_iter().collect(),
            };
            if !events.is_empty() {
                beginning = None;
            }
            let pieces = answer.times.pieces.len();
            for event in events {
                if reader.read(&event, clock.seconds(at), answer)? == Step::Last {
                    return has_text(answer, reader).map(|()| at);
                }
            }
            if let Arrival::End = arrival {
                return match beginning {
                    _ if reader.is_complete(answer) => has_text(answer, reader).map(|()| at),
                    Some(body) if !body.is_empty() && !is_stream(&body) => Err(not_streamed(&body)),
                    _ => Err(Failure::of(
                        FailureKind::BrokenOff,
                        "the connection ended before the answer was complete",
                    )),
                };
            }
            if answer.times.pieces.len() > pieces {
                patience.stall.0 = after(at, self.limits.stall);
            }
        }
    }

    fn start(&self, path: &str, body: Option<&Value>) -> Result<Exchange, Failure> {
        let request = Request {
            address: self.server.of(path),
            body: body.map(Value::to_string),
        };
        Exchange::start(&self.server, self.key.as_ref(), request)
    }

    /// What comes next, and when it came.
    fn next(&self, exchange: &Exchange, patience: Patience) -> Result<(Instant, Arrival), Failure> {
        loop {
            let arrived = exchange.wait(LOOK);
            if self.interrupt.is_requested() {
                return Err(Failure::interrupted());
            }
            // Keep-alive comments arrive in time for ever: what counts is when a piece was due.
            let at = match &arrived {
                Some(Ok((at, _))) => *at,
                Some(Err(_)) | None => Instant::now(),
            };
            match (arrived, patience.ended(at)) {
                (Some(Err(failure)), _) | (_, Some(failure)) => return Err(failure),
                (Some(Ok(arrival)), None) => return Ok(arrival),
                (None, None) => {}
            }
        }
    }

    /// The rest of a body.
    fn rest(&self, exchange: &Exchange, patience: Patience) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            match self.next(exchange, patience)? {
                (_, Arrival::Bytes(bytes)) => body.extend(bytes),
                (_, Arrival::Head { .. } | Arrival::End) => return Ok(body),
            }
            if body.len() > LONGEST_BODY {
                return Err(too_long());
            }
        }
    }
}

fn has_text(answer: &Answer, reader: &dyn AnswerReader) -> Result<(), Failure> {
    if !answer.times.pieces.is_empty() {
        return Ok(());
    }
    let nothing = Failure::of(FailureKind::Empty, "the server reports success and sent no text");
    Err(match reader.hint_for_nothing() {
        Some(hint) => nothing.with_hint(hint),
        None => nothing,
    })
}

/// Keeps what came before the first event.
fn keep_beginning(beginning: &mut Option<Vec<u8>>, bytes: &[u8]) {
    if let Some(kept) = beginning {
        let room = KEPT_BEGINNING.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }
}

/// Whether a body without a whole event is the beginning of a stream of events: a comment, or a field that they have.
fn is_stream(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let first = text.trim_start_matches(['\u{feff}', '\r', '\n']);
    [":", "data", "event", "id", "retry"]
        .iter()
        .any(|field| first.starts_with(field))
}

/// What a success means that is one JSON value, or a page, where a stream was asked for.
fn not_streamed(body: &[u8]) -> Failure {
    let told = serde_json::from_slice(body).ok().as_ref().and_then(error_of);
    match told {
        Some(message) => Failure::of(
            FailureKind::ServerError,
            format!("the server reports success and an error: {}", beginning(&message)),
        ),
        None => Failure::of(
            FailureKind::Malformed,
            format!(
                "the server does not stream its answer: {}",
                beginning(&String::from_utf8_lossy(body))
            ),
        ),
    }
}

fn too_long() -> Failure {
    Failure::of(
        FailureKind::Malformed,
        format!("the server's answer is longer than {LONGEST_BODY} bytes"),
    )
}

fn without_status() -> Failure {
    Failure::of(FailureKind::Malformed, "the server's answer has no status")
}
