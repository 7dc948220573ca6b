//! Counts what a row trains on.

use super::example::Example;
use crate::model::{StopSet, Tokenizer};

/// What one row trains on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowAudit {
    /// Tokens, after cutting.
    pub tokens: usize,
    /// Tokens before cutting.
    pub original_length: usize,
    /// Tokens that the loss counts as targets.
    pub supervised: usize,
    /// Of these, tokens in the stop set.
    pub supervised_stops: usize,
    /// Whether the last target that is not white space is in the stop set, so that the row teaches to stop.
    pub ends_in_stop: bool,
    /// Whether the row lost its end.
    pub truncated: bool,
    /// Whether the prompt's own tokens are not a prefix of the row's.
    pub boundary_moved: bool,
}

impl Example {
    /// Counts what this row trains on as it stands.
    pub fn audit(&self, tokenizer: &Tokenizer, stops: &StopSet) -> RowAudit {
        let targets: Vec<u32> = self.targets().collect();
        let blank = |id: u32| tokenizer.token_text(id).is_some_and(|text| text.trim().is_empty());
        let last = targets.iter().rev().find(|&&id| stops.contains(id) || !blank(id));
        RowAudit {
            tokens: self.tokens.len(),
            original_length: self.original_length,
            supervised: targets.len(),
            supervised_stops: targets.iter().filter(|&&id| stops.contains(id)).count(),
            ends_in_stop: last.is_some_and(|&id| stops.contains(id)),
            truncated: self.truncated,
            boundary_moved: self.boundary_moved,
        }
    }
}
