use std::collections::BTreeSet;

use crate::evidence::{GradientEvidence, Listing, StepRecord, StoppedEarly};
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::quantile::upper_median;
use crate::train::{TrainingOutcome, TrainingStep};

/// Collects what the steps show.
pub struct StepRecorder {
    /// The steps so far.
    pub steps: Vec<StepRecord>,
    trainable: BTreeSet<String>,
    /// Tensors whose gradient has been zero whenever it had to differ from zero.
    always_zero: BTreeSet<String>,
    non_finite: Vec<String>,
}

impl StepRecorder {
    /// A recorder for the trainable parameters of `model`.
    pub fn new(model: &CausalModel) -> Self {
        Self {
            steps: Vec::new(),
            always_zero: BTreeSet::new(),
            trainable: ParameterSnapshot::capture_trainable(model)
                .into_parameters()
                .into_keys()
                .collect(),
            non_finite: Vec::new(),
        }
    }

    /// Takes notice of one step, after which probes keep arrays of `kept` bytes.
    pub fn record(&mut self, step: &TrainingStep, kept: u64) {
        // With `lora_b` at zero no gradient reaches `lora_a`: the first step says nothing about it.
        let judged = |name: &String| step.step > 1 || !name.ends_with(".lora_a");
        for name in self.trainable.iter().filter(|name| judged(name)) {
            let first_judged = if name.ends_with(".lora_a") { 2 } else { 1 };
            let zero = step.zero_gradients.contains(name);
            if zero && step.step == first_judged {
                self.always_zero.insert(name.clone());
            } else if !zero {
                self.always_zero.remove(name);
            }
        }
        self.steps.push(Self::record_of(step, kept));
    }

    /// One step as evidence, now that it was made and probes keep arrays of `kept` bytes.
    pub fn record_of(step: &TrainingStep, kept: u64) -> StepRecord {
        StepRecord {
            step: step.step,
            learning_rate: step.learning_rate,
            loss: Some(f64::from(step.loss)),
            gradient_norm: Some(f64::from(step.gradient_norm)),
            supervised_tokens: step.supervised_tokens,
            tokens: step.tokens,
            positions: step.positions,
            seconds: step.seconds,
            active_memory: mlx_rs::memory::active_memory()
                .ok()
                .map(|bytes| (bytes as u64).saturating_sub(kept)),
        }
    }

    /// Why the run ended early; `None` when it did not.
    pub fn stopped(&mut self, outcome: TrainingOutcome) -> Option<StoppedEarly> {
        match outcome {
            TrainingOutcome::Completed => None,
            TrainingOutcome::NotFinite {
                step,
                loss,
                gradients,
                rows,
            } => {
                self.non_finite.clone_from(&gradients);
                let rows = Listing::numbered("row", rows.into_iter());
                Some(StoppedEarly {
                    step,
                    reason: if loss {
                        "the loss is not finite"
                    } else {
                        "a gradient is not finite"
                    }
                    .to_owned(),
                    found_in: if loss { rows } else { gradients.into_iter().collect() },
                })
            }
            TrainingOutcome::OutOfData { step } => Some(StoppedEarly {
                step,
                reason: "there is no row to train on".to_owned(),
                found_in: Listing::numbered("row", std::iter::empty()),
            }),
            TrainingOutcome::Interrupted => Some(StoppedEarly {
                step: self.steps.len() + 1,
                reason: "the run was interrupted".to_owned(),
                found_in: Listing::numbered("row", std::iter::empty()),
            }),
        }
    }

    /// Which tensors had gradients.
    pub fn gradients(&self) -> GradientEvidence {
        GradientEvidence {
            tensors: self.trainable.len(),
            always_zero: self.always_zero.iter().cloned().collect(),
            non_finite: self.non_finite.iter().cloned().collect(),
        }
    }

    /// Median over steps after the first, which also compiles and warms up.
    pub fn tokens_per_second(&self) -> f64 {
        let later = if self.steps.len() > 1 {
            &self.steps[1..]
        } else {
            &self.steps
        };
        upper_median(later.iter().map(|step| step.tokens as f64 / step.seconds)).unwrap_or(0.0)
    }
}
