//! Server-sent events.
//!
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>. The fields `id` and
//! `retry` belong to a client that reconnects, which this one never does: they are passed over.

use super::bounds::LONGEST_EVENT;
use super::lines::{LineSplitter, LineTooLong};

/// The name of an event that has none.
const DEFAULT_NAME: &str = "message";
/// A byte-order mark, which may open the stream.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// One message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its type; `message` where it has none.
    pub name: String,
    /// Its data lines, joined by line feeds.
    pub data: String,
}

/// A stream that no server with sense sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A line has no end.
    #[error("a line of the stream has no end")]
    LineTooLong,
    /// An event has no end.
    #[error("an event of the stream is longer than {LONGEST_EVENT} bytes")]
    EventTooLong,
}

impl From<LineTooLong> for StreamError {
    fn from(_: LineTooLong) -> Self {
        Self::LineTooLong
    }
}

/// Takes bytes, split anywhere, and gives events.
#[derive(Debug, Default)]
pub struct EventStream {
    lines: LineSplitter,
    has_begun: bool,
    name: String,
    data: String,
}

impl EventStream {
    /// The events that `bytes` complete.
    ///
    /// # Errors
    /// A line or an event is longer than any that makes sense.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, StreamError> {
        let mut events = Vec::new();
        for line in self.lines.push(bytes)? {
            let line = String::from_utf8_lossy(&line);
            let line = if self.has_begun {
                &line
            } else {
                line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line)
            };
            self.has_begun = true;
            if line.is_empty() {
                events.extend(self.dispatch());
            } else {
                self.read_field(line)?;
            }
        }
        Ok(events)
    }

    fn read_field(&mut self, line: &str) -> Result<(), StreamError> {
        let (field, value) = match line.split_once(':') {
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (line, ""),
        };
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" if self.data.len() + value.len() >= LONGEST_EVENT => return Err(StreamError::EventTooLong),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            // Comments have an empty name.
            _ => {}
        }
        Ok(())
    }

    /// The event that a blank line ends; `None` where it has no data.
    fn dispatch(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        // Every data line has added a line feed.
        data.pop()?;
        let name = if name.is_empty() { DEFAULT_NAME.to_owned() } else { name };
        Some(Event { name, data })
    }
}
