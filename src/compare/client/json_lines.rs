//! JSON values, one on each line (<https://jsonlines.org>), as events without a name.

use super::event_stream::{Event, StreamError};
use super::lines::LineSplitter;

/// Takes bytes, split anywhere, and gives each line that is not blank.
#[derive(Debug, Default)]
pub(super) struct JsonLines {
    lines: LineSplitter,
}

impl JsonLines {
    /// The lines that `bytes` complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, StreamError> {
        let lines = self.lines.push(bytes)?;
        Ok(lines.iter().filter_map(|line| event(line)).collect())
    }

    /// The last line, where it lacks its end.
    pub(super) fn finish(&mut self) -> Option<Event> {
        event(&self.lines.finish())
    }
}

fn event(line: &[u8]) -> Option<Event> {
    let data = String::from_utf8_lossy(line).trim().to_owned();
    (!data.is_empty()).then(|| Event {
        name: String::new(),
        data,
    })
}
