//! What the client bears of a server, in one table.

use std::time::Duration;

/// How often the user's wish is looked at while a server computes: half of the 100 ms within which it has to be seen.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// Longest time until a connection stands. A server on this machine takes a connection at once, even while it computes.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// Bytes of one body. The longest answers are a few hundred kilobytes, event by event; a list of models is less.
pub(super) const LONGEST_BODY: usize = 64 << 20;

/// Bytes of one line of a stream. One event that repeats a whole answer fits many times.
pub(super) const LONGEST_LINE: usize = 4 << 20;

/// Bytes of the data of one event, which may have several lines.
pub(super) const LONGEST_EVENT: usize = 8 << 20;

/// Pieces of a body that wait to be read, 16 KiB each at most: a server that is faster than the reader waits too, as TCP has it.
pub(super) const WAITING_PIECES: usize = 256;

/// Bytes of a body's beginning that are kept to say what it is, where it is no stream.
pub(super) const KEPT_BEGINNING: usize = 4 << 10;

/// Largest count: above it not every whole number is a JSON number of its own, and no model writes so many tokens.
pub(super) const LARGEST_COUNT: f64 = 9_007_199_254_740_992.0;

/// Longest time that a server may say it took, in seconds: no test takes longer than a week.
pub(super) const LONGEST_TIME: f64 = 604_800.0;
