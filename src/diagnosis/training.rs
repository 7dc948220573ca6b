use std::collections::BTreeSet;
use std::time::Instant;

use super::{DiagnosisOptions, Progress};
use crate::data::{Batches, Dataset};
use crate::device::Backend;
use crate::evidence::{GradientEvidence, Listing, OptimizerEvidence, Slot, StepRecord, StoppedEarly, TrainingEvidence};
use crate::interrupt::Interrupt;
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::train::{Optimizer, TrainError, TrainSettings, Trainer, TrainingOutcome, TrainingStep, mean_loss};
use crate::workflow::Workflow;

/// Trains `model` in place and records every step.
pub fn run(
    model: &mut CausalModel,
    dataset: &Dataset,
    workflow: &dyn Workflow,
    optimizer: &mut dyn Optimizer,
    backend: Backend,
    options: &DiagnosisOptions,
    interrupt: &Interrupt,
    progress: &mut dyn Progress,
) -> Result<TrainingEvidence, TrainError> {
    let started = Instant::now();
    let settings = options.training();
    mlx_rs::memory::reset_peak_memory()?;
    let batches = || Batches::new(&dataset.examples, options.batch_size, options.seed);
    let first_batch = batches().next();
    let first_loss = |model: &CausalModel| -> Result<Option<f64>, TrainError> {
        let Some(batch) = &first_batch else {
            return Ok(None);
        };
        let loss = mean_loss(model, batch)?;
        Ok(loss.is_finite().then_some(loss))
    };
    let loss_before = first_loss(model)?;
    let mut recorder = Recorder::new(model);
    let outcome = {
        let mut observe = |step: &TrainingStep| {
            recorder.record(step);
            progress.advance(
                step.step,
                &format!("loss {:.4}, gradient norm {:.3}", step.loss, step.gradient_norm),
            );
        };
        Trainer {
            optimizer,
            loss: &|model, batch, lanes| workflow.loss_and_gradients(model, batch, lanes),
            lanes: backend.lanes(),
            settings: TrainSettings {
                schedule: workflow.schedule(settings.schedule),
                ..settings
            },
            interrupt,
        }
        .train(model, &mut batches(), &mut observe)?
    };
    Ok(TrainingEvidence {
        trainer: "reference".to_owned(),
        stopped_early: recorder.stopped(outcome),
        first_batch_loss_before: loss_before,
        first_batch_loss_after: first_loss(model)?,
        fit_before: Slot::skipped("not measured"),
        fit_after: Slot::skipped("not measured"),
        validation_loss_before: None,
        validation_loss_after: None,
        loss_check: Slot::skipped("not measured"),
        gradient_check: Slot::skipped("not measured"),
        optimizer_check: Slot::skipped("not measured"),
        uniform_loss: f64::from(model.model.embed_tokens.vocabulary_size()).ln(),
        optimizer: OptimizerEvidence {
            name: optimizer.name().to_owned(),
            step_count: optimizer.step_count(),
            learning_rate_sum: recorder.steps.iter().map(|step| step.learning_rate).sum(),
        },
        gradients: recorder.gradients(),
        trainable_values: ParameterSnapshot::capture_trainable(model).values(),
        tokens_per_second: recorder.tokens_per_second(),
        peak_memory: mlx_rs::memory::peak_memory()? as u64,
        seconds: started.elapsed().as_secs_f64(),
        steps: recorder.steps,
    })
}

/// Collects what the steps show.
struct Recorder {
    steps: Vec<StepRecord>,
    trainable: BTreeSet<String>,
    /// Tensors whose gradient has been zero whenever it had to differ from zero.
    always_zero: BTreeSet<String>,
    non_finite: Vec<String>,
}

impl Recorder {
    fn new(model: &CausalModel) -> Self {
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

    fn record(&mut self, step: &TrainingStep) {
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
        self.steps.push(StepRecord {
            step: step.step,
            learning_rate: step.learning_rate,
            loss: Some(f64::from(step.loss)),
            gradient_norm: Some(f64::from(step.gradient_norm)),
            supervised_tokens: step.supervised_tokens,
            tokens: step.tokens,
            positions: step.positions,
            seconds: step.seconds,
            active_memory: mlx_rs::memory::active_memory().map_or(0, |bytes| bytes as u64),
        });
    }

    fn stopped(&mut self, outcome: TrainingOutcome) -> Option<StoppedEarly> {
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

    fn gradients(&self) -> GradientEvidence {
        GradientEvidence {
            tensors: self.trainable.len(),
            always_zero: self.always_zero.iter().cloned().collect(),
            non_finite: self.non_finite.iter().cloned().collect(),
        }
    }

    /// Median over steps after the first, which also compiles and warms up.
    fn tokens_per_second(&self) -> f64 {
        let later = if self.steps.len() > 1 {
            &self.steps[1..]
        } else {
            &self.steps
        };
        let mut rates: Vec<f64> = later.iter().map(|step| step.tokens as f64 / step.seconds).collect();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or(0.0)
    }
}
