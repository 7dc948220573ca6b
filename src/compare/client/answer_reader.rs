//! The seam between the bytes of a stream and the protocol that they are.

use super::Answer;
use super::event_stream::{Event, EventStream, StreamError};
use super::json_lines::JsonLines;
use crate::compare::Failure;

/// How a stream is cut into events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::compare) enum Framing {
    /// Server-sent events.
    EventStream,
    /// One JSON value on each line.
    JsonLines,
}

/// Whether more is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::compare) enum Step {
    /// The answer goes on.
    More,
    /// That was its last event.
    Last,
}

/// A protocol in which an answer is told event by event.
pub(in crate::compare) trait AnswerReader {
    /// How its stream is cut.
    fn framing(&self) -> Framing;

    /// Adds an event that came `at` seconds by the clock of the test.
    ///
    /// # Errors
    /// It is none of the protocol, or tells of a failure.
    fn read(&mut self, event: &Event, at: f64, answer: &mut Answer) -> Result<Step, Failure>;

    /// The failure that was told by an event that was not the last; `None` where none was.
    fn told_failure(&mut self) -> Option<Failure> {
        None
    }

    /// Whether an answer is complete though its stream ended without its last event.
    fn is_complete(&self, answer: &Answer) -> bool {
        let _ = answer;
        false
    }

    /// What may help where a success has no text.
    fn hint_for_nothing(&self) -> Option<&'static str> {
        None
    }
}

/// Cuts bytes into events.
#[derive(Debug)]
pub(super) enum Framer {
    EventStream(EventStream),
    JsonLines(JsonLines),
}

impl Framer {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::EventStream => Self::EventStream(EventStream::default()),
            Framing::JsonLines => Self::JsonLines(JsonLines::default()),
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, StreamError> {
        match self {
            Self::EventStream(stream) => stream.push(bytes),
            Self::JsonLines(lines) => lines.push(bytes),
        }
    }

    /// The event that the end of the stream completes; an event of a stream of events is complete only with its blank line.
    pub(super) fn finish(&mut self) -> Option<Event> {
        match self {
            Self::EventStream(_) => None,
            Self::JsonLines(lines) => lines.finish(),
        }
    }
}
