use sysinfo::System;

use crate::evidence::FittingBatch;
use crate::model::ModelConfiguration;
use crate::train::POSITIONS_PER_CHUNK;

/// Bytes of one f32.
const FLOAT: u64 = 4;
/// Values kept per token and block for the backward pass, in units of the hidden size: norms, projections, residuals.
const HIDDEN_ACTIVATIONS: u64 = 14;
/// The same in units of the feed-forward layer's inner size: gate, its activation, up, their product.
const INNER_ACTIVATIONS: u64 = 5;
/// Arrays of the size of one chunk of logits that exist at one time.
const LOGIT_COPIES: u64 = 4;

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
    let networks = configuration.experts.map_or(1, |experts| experts.num_experts_per_tok);
    let per_token = HIDDEN_ACTIVATIONS * configuration.hidden_size as u64
        + INNER_ACTIVATIONS * (networks * configuration.intermediate_size) as u64;
    // Attention weights: one row per token and head, twice for the softmax and its input.
    let attention = 2 * (configuration.num_attention_heads * size.tokens) as u64;
    let activations = tokens * (per_token + attention) * configuration.num_hidden_layers as u64;
    let logits = LOGIT_COPIES * (POSITIONS_PER_CHUNK as u64).min(tokens) * configuration.vocab_size as u64;
    FLOAT * (optimizer + activations + logits)
}

/// The part of a batch of `size` that training has room for in `available` bytes.
pub fn fitting_batch(configuration: &ModelConfiguration, size: TrainingSize, available: u64) -> FittingBatch {
    let fits = |size: TrainingSize| predicted_training_bytes(configuration, size) <= available;
    FittingBatch {
        rows: largest(size.batch_size, |batch_size| fits(TrainingSize { batch_size, ..size })),
        tokens: largest(size.tokens, |tokens| {
            fits(TrainingSize {
                batch_size: 1,
                tokens,
                ..size
            })
        }),
    }
}

/// The largest number up to `limit` that fits, where every smaller one fits too; 0 when none does.
fn largest(limit: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut fitting, mut candidates) = (0, limit);
    while fitting < candidates {
        let middle = candidates - (candidates - fitting) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            candidates = middle - 1;
        }
    }
    fitting
}

#[cfg(test)]
mod tests {
    use super::largest;
    use rstest::rstest;

    #[rstest]
    #[case(0, 7, 0)]
    #[case(10, 0, 0)]
    #[case(10, 1, 1)]
    #[case(10, 7, 7)]
    #[case(10, 10, 10)]
    #[case(10, 99, 10)]
    fn the_largest_number_that_fits_is_found(#[case] limit: usize, #[case] room: usize, #[case] expected: usize) {
        assert_eq!(largest(limit, |number| number <= room), expected);
    }
}
