//! What a scheduler may hand out.

use thiserror::Error;

/// The bounds within which sequences run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Sequences that run at one time.
    pub max_sequences: usize,
    /// Tokens of one step: first one for every sequence that decodes, then prompts. With at least `max_sequences +
    /// prefill_chunk` the oldest prompt gets its whole chunk however many others decode.
    pub step_tokens: usize,
    /// Most prompt tokens of one sequence in one step.
    pub prefill_chunk: usize,
    /// Tokens of keys and values that may be reserved by all running sequences together.
    pub cache_tokens: usize,
    /// Requests that may wait; more are refused, so that whoever asks learns of the load at once.
    pub max_waiting: usize,
    /// Later requests of a higher priority that may be admitted before an earlier one.
    pub max_overtakings: usize,
}

/// A limit with which nothing could run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SchedulerLimitsError {
    /// A limit is zero.
    #[error("the scheduler's `{name}` is 0\n  found: 0\n  expected: 1 or more\n  hint: raise it")]
    Zero {
        /// The limit.
        name: &'static str,
    },
    /// A step has no room for every sequence.
    #[error(
        "a step has fewer tokens than sequences\n  found: step_tokens {step_tokens}\n  expected: {max_sequences} or more, since every running sequence decodes in every step\n  hint: raise `step_tokens` or lower `max_sequences`"
    )]
    StepTooSmall {
        /// Tokens of a step.
        step_tokens: usize,
        /// Sequences at one time.
        max_sequences: usize,
    },
}

impl SchedulerLimits {
    /// # Errors
    /// [`SchedulerLimitsError`] when nothing could run, or not every sequence in every step.
    pub fn validate(&self) -> Result<(), SchedulerLimitsError> {
        let positive = [
            ("max_sequences", self.max_sequences),
            ("prefill_chunk", self.prefill_chunk),
            ("cache_tokens", self.cache_tokens),
            ("max_waiting", self.max_waiting),
        ];
        if let Some((name, _)) = positive.into_iter().find(|(_, limit)| *limit == 0) {
            return Err(SchedulerLimitsError::Zero { name });
        }
        if self.step_tokens < self.max_sequences {
            return Err(SchedulerLimitsError::StepTooSmall {
                step_tokens: self.step_tokens,
                max_sequences: self.max_sequences,
            });
        }
        Ok(())
    }
}
