use super::Listing;
use serde::{Deserialize, Serialize};

/// The training rows after tokenisation and masking.
///
/// A token is supervised when the loss counts it as a target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataEvidence {
    /// `chat`, `completions` or `text`.
    pub format: String,
    /// Rows used for training.
    pub rows: usize,
    /// Tokens over all rows, after cutting.
    pub tokens: usize,
    /// Tokens of the longest row, before cutting.
    pub longest_row: usize,
    /// Supervised tokens over all rows.
    pub supervised_tokens: usize,
    /// Supervised tokens that are in the stop set.
    pub supervised_stop_tokens: usize,
    /// Rows without one supervised token, as `row N`.
    pub rows_without_supervision: Listing,
    /// Rows that have supervised tokens, all of them in the stop set, as `row N`.
    pub rows_only_stop_tokens: Listing,
    /// Rows whose last supervised token is in the stop set or is followed only by white space after such a token.
    pub rows_ending_in_stop: usize,
    /// Rows longer than the limit that were cut, as `row N`.
    pub rows_truncated: Listing,
    /// Rows whose prompt tokens are not a prefix of the whole row's tokens, as `row N`.
    pub rows_with_moved_boundary: Listing,
}
