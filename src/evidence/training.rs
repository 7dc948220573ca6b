use serde::{Deserialize, Serialize};

use super::{GradientCheck, Listing, LossCheck, OptimizerCheck, Slot};

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepRecord {
    /// Counted from 1.
    pub step: usize,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Mean loss per supervised token before the update, in nats; `None` when it is not finite.
    pub loss: Option<f64>,
    /// Euclidean norm over all gradients before clipping; `None` when it is not finite.
    pub gradient_norm: Option<f64>,
    /// Supervised tokens in the batch.
    pub supervised_tokens: usize,
    /// Tokens in the batch, padding not counted.
    pub tokens: usize,
    /// Positions of the batch, padding counted.
    pub positions: usize,
    /// Seconds for the step.
    pub seconds: f64,
    /// Bytes that MLX held for the whole process after the step, without what probes keep; `None` when it did not tell.
    pub active_memory: Option<u64>,
}

/// Why training ended before its last step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoppedEarly {
    /// The step that failed, counted from 1.
    pub step: usize,
    /// What was found, for example `the loss is NaN`.
    pub reason: String,
    /// The tensors or rows in which it was found.
    pub found_in: Listing,
}

/// The optimizer as the trainer left it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerEvidence {
    /// For example `adamw`.
    pub name: String,
    /// Updates the optimizer says it made.
    pub step_count: u64,
    /// Sum of the learning rates of all steps.
    pub learning_rate_sum: f64,
}

/// Which trainable tensors ever received a gradient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradientEvidence {
    /// Trainable tensors for which the trainer got a gradient.
    pub tensors: usize,
    /// Tensors whose gradient was exactly zero in every step in which it had to differ from zero.
    ///
    /// At the first step of fresh adapters `lora_a` has a zero gradient by construction, so it counts from step 2.
    pub always_zero: Listing,
    /// Tensors with a NaN or infinite gradient in some step.
    pub non_finite: Listing,
}

/// Memory that training was predicted to need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryEvidence {
    /// Bytes needed, by prediction.
    pub predicted: u64,
    /// Bytes available before training; `None` when the system does not tell.
    pub available: Option<u64>,
    /// The part of a batch that would fit; `None` when the system does not tell what is available.
    pub fitting: Option<FittingBatch>,
}

impl MemoryEvidence {
    /// Whether training was predicted to need more than there is; `None` when the system does not tell.
    pub fn is_short(&self) -> Option<bool> {
        self.available.map(|available| available < self.predicted)
    }
}

/// The part of a batch that the available memory has room for, by prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittingBatch {
    /// Rows as long as the longest one, at most those of the batch.
    pub rows: usize,
    /// Tokens of a row that has a batch of its own, at most those of the longest one.
    pub tokens: usize,
}

/// The short training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingEvidence {
    /// The trainer that ran: `reference`, or the name of another one.
    pub trainer: String,
    /// Steps, in order; shorter than requested when training stopped early.
    pub steps: Vec<StepRecord>,
    /// Why training ended early; `None` when it did not.
    pub stopped_early: Option<StoppedEarly>,
    /// The loss of the first step, recomputed.
    pub loss_check: Slot<LossCheck>,
    /// The gradients of the last step against finite differences.
    pub gradient_check: Slot<GradientCheck>,
    /// The optimizer replayed on a sample.
    pub optimizer_check: Slot<OptimizerCheck>,
    /// The optimizer as the trainer left it.
    pub optimizer: OptimizerEvidence,
    /// Gradients over all steps.
    pub gradients: GradientEvidence,
    /// Values declared trainable.
    pub trainable_values: u64,
    /// Median tokens per second over steps after the first.
    pub tokens_per_second: f64,
    /// Highest memory MLX held during training, in bytes.
    pub peak_memory: u64,
    /// Seconds for the whole phase.
    pub seconds: f64,
}

impl TrainingEvidence {
    /// Whether some step had a finite gradient other than zero.
    pub fn had_gradient(&self) -> bool {
        self.steps
            .iter()
            .any(|step| step.gradient_norm.is_some_and(|norm| norm > 0.0))
    }

    /// Steps that came after the first one with a learning rate above zero.
    ///
    /// Only in these does `lora_a` of a fresh adapter have a gradient, because `lora_b` starts at zero.
    pub fn steps_after_first_update(&self) -> usize {
        match self.steps.iter().position(|step| step.learning_rate > 0.0) {
            Some(first) => self.steps.len() - first - 1,
            None => 0,
        }
    }
}
