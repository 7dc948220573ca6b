use sysinfo::System;

use crate::model::ModelConfiguration;

/// Bytes of one f32.
const FLOAT: u64 = 4;
/// Values kept per token and block for the backward pass, in units of the hidden size: norms, projections, residuals.
const HIDDEN_ACTIVATIONS: u64 = 14;
/// The same in units of the feed-forward layer's inner size: gate, its activation, up, their product.
const INNER_ACTIVATIONS: u64 = 5;
/// Arrays of the size of one chunk of logits that exist at one time.
const LOGIT_COPIES: u64 = 4;
/// Rows of logits in a chunk; see the loss.
const LOGIT_ROWS: u64 = 256;

/// Memory of the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemMemory {
    /// Installed.
    pub total: u64,
    /// Free for programs without swapping.
    pub available: u64,
}

/// Reads the machine's memory; `None` where the system does not tell.
pub fn system_memory() -> Option<SystemMemory> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    Some(SystemMemory {
        total: system.total_memory(),
        available: system.available_memory(),
    })
}

/// What decides how much memory training takes beyond the loaded model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingSize {
    /// Values that are trained.
    pub trainable_values: u64,
    /// Rows per batch.
    pub batch_size: usize,
    /// Tokens of the longest row.
    pub tokens: usize,
}

/// Bytes that training takes beyond the loaded model: gradients, optimizer, activations and logits, in f32.
pub fn predicted_training_bytes(configuration: &ModelConfiguration, size: TrainingSize) -> u64 {
    let tokens = (size.batch_size * size.tokens) as u64;
    // New values, gradients and two moments.
    let optimizer = 4 * size.trainable_values;
    let per_token = HIDDEN_ACTIVATIONS * configuration.hidden_size as u64
        + INNER_ACTIVATIONS * configuration.intermediate_size as u64;
    // Attention weights: one row per token and head, twice for the softmax and its input.
    let attention = 2 * (configuration.num_attention_heads * size.tokens) as u64;
    let activations = tokens * (per_token + attention) * configuration.num_hidden_layers as u64;
    let logits = LOGIT_COPIES * LOGIT_ROWS.min(tokens) * configuration.vocab_size as u64;
    FLOAT * (optimizer + activations + logits)
}
