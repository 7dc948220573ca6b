use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::module::update_parameters;
use mlx_rs::ops::{multiply, square};
use mlx_rs::transforms::eval;
use thiserror::Error;

use super::{Lanes, LossAndGradients, Optimizer, Others, Schedule, Share, Sketch};
use crate::data::Batch;
use crate::interrupt::Interrupt;
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::readback::scalar;

/// Added to the norm that gradients are clipped by, so that a norm of zero divides nothing by zero.
const CLIP_EPSILON: f32 = 1e-6;

/// What a training run is given beside model, data and optimizer.
#[derive(Debug, Clone, Copy)]
pub struct TrainSettings {
    /// Optimizer steps.
    pub steps: usize,
    /// Learning rate of each step.
    pub schedule: Schedule,
    /// Gradient norm above which gradients are scaled down.
    pub clip_norm: Option<f32>,
}

/// What one step did.
#[derive(Debug, Clone)]
pub struct TrainingStep {
    /// Counted from 1.
    pub step: usize,
    /// Learning rate used.
    pub learning_rate: f64,
    /// Mean loss per supervised token before the update, in nats.
    pub loss: f32,
    /// Euclidean norm over all gradients, before clipping.
    pub gradient_norm: f32,
    /// Names of the parameters whose gradient is exactly zero.
    pub zero_gradients: BTreeSet<String>,
    /// Supervised tokens in the batch.
    pub supervised_tokens: usize,
    /// Tokens in the batch, padding not counted.
    pub tokens: usize,
    /// Positions of the batch, padding counted.
    pub positions: usize,
    /// Seconds taken.
    pub seconds: f64,
    /// This process's part, where several make the update together and it is wanted.
    pub share: Option<Share>,
}

/// How a training run ended.
#[derive(Debug, Clone)]
pub enum TrainingOutcome {
    /// All steps were made.
    Completed,
    /// A step met a number that is not finite; its update was not applied.
    NotFinite {
        /// The step, counted from 1.
        step: usize,
        /// Whether the loss itself was not finite, or only gradients.
        loss: bool,
        /// Parameters whose gradient is not finite.
        gradients: Vec<String>,
        /// Positions in the data of the rows in the batch, counted from 1.
        rows: Vec<usize>,
    },
    /// There was no batch left for a step.
    OutOfData {
        /// The step, counted from 1.
        step: usize,
    },
    /// The user interrupted the run.
    Interrupted,
}

/// Why training could not go on.
#[derive(Debug, Error)]
pub enum TrainError {
    /// MLX failed.
    #[error("training failed: {}", .0.what())]
    Mlx(#[from] Exception),
}

/// Computes the loss of a batch and its gradient for every trainable parameter.
pub type LossFunction<'run> = dyn Fn(&CausalModel, &Batch, &Lanes) -> Result<LossAndGradients, Exception> + 'run;

/// Takes notice of a step and of the model after it, which is in training mode.
pub type Observe<'run> = dyn FnMut(&TrainingStep, &CausalModel) -> Result<(), Exception> + 'run;

/// A training run: what its steps share.
pub struct Trainer<'run> {
    /// Turns gradients into parameters.
    pub optimizer: &'run mut dyn Optimizer,
    /// Computes the loss of a batch and its gradients; [`loss_and_gradients`](super::loss_and_gradients) unless the
    /// caller has another loss.
    pub loss: &'run LossFunction<'run>,
    /// Where the parts of a batch are computed.
    pub lanes: Lanes,
    /// The other processes that make the same updates; `None` where this one makes them alone.
    pub others: Option<Others<'run>>,
    /// Steps, learning rates and clipping.
    pub settings: TrainSettings,
    /// The user's wish to stop, looked at before each step.
    pub interrupt: &'run Interrupt,
}

/// How one update ended.
#[derive(Debug, Clone)]
pub enum UpdateOutcome {
    /// The parameters have their next values.
    Updated(TrainingStep),
    /// A number was not finite; nothing was changed.
    NotFinite {
        /// Whether the loss itself was not finite, or only gradients.
        loss: bool,
        /// Parameters whose gradient is not finite.
        gradients: Vec<String>,
    },
}

