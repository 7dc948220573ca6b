//! How much each measurement works on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Rows, tokens and the like of every measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Rows of a training step.
    pub training_rows: usize,
    /// Tokens that each row predicts.
    pub training_tokens: usize,
    /// Rank of the adapters, which every linear layer of the blocks gets.
    pub rank: usize,
    /// Tokens of the prompt whose reading is measured.
    pub prefill_tokens: usize,
    /// Tokens of the prompts that are answered.
    pub prompt_tokens: usize,
    /// Tokens of each answer.
    pub answer_tokens: usize,
    /// Bytes that are read to measure the memory's speed.
    pub bandwidth_bytes: usize,
    /// Sides of the square product that stands for the machine's best.
    pub best_product: usize,
}

impl fmt::Display for Sizes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "steps of {} rows of {} tokens with rank {}, prompts of {} and {} tokens, answers of {}, {} bytes to read, products of \
             side {}",
            self.training_rows,
            self.training_tokens,
            self.rank,
            self.prefill_tokens,
            self.prompt_tokens,
            self.answer_tokens,
            self.bandwidth_bytes,
            self.best_product
        )
    }
}

impl Sizes {
    /// For a model that people use: those of the comparisons in README.
    pub const STANDARD: Self = Self {
        training_rows: 4,
        training_tokens: 128,
        rank: 8,
        prefill_tokens: 512,
        prompt_tokens: 128,
        answer_tokens: 64,
        bandwidth_bytes: 512 << 20,
        best_product: 2048,
    };

    /// For a look within seconds.
    pub const TINY: Self = Self {
        training_tokens: 64,
        prefill_tokens: 128,
        prompt_tokens: 32,
        answer_tokens: 32,
        bandwidth_bytes: 256 << 20,
        best_product: 1024,
        ..Self::STANDARD
    };

    /// The same, as far as a context of so many tokens has room for it.
    #[must_use]
    pub fn within(self, context: usize) -> Self {
        let prompt_tokens = self.prompt_tokens.min(context / 2).max(1);
        Self {
            training_tokens: self.training_tokens.min(context.saturating_sub(1)).max(1),
            prefill_tokens: self.prefill_tokens.min(context.saturating_sub(1)).max(1),
            prompt_tokens,
            answer_tokens: self.answer_tokens.min(context.saturating_sub(prompt_tokens)).max(1),
            ..self
        }
    }
}
