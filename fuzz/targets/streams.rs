//! Server-sent events.

use mlx_diagnose::compare::client::{Event, EventStream, StreamError};

use super::Verdict;

/// The same events come of a stream wherever it is cut into pieces.
pub(super) fn events(bytes: &[u8]) -> Verdict {
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, 1), whole);
    assert_eq!(read(bytes, 7), whole);
    Verdict::of(whole)
}

fn read(bytes: &[u8], piece: usize) -> Result<Vec<Event>, StreamError> {
    let mut stream = EventStream::default();
    let pieces = bytes.chunks(piece).map(|piece| stream.push(piece));
    Ok(pieces.collect::<Result<Vec<_>, _>>()?.concat())
}
