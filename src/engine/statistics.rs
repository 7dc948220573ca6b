//! What an engine has done since it began.

use std::time::Duration;

/// Upper ends of the intervals that durations are counted in, in milliseconds; what takes longer is counted behind the
/// last one.
pub const DURATION_BOUNDS: [u64; 14] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 60_000];

/// Counts, and durations by their size.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EngineStatistics {
    /// Requests that were taken.
    pub requests: u64,
    /// Answers that ended by themselves.
    pub finished: u64,
    /// Answers that nobody wanted any more.
    pub cancelled: u64,
    /// Answers that broke off.
    pub failed: u64,
    /// Requests that wait now.
    pub waiting: usize,
    /// Sequences that run now.
    pub running: usize,
    /// Passes of the model.
    pub steps: u64,
    /// Sequences that decoded, over all steps.
    pub decoded_sequences: u64,
    /// Prompt tokens that were computed.
    pub prompt_tokens: u64,
    /// Prompt tokens that were not, since their keys and values were there.
    pub reused_tokens: u64,
    /// Tokens that were generated.
    pub generated_tokens: u64,
    /// Bytes of keys and values of running sequences.
    pub cache_bytes: usize,
    /// Bytes of keys and values kept for later prompts.
    pub prefix_bytes: usize,
    /// From a request to its first step.
    pub queued: Durations,
    /// From a request to its first token.
    pub to_first_token: Durations,
    /// Between two tokens of an answer.
    pub between_tokens: Durations,
    /// Of the steps.
    pub step: Durations,
}

impl EngineStatistics {
    /// Sequences that decode in a step, on average; `None` before the first step.
    pub fn occupancy(&self) -> Option<f64> {
        (self.steps > 0).then(|| self.decoded_sequences as f64 / self.steps as f64)
    }
}

/// Durations, counted by their size.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Durations {
    /// How many.
    pub count: u64,
    /// Of all of them.
    pub total: Duration,
    /// How many end at each of [`DURATION_BOUNDS`] or before it, but after the one before.
    pub counts: [u64; DURATION_BOUNDS.len()],
}

impl Durations {
    /// Counts one.
    pub fn add(&mut self, duration: Duration) {
        self.count += 1;
        self.total += duration;
        let place = DURATION_BOUNDS
            .iter()
            .position(|&bound| duration <= Duration::from_millis(bound));
        if let Some(place) = place {
            self.counts[place] += 1;
        }
    }
}