impl Trainer<'_> {
    /// Trains `model` in place and shows `observe` each step with the model it led to; what that takes is not the step's.
    ///
    /// The loop stops at the first number that is not finite, before it can reach the parameters.
    pub fn train(
        &mut self,
        model: &mut CausalModel,
        batches: &mut dyn Iterator<Item = Batch>,
        observe: &mut Observe<'_>,
    ) -> Result<TrainingOutcome, TrainError> {
        model.set_training(true);
        let outcome = self.steps(model, batches, observe);
        model.set_training(false);
        outcome
    }

    fn steps(
        &mut self,
        model: &mut CausalModel,
        batches: &mut dyn Iterator<Item = Batch>,
        observe: &mut Observe<'_>,
    ) -> Result<TrainingOutcome, TrainError> {
        for step in 1..=self.settings.steps {
            if self.is_interrupted()? {
                return Ok(TrainingOutcome::Interrupted);
            }
            let Some(batch) = batches.next() else {
                return Ok(TrainingOutcome::OutOfData { step });
            };
            match self.update(model, std::slice::from_ref(&batch), step)? {
                UpdateOutcome::Updated(done) => observe(&done, model)?,
                UpdateOutcome::NotFinite { loss, gradients } => {
                    return Ok(TrainingOutcome::NotFinite {
                        step,
                        loss,
                        gradients,
                        rows: batch.rows.iter().map(|row| row + 1).collect(),
                    });
                }
            }
        }
        Ok(TrainingOutcome::Completed)
    }

    /// Makes update number `step`, counted from 1, of the gradient over all of `batches`, every supervised token weighing
    /// the same.
    ///
    /// Numbers that are not finite never reach the parameters.
    pub fn update(
        &mut self,
        model: &mut CausalModel,
        batches: &[Batch],
        step: usize,
    ) -> Result<UpdateOutcome, TrainError> {
        let started = Instant::now();
        let (pass, share) = self.pass(model, batches, step)?;
        let norms = gradient_norms(&pass.gradients)?;
        eval(norms.values().chain([&pass.loss]).chain(pass.gradients.values()))?;
        let norms: BTreeMap<&String, f32> = norms
            .iter()
            .map(|(name, norm)| Ok((*name, scalar(norm)?)))
            .collect::<Result<_, Exception>>()?;
        let loss: f32 = scalar(&pass.loss)?;
        let gradient_norm = norms.values().map(|norm| norm * norm).sum::<f32>().sqrt();
        let named = |condition: fn(f32) -> bool| norms.iter().filter(move |(_, norm)| condition(**norm));
        if !loss.is_finite() || !gradient_norm.is_finite() {
            return Ok(UpdateOutcome::NotFinite {
                loss: !loss.is_finite(),
                gradients: named(|norm| !norm.is_finite())
                    .map(|(name, _)| (*name).clone())
                    .collect(),
            });
        }
        let zero_gradients = named(|norm| norm == 0.0).map(|(name, _)| (*name).clone()).collect();
        let gradients = clip(pass.gradients.clone(), gradient_norm, self.settings.clip_norm)?;
        let learning_rate = self.settings.schedule.learning_rate(step);
        let mut parameters = ParameterSnapshot::capture_trainable(model).into_parameters();
        self.optimizer.update(&mut parameters, &gradients, learning_rate)?;
        eval(parameters.values().chain(self.optimizer.state()))?;
        update_parameters(
            model,
            parameters
                .into_iter()
                .map(|(name, value)| (std::rc::Rc::from(name), value)),
        );
        Ok(UpdateOutcome::Updated(TrainingStep {
            step,
            learning_rate,
            loss,
            gradient_norm,
            zero_gradients,
            supervised_tokens: batches.iter().map(Batch::supervised_tokens).sum(),
            tokens: batches.iter().map(Batch::token_count).sum(),
            positions: batches.iter().map(|batch| batch.tokens.len()).sum(),
            seconds: started.elapsed().as_secs_f64(),
            share,
        }))
    }
}

