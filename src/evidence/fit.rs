use serde::{Deserialize, Serialize};

use super::Slot;

/// How well a model predicts the first rows of the first batch, up to 256 tokens, token by token, with the true tokens
/// before each.
///
/// Losses are means in nats per token; `None` where there is no such token or the value is not finite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitEvidence {
    /// Rows that were measured.
    pub rows: usize,
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Loss of the supervised tokens.
    pub supervised: Option<f64>,
    /// Loss of the tokens that are not supervised: prompts and turn markers.
    pub unsupervised: Option<f64>,
    /// The answers of the first rows behind their own prompts, behind those of other rows, and turned round; `None` with
    /// fewer than two rows that differ and have a prompt, where it is not finite, and after training.
    pub pairing: Option<PairingFit>,
    /// Share of positions whose likeliest token is the one at the position itself, the next one, and the one after that.
    pub offset_agreement: [f64; 3],
    /// Log-odds in nats of the stop tokens together against all others, where a row truly ends.
    pub end_log_odds: Option<f64>,
    /// The same, wherever the next token is no stop token: of the supervised tokens, or of all where none is left.
    pub elsewhere_log_odds: Option<f64>,
    /// Mean rank of the row's own stop token where the row ends; 1 is the likeliest.
    pub end_rank: Option<f64>,
    /// Element type of the last hidden states.
    pub activation_dtype: String,
}

/// The loss of the same answers in other places and orders, in nats per token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairingFit {
    /// Rows that were exchanged.
    pub rows: usize,
    /// Tokens of their answers.
    pub tokens: usize,
    /// Behind the prompt of the answer's own row.
    pub own: f64,
    /// Behind the prompt of another row.
    pub other: f64,
    /// Standard error of the difference, from how much the rows differ.
    pub standard_error: f64,
    /// How much more the first answers cost with their tokens in reverse order.
    pub order_gain: f64,
}

/// The loss of validation rows at one moment of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationLoss {
    /// Updates made until then.
    pub updates: usize,
    /// In nats per supervised token; `None` when it is not finite.
    pub loss: Option<f64>,
}

/// How well rows of the data are predicted before training and after it, or without a finished adapter and with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitComparison {
    /// The first rows that are trained on, before.
    pub before: Slot<FitEvidence>,
    /// The same rows after.
    pub after: Slot<FitEvidence>,
    /// Loss of the validation rows before, in nats per supervised token; `None` without such rows or when not finite.
    pub validation_before: Option<f64>,
    /// The same on the way; empty without such rows, in short runs, and where nothing was trained here.
    pub validation_between: Vec<ValidationLoss>,
    /// The same after.
    pub validation_after: Option<f64>,
}

impl FitComparison {
    /// Loss of the first rows before, in nats per supervised token; `None` when not finite or not measured.
    pub fn loss_before(&self) -> Option<f64> {
        self.before.ran()?.supervised
    }

    /// Loss of the same rows after.
    pub fn loss_after(&self) -> Option<f64> {
        self.after.ran()?.supervised
    }
}
