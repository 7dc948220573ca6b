use std::cell::RefCell;
use std::time::Instant;

use mlx_rs::error::Exception;

use super::costs::Costs;
use super::step_recorder::StepRecorder;
use super::validation_course::ValidationCourse;
use super::{DiagnosisOptions, Progress};
use crate::data::{Batch, Batches, Dataset};
use crate::device::Backend;
use crate::evidence::{
    FitComparison, FitEvidence, GradientCheck, LossCheck, OptimizerEvidence, ProbeCost, ReadLoss, Slot, StoppedEarly,
    TrainingEvidence,
};
use crate::interrupt::Interrupt;
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::probes::gradient_check::GradientRecorder;
use crate::probes::next_token::NextTokens;
use crate::probes::optimizer_recorder::OptimizerRecorder;
use crate::probes::{fit, loss_check, optimizer_replay, pairing};
use crate::train::{Lanes, Optimizer, TrainError, TrainSettings, Trainer, TrainingOutcome, TrainingStep};
use crate::workflow::Workflow;

/// What a training run uses, beside the model and its optimizer.
pub struct TrainingRun<'run> {
    /// The rows that are trained on.
    pub dataset: &'run Dataset,
    /// Rows that are only measured.
    pub validation: Option<&'run Dataset>,
    /// Ids that end an answer.
    pub stop_ids: &'run [u32],
    /// How each step is done.
    pub workflow: &'run dyn Workflow,
    /// Where it is computed.
    pub backend: Backend,
    /// What was asked for.
    pub options: &'run DiagnosisOptions,
    /// The user's wish to stop.
    pub interrupt: &'run Interrupt,
}

/// What a training run showed.
pub struct Trained {
    /// The steps.
    pub training: TrainingEvidence,
    /// The rows before and after.
    pub fit: FitComparison,
    /// What measuring cost.
    pub costs: Vec<ProbeCost>,
}

impl TrainingRun<'_> {
    /// Trains `model` in place and measures every step, and the model before and after.
    pub fn run(
        &self,
        model: &mut CausalModel,
        optimizer: &mut dyn Optimizer,
        progress: &mut dyn Progress,
    ) -> Result<Trained, TrainError> {
        let started = Instant::now();
        let mut costs = Costs::default();
        let settings = self.options.training();
        let lanes = self.backend.lanes();
        let first_batch = self.batches().next();
        let dropout_acts = loss_check::dropout_acts(model)?;
        let before = costs.of("fit", || self.first_fit(model, first_batch.as_ref(), &lanes));
        let mut validation = ValidationCourse::new(self.validation, settings.steps);
        let validation_before = validation.loss(model, &lanes)?;
        mlx_rs::memory::reset_peak_memory()?;
        let mut steps = StepRecorder::new(model);
        let gradients = RefCell::new(GradientRecorder::new(settings.steps));
        let mut recorder = OptimizerRecorder::new(optimizer);
        let outcome = {
            let mut observe = |step: &TrainingStep, model: &CausalModel| {
                steps.record(step, gradients.borrow().kept_bytes());
                progress.advance(
                    step.step,
                    &format!("loss {:.4}, gradient norm {:.3}", step.loss, step.gradient_norm),
                );
                validation.after_update(step.step, model, &lanes)
            };
            Trainer {
                optimizer: &mut recorder,
                loss: &|model, batch, lanes| {
                    let pass = self.workflow.loss_and_gradients(model, batch, lanes)?;
                    gradients.borrow_mut().record(model, batch, &pass);
                    Ok(pass)
                },
                lanes: self.backend.lanes(),
                settings: TrainSettings {
                    schedule: self.workflow.schedule(settings.schedule),
                    ..settings
                },
                interrupt: self.interrupt,
            }
            .train(model, &mut self.batches(), &mut observe)?
        };
        let peak_memory = mlx_rs::memory::peak_memory()? as u64;
        let recording = recorder.finish();
        costs.add("optimizer-replay", recording.seconds);
        let gradient_check = costs.of("finite-difference", || {
            self.gradient_check(model, gradients.into_inner(), &outcome, &lanes)
        });
        let stopped_early = steps.stopped(outcome);
        let after = costs.of("fit", || later_fit(model, first_batch.as_ref(), self.stop_ids, &lanes));
        let validation_after = validation.loss(model, &lanes)?;
        let (validation_between, seconds) = validation.finish();
        costs.add("validation", seconds);
        let optimizer_check = costs.of("optimizer-replay", || {
            optimizer_replay::check(&recording, self.options.optimizer())
        });
        let (fit_before, readings) = apart(before);
        let evidence = TrainingEvidence {
            trainer: "reference".to_owned(),
            loss_check: checked_loss(&steps, stopped_early.as_ref(), readings, dropout_acts),
            stopped_early,
            gradient_check,
            optimizer_check,
            optimizer: OptimizerEvidence {
                name: optimizer.name().to_owned(),
                step_count: optimizer.step_count(),
                learning_rate_sum: steps.steps.iter().map(|step| step.learning_rate).sum(),
            },
            gradients: steps.gradients(),
            trainable_values: ParameterSnapshot::capture_trainable(model).values(),
            tokens_per_second: steps.tokens_per_second(),
            peak_memory,
            seconds: started.elapsed().as_secs_f64(),
            steps: steps.steps,
        };
        let fit = FitComparison {
            before: fit_before,
            after: after.unwrap_or_else(Slot::crashed),
            validation_before,
            validation_between,
            validation_after,
        };
        Ok(Trained {
            training: evidence,
            fit,
            costs: costs.into_list(),
        })
    }

    fn batches(&self) -> Batches<'_> {
        Batches::new(&self.dataset.examples, self.options.batch_size, self.options.seed)
    }

    /// The fit before training, with all that the untouched base says about the batch.
    fn first_fit(
        &self,
        model: &CausalModel,
        batch: Option<&Batch>,
        lanes: &Lanes,
    ) -> Result<Option<(FitEvidence, Vec<ReadLoss>)>, Exception> {
        let Some(batch) = batch else {
            return Ok(None);
        };
        let tokens = NextTokens::read(model, batch, self.stop_ids, lanes)?;
        let fit = FitEvidence {
            pairing: pairing::measure(model, &self.dataset.examples, lanes)?,
            ..fit::measure(&tokens, &fit::first_rows(batch), self.stop_ids)
        };
        Ok(Some((fit, loss_check::readings(&tokens, batch))))
    }

    fn gradient_check(
        &self,
        model: &CausalModel,
        recorder: GradientRecorder,
        outcome: &TrainingOutcome,
        lanes: &Lanes,
    ) -> Slot<GradientCheck> {
        match outcome {
            TrainingOutcome::Completed if self.options.lora.dropout > 0.0 => {
                Slot::skipped("dropout makes the loss another one at every pass")
            }
            TrainingOutcome::Completed => recorder.measure(model, lanes).unwrap_or_else(Slot::crashed),
            _ => Slot::skipped("training ended before its last step"),
        }
    }
}

