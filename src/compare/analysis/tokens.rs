//! How many tokens an answer has.

use super::thresholds::{BYTES_OF_CHARACTER, TOKENS_WITHOUT_TEXT};
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
    let by_server = told_tokens(request).filter(|&count| count > 0 && is_possible(request, count));
    if let Some(count) = by_server {
        (count, CountedBy::Server)
    } else if let Some(count) = request.counted_tokens {
        (count, CountedBy::Tokenizer)
    } else {
        (request.times.pieces.len(), CountedBy::Pieces)
    }
}

/// Tokens that the server tells where its text cannot have as many: it counts wrongly, or counts what it does not send.
pub(super) fn impossible_tokens(request: &RequestRecord) -> Option<usize> {
    told_tokens(request).filter(|&count| !is_possible(request, count))
}

fn told_tokens(request: &RequestRecord) -> Option<usize> {
    request.usage.map(|usage| usage.completion_tokens)
}

fn is_possible(request: &RequestRecord, count: usize) -> bool {
    count
        <= request
            .characters
            .saturating_mul(BYTES_OF_CHARACTER)
            .saturating_add(TOKENS_WITHOUT_TEXT)
}