impl Trainer<'_> {
    /// Whether the user of any process wants to stop: none may make an update that another does not.
    fn is_interrupted(&self) -> Result<bool, Exception> {
        let own = self.interrupt.is_requested();
        self.others.map_or(Ok(own), |others| others.processes.any(own))
    }

    /// The loss and gradients of `batches`, to which other processes contribute theirs in update number `step`.
    fn pass(
        &self,
        model: &CausalModel,
        batches: &[Batch],
        step: usize,
    ) -> Result<(LossAndGradients, Option<Share>), Exception> {
        let Some(Others { processes, wants_share }) = self.others else {
            return Ok((self.accumulated(model, batches)?, None));
        };
        let started = Instant::now();
        let own: Vec<Batch> = batches.iter().map(|batch| processes.own_rows(batch)).collect();
        let tokens = own.iter().map(Batch::supervised_tokens).sum();
        let pass = (tokens > 0).then(|| self.accumulated(model, &own)).transpose()?;
        let seconds = started.elapsed().as_secs_f64();
        // Other signs in every update: what they do not tell apart in one they do in the next.
        let sketch = |pass: &LossAndGradients| Sketch::of(&pass.gradients, step as u64);
        let of_own = pass.as_ref().filter(|_| wants_share).map(sketch).transpose()?;
        let parameters = ParameterSnapshot::capture_trainable(model).into_parameters();
        let averaged = processes.average(pass, tokens, &parameters)?;
        if !wants_share {
            return Ok((averaged, None));
        }
        let mut rows: Vec<usize> = own.iter().flat_map(Batch::examples).collect();
        rows.sort_unstable();
        let share = Share {
            rows,
            rows_of_all: batches.iter().map(|batch| batch.examples().len()).sum(),
            supervised_tokens: tokens,
            positions: own.iter().map(|batch| batch.tokens.len()).sum(),
            own: of_own,
            applied: sketch(&averaged)?,
            seconds,
        };
        Ok((averaged, Some(share)))
    }

    /// The loss and gradients of one batch, or the means over several, weighted by supervised tokens.
    ///
    /// The mean of the batches' means would count a token of a short answer more than one of a long answer.
    fn accumulated(&self, model: &CausalModel, batches: &[Batch]) -> Result<LossAndGradients, Exception> {
        if let [batch] = batches {
            let _shared_cores = self.lanes.share_cores(batch);
            let pass = (self.loss)(model, batch, &self.lanes)?;
            eval(pass.gradients.values().chain([&pass.loss]))?;
            return Ok(pass);
        }
        let total: usize = batches.iter().map(Batch::supervised_tokens).sum();
        let mut sum: Option<LossAndGradients> = None;
        // A batch without targets has no mean and nothing to add.
        for batch in batches.iter().filter(|batch| batch.supervised_tokens() > 0) {
            let _shared_cores = self.lanes.share_cores(batch);
            let pass = (self.loss)(model, batch, &self.lanes)?;
            let share = batch.supervised_tokens() as f32 / total as f32;
            let next = pass.add_to(sum, share)?;
            // Without this the graphs of all batches would be in memory at the same time.
            eval(next.gradients.values().chain([&next.loss]))?;
            sum = Some(next);
        }
        sum.ok_or_else(|| Exception::custom("no batch has a token to learn"))
    }
}

fn gradient_norms(gradients: &BTreeMap<String, Array>) -> Result<BTreeMap<&String, Array>, Exception> {
    gradients
        .iter()
        .map(|(name, gradient)| {
            let gradient = gradient.as_dtype(mlx_rs::Dtype::Float32)?;
            Ok((name, square(gradient)?.sum(None)?.sqrt()?))
        })
        .collect()
}

fn clip(
    gradients: BTreeMap<String, Array>,
    norm: f32,
    limit: Option<f32>,
) -> Result<BTreeMap<String, Array>, Exception> {
    let Some(limit) = limit.filter(|limit| norm > *limit) else {
        return Ok(gradients);
    };
    let factor = limit / (norm + CLIP_EPSILON);
    gradients
        .into_iter()
        .map(|(name, gradient)| {
            let factor = Array::from_f32(factor).as_dtype(gradient.dtype())?;
            Ok((name, multiply(gradient, factor)?))
        })
        .collect()
}
