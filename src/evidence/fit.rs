use serde::{Deserialize, Serialize};

/// How well a model predicts the first batch, token by token, with the true tokens before each.
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
    /// Loss of the supervised tokens when each row's answer stands behind another row's prompt.
    pub permuted: Option<f64>,
    /// Share of positions whose likeliest token is the one at the position itself, the next one, and the one after that.
    pub offset_agreement: [f64; 3],
    /// Log-odds in nats of the likeliest stop token against all others, where a row truly ends.
    pub end_log_odds: Option<f64>,
    /// The same, at all supervised positions that are not the end.
    pub elsewhere_log_odds: Option<f64>,
    /// Mean rank of the row's own stop token where the row ends; 1 is the likeliest.
    pub end_rank: Option<f64>,
    /// Element type of the last hidden states.
    pub activation_dtype: String,
}