fn later_fit(
    model: &CausalModel,
    batch: Option<&Batch>,
    stop_ids: &[u32],
    lanes: &Lanes,
) -> Result<Slot<FitEvidence>, Exception> {
    let Some(batch) = batch else {
        return Ok(no_row());
    };
    let rows = fit::first_rows(batch);
    let tokens = NextTokens::read(model, &rows, stop_ids, lanes)?;
    Ok(Slot::Ran(fit::measure(&tokens, &rows, stop_ids)))
}

fn no_row<T>() -> Slot<T> {
    Slot::skipped("there is no row to train on")
}

/// The fit and the readings of the loss, or why they are absent.
fn apart(
    measured: Result<Option<(FitEvidence, Vec<ReadLoss>)>, Exception>,
) -> (Slot<FitEvidence>, Slot<Vec<ReadLoss>>) {
    match measured {
        Ok(Some((fit, readings))) => (Slot::Ran(fit), Slot::Ran(readings)),
        Ok(None) => (no_row(), no_row()),
        Err(error) => (Slot::crashed(&error), Slot::crashed(&error)),
    }
}

/// What the first step reported, beside what the batch gives.
fn checked_loss(
    steps: &StepRecorder,
    stopped_early: Option<&StoppedEarly>,
    readings: Slot<Vec<ReadLoss>>,
    dropout_acts: bool,
) -> Slot<LossCheck> {
    let reported = match steps.steps.first() {
        Some(step) => step.loss,
        None if stopped_early.is_some_and(|stopped| stopped.step == 1) => None,
        None => return Slot::skipped("no step was made"),
    };
    if dropout_acts {
        return Slot::skipped("dropout makes the loss another one at every pass");
    }
    match readings {
        Slot::Ran(readings) => Slot::Ran(LossCheck { reported, readings }),
        Slot::Skipped { reason } => Slot::Skipped { reason },
        Slot::Crashed { error } => Slot::Crashed { error },
    }
}
