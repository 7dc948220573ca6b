use serde::{Deserialize, Serialize};

use super::Listing;

/// A number as a log has it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoggedNumber {
    /// A number.
    Finite(f64),
    /// `nan`, `inf`, or nothing where a number was due.
    NotFinite,
}

impl From<f64> for LoggedNumber {
    fn from(value: f64) -> Self {
        if value.is_finite() {
            Self::Finite(value)
        } else {
            Self::NotFinite
        }
    }
}

impl LoggedNumber {
    /// The number, when it is one.
    pub fn finite(self) -> Option<f64> {
        match self {
            Self::Finite(value) => Some(value),
            Self::NotFinite => None,
        }
    }
}

/// One line of a log; what the line does not say is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEntry {
    /// Updates or iterations, as the log counts them.
    pub step: usize,
    /// Loss of training rows in nats per token, in most logs the mean since the line before.
    pub loss: Option<LoggedNumber>,
    /// Loss of validation rows.
    pub validation_loss: Option<LoggedNumber>,
    /// Euclidean norm over all gradients.
    pub gradient_norm: Option<LoggedNumber>,
    /// Learning rate.
    pub learning_rate: Option<f64>,
}

/// What a trainer wrote while it ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEvidence {
    /// `mlx-lm`, `transformers' output`, `trainer_state.json`, `JSON lines` or `CSV`.
    pub format: String,
    /// In order of their steps; of the file where a step occurs twice, as in a file of two runs.
    pub entries: Vec<LogEntry>,
    /// Lines that should be records and could not be read.
    pub lines_left_out: Listing,
}

impl LogEvidence {
    /// Steps and finite training losses.
    pub fn losses(&self) -> Vec<(usize, f64)> {
        self.finite(|entry| entry.loss)
    }

    /// Steps and finite validation losses.
    pub fn validation_losses(&self) -> Vec<(usize, f64)> {
        self.finite(|entry| entry.validation_loss)
    }

    fn finite(&self, number: impl Fn(&LogEntry) -> Option<LoggedNumber>) -> Vec<(usize, f64)> {
        let finite = |entry: &LogEntry| Some((entry.step, number(entry)?.finite()?));
        self.entries.iter().filter_map(finite).collect()
    }

    /// The first entry with a number that is not finite, and what it is of.
    ///
    /// A gradient norm counts only when no finite one follows: float16 training skips such steps while it looks for a scale.
    pub fn first_not_finite(&self) -> Option<(&LogEntry, &'static str)> {
        let is_finite = |entry: &LogEntry| matches!(entry.gradient_norm, Some(LoggedNumber::Finite(_)));
        let last_finite_norm = self.entries.iter().rposition(is_finite);
        self.entries.iter().enumerate().find_map(|(index, entry)| {
            let norm = entry
                .gradient_norm
                .filter(|_| last_finite_norm.is_none_or(|last| index > last));
            let numbers = [
                (entry.loss, "loss"),
                (norm, "gradient norm"),
                (entry.validation_loss, "validation loss"),
            ];
            let lost = numbers
                .into_iter()
                .find(|(number, _)| *number == Some(LoggedNumber::NotFinite));
            lost.map(|(_, name)| (entry, name))
        })
    }
}
