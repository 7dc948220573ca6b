//! How many tokens an answer has.

use crate::compare::RequestRecord;

/// Who counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CountedBy {
    /// The server, which knows.
    Server,
    /// A tokenizer here, from the text.
    Tokenizer,
    /// Pieces of the stream, of which a token may be half of one, or one of several.
    Pieces,
}

/// Tokens of an answer by the best count there is.
pub(super) fn answer_tokens(request: &RequestRecord) -> (usize, CountedBy) {
    // A server that counts nothing while text came does not count.
    let by_server = request
        .usage
        .map(|usage| usage.completion_tokens)
        .filter(|&count| count > 0);
    if let Some(count) = by_server {
        (count, CountedBy::Server)
    } else if let Some(count) = request.counted_tokens {
        (count, CountedBy::Tokenizer)
    } else {
        (request.times.pieces.len(), CountedBy::Pieces)
    }
}
