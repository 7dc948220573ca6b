use serde::{Deserialize, Serialize};

use super::{Listing, Slot};

/// The training rows after tokenisation and masking.
///
/// A token is supervised when the loss counts it as a target. Rows are named `row N`, counted from 1.
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
    /// Tokens of the median row, before cutting; the lower one of two in the middle.
    pub median_row: usize,
    /// Supervised tokens over all rows.
    pub supervised_tokens: usize,
    /// Supervised tokens that are in the stop set.
    pub supervised_stop_tokens: usize,
    /// Rows without one supervised token.
    pub rows_without_supervision: Listing,
    /// Rows that have supervised tokens, all of them in the stop set.
    pub rows_only_stop_tokens: Listing,
    /// Rows whose last supervised token is in the stop set or is followed only by white space after such a token.
    pub rows_ending_in_stop: usize,
    /// Conversations whose last answer has no words, or none but a stop token's.
    pub rows_with_empty_answer: Listing,
    /// Rows that should close with a stop token and hold none there: answers and plain text that were not cut.
    pub rows_without_end: Listing,
    /// Rows with supervised tokens whose closing stop token is there but is no target.
    pub rows_with_masked_end: Listing,
    /// Rows in which the stop token that closes the row comes again behind itself, as a target.
    pub rows_with_repeated_end: Listing,
    /// Such targets over all rows.
    pub repeated_end_tokens: usize,
    /// Rows with targets behind the end of the row's own text that are neither its closing token nor white space: padding.
    pub rows_with_supervised_padding: Listing,
    /// Such targets over all rows.
    pub supervised_padding_tokens: usize,
    /// Rows that lost their end to a length limit.
    pub rows_truncated: Listing,
    /// Of the rows that were cut, those that lost a closing stop token.
    pub rows_with_lost_end: Listing,
    /// Tokens that cutting removed, over all rows.
    pub tokens_lost: usize,
    /// Rows that begin with the beginning-of-text token twice.
    pub rows_with_double_beginning: Listing,
    /// Rows with an id that the embedding table has no row for.
    pub rows_with_unknown_ids: Listing,
    /// The largest token id of all rows.
    pub largest_id: u32,
    /// Rows equal to an earlier row, token for token; rows that were cut are compared whole.
    pub duplicate_rows: Listing,
    /// Where the masks end, against where the prompts end.
    pub boundary: BoundaryEvidence,
    /// What the rows teach against what is asked at inference.
    pub template: TemplateEvidence,
    /// Assistant messages with words that are found in the tokens of their row; 0 for plain text.
    pub assistant_messages: usize,
    /// Assistant messages with at least one supervised token of their own.
    pub supervised_assistant_messages: usize,
    /// Conversations whose last message is not an answer.
    pub rows_without_answer: Listing,
    /// The rows kept for validation; `Skipped` when there are none.
    pub validation: Slot<ValidationEvidence>,
    /// What was asked for and does not apply, one sentence each, without a final period.
    pub notes: Vec<String>,
}

/// Where the masks end, against where the prompts end by the tokenizer's own rendering.
///
/// Earlier answers of a conversation do not count as prompt, whether they are supervised or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundaryEvidence {
    /// Rows that have a prompt and a mask was asked for, so that it can be judged.
    pub rows: usize,
    /// Of these, rows whose prompt tokens are not a prefix of the whole row's tokens.
    pub moved: Listing,
    /// Of these, rows whose prompt is supervised from its start.
    pub unmasked: Listing,
    /// Of these, rows with supervised tokens inside the prompt, though not from its start.
    pub early: Listing,
    /// Of these, rows of whose answer some tokens are supervised and others, before the closing stop token, are not.
    pub late: Listing,
    /// The index at which supervision begins in every row, though the prompts end at different ones, or though it is 2,
    /// the length of a dictionary of ids and attention, and no prompt ends there; `None` otherwise.
    pub constant: Option<usize>,
    /// Supervised tokens that belong to prompts, over all rows, whether a mask was asked for or not.
    pub supervised_prompt_tokens: usize,
    /// The first supervised tokens of the first row that is early or late, as text; empty when there is none.
    pub first_targets: String,
}

/// What the rows teach against what is asked at inference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateEvidence {
    /// Rows with a question and an answer that were compared.
    pub rows: usize,
    /// Rows that do not begin with the text that inference would ask them with, thoughts aside.
    pub asked_differently: Listing,
    /// The first such row, from a little before the first difference; `None` when there is none.
    pub difference: Option<PromptDifference>,
    /// Rows that begin with the text that inference would ask them with but for a block of thoughts.
    pub asked_with_other_thoughts: Listing,
    /// The first such row, from a little before the first difference; `None` when there is none.
    pub thoughts_difference: Option<PromptDifference>,
    /// Rows whose text holds turn markers of other model families, which this tokenizer splits into ordinary tokens.
    pub rows_with_foreign_markers: Listing,
    /// Those markers, sorted.
    pub foreign_markers: Vec<String>,
}

/// One prompt in two renderings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptDifference {
    /// The row, as `row N`.
    pub row: String,
    /// What it was trained with, special tokens shown.
    pub trained: String,
    /// What inference asks, special tokens shown.
    pub asked: String,
}

/// The rows kept for validation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationEvidence {
    /// Rows for validation.
    pub rows: usize,
    /// Rows for validation that are training rows too, token for token.
    pub also_trained: Listing,
}
