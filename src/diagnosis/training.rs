use std::cell::RefCell;
use std::time::Instant;

use mlx_rs::error::Exception;

use super::costs::Costs;
use super::row_fit::RowFit;
use super::step_recorder::StepRecorder;
use super::validation_course::ValidationCourse;
use super::{DiagnosisOptions, Progress, Together};
use crate::data::{Batch, Batches, Dataset};
use crate::device::Backend;
use crate::distributed::RanksRecorder;
use crate::evidence::{
    FitComparison, GradientCheck, LossCheck, OptimizerEvidence, ProbeCost, RanksEvidence, ReadLoss, Slot, StoppedEarly,
    TrainingEvidence,
};
use crate::interrupt::Interrupt;
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::probes::gradient_check::GradientRecorder;
use crate::probes::optimizer_recorder::OptimizerRecorder;
use crate::probes::{loss_check, optimizer_replay};
use crate::train::{
    DataParallel, Lanes, LossFunction, Observe, Optimizer, Others, TrainError, TrainSettings, Trainer, TrainingOutcome,
    TrainingStep,
};
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
    /// The processes that train with this one, and how they make an update; `None` where it trains alone.
    pub together: Option<(&'run Together<'run>, &'run dyn DataParallel)>,
}

/// What a training run showed.
pub struct Trained {
    /// The steps.
    pub training: TrainingEvidence,
    /// What each process did; `None` where one trained alone.
    pub ranks: Option<RanksEvidence>,
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
        let ranks = self.begin_together(model)?;
        let lanes = self.backend.lanes();
        let first_batch = self.batches().next();
        let dropout_acts = loss_check::dropout_acts(model)?;
        let rows = RowFit {
            dataset: self.dataset,
            batch: first_batch.as_ref(),
            stop_ids: self.stop_ids,
            lanes: &lanes,
        };
        let (fit_before, readings) = costs.of("fit", || rows.before(model));
        let mut validation = ValidationCourse::new(self.validation, settings.steps);
        let validation_before = validation.loss(model, &lanes)?;
        mlx_rs::memory::reset_peak_memory()?;
        let mut steps = StepRecorder::new(model);
        let gradients = RefCell::new(GradientRecorder::new(settings.steps));
        let mut recorder = OptimizerRecorder::new(optimizer);
        let outcome = {
            let mut observe = |step: &TrainingStep, model: &CausalModel| {
                steps.record(step, gradients.borrow().kept_bytes());
                record_ranks(ranks.as_ref(), step, model, &mut costs)?;
                progress.advance(
                    step.step,
                    &format!("loss {:.4}, gradient norm {:.3}", step.loss, step.gradient_norm),
                );
                validation.after_update(step.step, model, &lanes)
            };
            let loss = |model: &CausalModel, batch: &Batch, lanes: &Lanes| {
                let pass = self.workflow.loss_and_gradients(model, batch, lanes)?;
                gradients.borrow_mut().record(model, batch, &pass);
                Ok(pass)
            };
            self.train(model, &mut recorder, &loss, &mut observe)?
        };
        let peak_memory = mlx_rs::memory::peak_memory()? as u64;
        let recording = recorder.finish();
        costs.add("optimizer-replay", recording.seconds);
        let gradient_check = costs.of("finite-difference", || {
            self.gradient_check(model, gradients.into_inner(), &outcome, &lanes)
        });
        let stopped_early = steps.stopped(outcome);
        let fit_after = costs.of("fit", || rows.after(model));
        let validation_after = validation.loss(model, &lanes)?;
        let (validation_between, seconds) = validation.finish();
        costs.add("validation", seconds);
        let optimizer_check = costs.of("optimizer-replay", || {
            optimizer_replay::check(&recording, self.options.optimizer())
        });
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
            after: fit_after,
            validation_before,
            validation_between,
            validation_after,
        };
        Ok(Trained {
            training: evidence,
            ranks: ranks.map(|ranks| ranks.evidence()),
            fit,
            costs: costs.into_list(),
        })
    }

    /// Makes the updates of the process that leads, and measures what all have to.
    pub fn accompany(
        &self,
        model: &mut CausalModel,
        optimizer: &mut dyn Optimizer,
    ) -> Result<Option<RanksEvidence>, TrainError> {
        let ranks = self.begin_together(model)?;
        let mut costs = Costs::default();
        let loss =
            |model: &CausalModel, batch: &Batch, lanes: &Lanes| self.workflow.loss_and_gradients(model, batch, lanes);
        let mut observe =
            |step: &TrainingStep, model: &CausalModel| record_ranks(ranks.as_ref(), step, model, &mut costs);
        self.train(model, optimizer, &loss, &mut observe)?;
        Ok(ranks.map(|ranks| ranks.evidence()))
    }

    fn begin_together(&self, model: &mut CausalModel) -> Result<Option<RanksRecorder<'_>>, Exception> {
        let Some((together, others)) = self.together else {
            return Ok(None);
        };
        together.begin(model, others).map(Some)
    }

    fn train(
        &self,
        model: &mut CausalModel,
        optimizer: &mut dyn Optimizer,
        loss: &LossFunction<'_>,
        observe: &mut Observe<'_>,
    ) -> Result<TrainingOutcome, TrainError> {
        let settings = self.options.training();
        Trainer {
            optimizer,
            loss,
            lanes: self.backend.lanes(),
            others: self.together.map(|(_, processes)| Others {
                processes,
                wants_share: true,
            }),
            settings: TrainSettings {
                schedule: self.workflow.schedule(settings.schedule),
                ..settings
            },
            interrupt: self.interrupt,
        }
        .train(model, &mut self.batches(), observe)
    }

    fn batches(&self) -> Batches<'_> {
        Batches::new(&self.dataset.examples, self.options.batch_size, self.options.seed)
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

/// Tells the other processes what this one did in a step, and hears it from them.
fn record_ranks(
    ranks: Option<&RanksRecorder<'_>>,
    step: &TrainingStep,
    model: &CausalModel,
    costs: &mut Costs,
) -> Result<(), Exception> {
    let Some(ranks) = ranks else {
        return Ok(());
    };
    let trained = ParameterSnapshot::capture_trainable(model);
    costs.of("ranks", || ranks.record(step, &trained)).map(drop)
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
    readings.map(|readings| LossCheck { reported, readings })
}
