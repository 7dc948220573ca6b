use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use mlx_rs::Array;
use mlx_rs::module::update_parameters;
use thiserror::Error;

use super::hand_over::{HandOverError, hand_over};
use super::phases::{Run, Subject};
use super::step_recorder::StepRecorder;
use crate::adapter::{AdapterFileError, AttachError, load_adapter, save_adapter, target_modules};
use crate::data::{Batch, Batches};
use crate::device::dtype_name;
use crate::engine::{DecodeLimits, Decoded};
use crate::evidence::{
    Evidence, GenerationEvidence, OptimizerEvidence, ParameterEvidence, ReloadEvidence, Slot, StateEvidence,
    TrainingEvidence,
};
use crate::interrupt::Interrupt;
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::probes::generation::{Answerer, GenerationError};
use crate::probes::parameters::ParameterProbe;
use crate::probes::reload::{ReloadProbe, Reloaded};
use crate::probes::state;
use crate::python::Python;
use crate::readback::vector;
use crate::rules::Phase;
use crate::temporary_folder::TemporaryFolder;
use crate::torch::{AdamWSettings, GenerateRequest, Gradients, Rows, Worker, WorkerError};
use crate::train::{TrainingOutcome, TrainingStep};

/// Why something is not measured.
const ONLY_MLX: &str = "PyTorch computes, and this is measured with MLX alone";

/// Why a phase could not be done by PyTorch.
#[derive(Debug, Error)]
enum ByTorchError {
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    File(#[from] AdapterFileError),
    #[error("the tensors of PyTorch could not be compared: {0}")]
    Mlx(#[from] mlx_rs::error::Exception),
    #[error("a folder for the adapter could not be made: {0}")]
    Folder(#[from] std::io::Error),
    #[error("PyTorch has other tensors than it was given\n  found: {found}\n  expected: {expected}")]
    OtherTensors { found: String, expected: String },
}

impl Run<'_> {
    /// The five phases with a model in PyTorch's process; MLX only holds and compares what comes from there.
    pub(super) fn phases_by_torch(&mut self, evidence: &mut Evidence) {
        let mut worker = match self.start() {
            Ok(worker) => worker,
            Err(error) => {
                evidence.baseline = Slot::crashed(error);
                return;
            }
        };
        let greeting = worker.greeting();
        evidence.environment.device = format!("PyTorch {} on {}", greeting.torch, device(&worker));
        evidence.baseline = self.answer_by_torch(Phase::Baseline, &mut worker);
        if self.interrupted(evidence, Phase::Baseline) {
            return;
        }
        evidence.memory = Slot::skipped("what PyTorch needs is not predicted");
        evidence.fit = Slot::skipped(ONLY_MLX);
        if let Some(reason) = self.unusable_rows() {
            evidence.training = Slot::skipped(reason);
            return;
        }
        self.progress.phase(Phase::Training, Some(self.options.steps));
        let mut subject = match self.attach_there(&mut worker) {
            Ok(subject) => subject,
            Err(error) => {
                evidence.training = Slot::crashed(error);
                return;
            }
        };
        evidence.training = slot(self.train_there(&subject, &mut worker));
        if self.interrupted(evidence, Phase::Training) || evidence.training.ran().is_none() {
            return;
        }
        self.progress.phase(Phase::Parameters, None);
        evidence.parameters = slot(compare_there(&mut subject, &mut worker));
        self.progress.finish("parameters compared");
        if self.interrupted(evidence, Phase::Parameters) {
            return;
        }
        evidence.generation = self.answer_by_torch(Phase::Generation, &mut worker);
        if self.interrupted(evidence, Phase::Generation) {
            return;
        }
        self.progress.phase(Phase::State, None);
        evidence.state = slot(self.state_there(&subject, &mut worker));
        self.progress.finish("state examined");
        self.interrupted(evidence, Phase::State);
    }

    fn start(&self) -> Result<Worker, ByTorchError> {
        let mut worker = Worker::start(&Python::from_environment(), self.interrupt)?;
        let device = device(&worker);
        let dtype = dtype_name(self.precision.dtype);
        hand_over(self.loaded, &self.options.source, dtype, &device, &mut worker)?;
        Ok(worker)
    }

    fn answer_by_torch(&mut self, phase: Phase, worker: &mut Worker) -> Slot<GenerationEvidence> {
        self.answer_by(phase, &mut TorchAnswerer(worker))
    }

    /// Attaches the adapters here, and the same ones there.
    fn attach_there(&self, worker: &mut Worker) -> Result<Subject, ByTorchError> {
        let lora = &self.options.lora;
        let compared = self.compared_row();
        let row = vec![vector::<i32>(&compared)?.into_iter().map(|id| id as u32).collect()];
        let base_logits = worker.logits(&row)?;
        let mut model = self.loaded.model.clone();
        let expected = target_modules(&model, lora)?;
        self.workflow.attach_adapters(&mut model, lora, self.options.seed)?;
        let tensors = ParameterSnapshot::capture_trainable(&model).into_parameters();
        worker.attach(&tensors, lora.scale, lora.dropout)?;
        let identity_difference = state::largest_difference(&worker.logits(&row)?, &base_logits)?;
        Ok(Subject {
            base: ParameterSnapshot::capture(&self.loaded.model),
            untrained: model.clone(),
            model,
            optimizer: None,
            compared,
            base_logits,
            identity_difference,
            expected_adapters: Some(expected),
        })
    }

    fn train_there(&mut self, subject: &Subject, worker: &mut Worker) -> Result<TrainingEvidence, ByTorchError> {
        let started = Instant::now();
        let settings = self.options.optimizer();
        worker.create_optimizer(&AdamWSettings {
            beta1: f64::from(settings.beta1),
            beta2: f64::from(settings.beta2),
            epsilon: f64::from(settings.epsilon),
            weight_decay: f64::from(settings.weight_decay),
            bias_correction: settings.bias_correction,
        })?;
        let mut steps = StepRecorder::new(&subject.model);
        let (outcome, updates) = self.steps_there(&mut steps, worker)?;
        for step in &mut steps.steps {
            // What MLX holds here says nothing about PyTorch.
            step.active_memory = None;
        }
        let stopped_early = steps.stopped(outcome);
        self.progress
            .finish(&format!("{:.0} tokens/s", steps.tokens_per_second()));
        Ok(TrainingEvidence {
            trainer: "torch".to_owned(),
            stopped_early,
            loss_check: Slot::skipped(ONLY_MLX),
            gradient_check: Slot::skipped(ONLY_MLX),
            optimizer_check: Slot::skipped(ONLY_MLX),
            optimizer: OptimizerEvidence {
                name: "adamw".to_owned(),
                step_count: updates,
                learning_rate_sum: steps.steps.iter().map(|step| step.learning_rate).sum(),
            },
            gradients: steps.gradients(),
            trainable_values: ParameterSnapshot::capture_trainable(&subject.model).values(),
            tokens_per_second: steps.tokens_per_second(),
            peak_memory: worker.peak_memory()?,
            seconds: started.elapsed().as_secs_f64(),
            steps: steps.steps,
        })
    }

    /// The steps, and the number of updates that the optimizer says it made.
    fn steps_there(
        &mut self,
        steps: &mut StepRecorder,
        worker: &mut Worker,
    ) -> Result<(TrainingOutcome, u64), ByTorchError> {
        let settings = self.options.training();
        let mut batches = Batches::new(&self.dataset.examples, self.options.batch_size, self.options.seed);
        let mut updates = 0;
        for step in 1..=settings.steps {
            if self.interrupt.is_requested() {
                return Ok((TrainingOutcome::Interrupted, updates));
            }
            let Some(batch) = batches.next() else {
                return Ok((TrainingOutcome::OutOfData { step }, updates));
            };
            let started = Instant::now();
            // Without a target the mean is no number, as in MLX.
            let pass = worker.training_gradients(&Rows::of(&batch))?;
            let (Some(loss), Some(norm)) = (pass.loss, pass.norm) else {
                return Ok((not_finite(step, pass, &batch), updates));
            };
            let learning_rate = settings.schedule.learning_rate(step);
            updates = worker.step(learning_rate, settings.clip_norm)?;
            steps.record(
                &TrainingStep {
                    step,
                    learning_rate,
                    loss: loss as f32,
                    gradient_norm: norm as f32,
                    zero_gradients: BTreeSet::from_iter(pass.zero),
                    supervised_tokens: batch.supervised_tokens(),
                    tokens: batch.token_count(),
                    positions: batch.tokens.len(),
                    seconds: started.elapsed().as_secs_f64(),
                    share: None,
                },
                0,
            );
            self.progress
                .advance(step, &format!("loss {loss:.4}, gradient norm {norm:.3}"));
        }
        Ok((TrainingOutcome::Completed, updates))
    }

    fn state_there(&self, subject: &Subject, worker: &mut Worker) -> Result<StateEvidence, ByTorchError> {
        let started = Instant::now();
        let ids = vector::<i32>(&subject.compared)?;
        let row = vec![ids.into_iter().map(|id| id as u32).collect()];
        let live_logits = worker.logits(&row)?;
        let repeated = worker.logits(&row)?;
        Ok(StateEvidence {
            generation: Slot::skipped("in PyTorch's process there is one model, which is trained and answers"),
            evaluations: Slot::skipped("PyTorch does nothing later than it is asked to"),
            repeat_difference: Slot::Ran(state::largest_difference(&live_logits, &repeated)?),
            reload: slot(self.reload_there(subject, &live_logits, &row, worker)),
            fuse: Slot::skipped(ONLY_MLX),
            divergence: Slot::skipped(ONLY_MLX),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Saves the adapter, and puts what was saved on the model there.
    fn reload_there(
        &self,
        subject: &Subject,
        live_logits: &Array,
        row: &[Vec<u32>],
        worker: &mut Worker,
    ) -> Result<ReloadEvidence, ByTorchError> {
        let temporary = TemporaryFolder::new()?;
        let folder: &Path = self.options.adapter_folder.as_deref().unwrap_or(temporary.path());
        let live = &subject.model;
        let saved = save_adapter(live, &self.options.lora, &self.options.model_name, folder)?;
        let mut model = self.loaded.model.clone();
        let loading = load_adapter(&mut model, folder).map(Some);
        let logits = match &loading {
            Ok(settings) => {
                let tensors = ParameterSnapshot::capture_trainable(&model).into_parameters();
                let scale = settings
                    .as_ref()
                    .map_or(self.options.lora.scale, |settings| settings.scale);
                worker.attach(&tensors, scale, 0.0)?;
                Some(worker.logits(row)?)
            }
            Err(_) => None,
        };
        Ok(ReloadProbe {
            live,
            base: &subject.base,
            base_logits: &subject.base_logits,
            live_logits,
        }
        .measure(&Reloaded {
            saved: Some(saved),
            folder,
            model: &model,
            loading,
            logits: logits.as_ref(),
        })?)
    }
}

/// Fetches every tensor from there and compares it with what was handed over.
fn compare_there(subject: &mut Subject, worker: &mut Worker) -> Result<ParameterEvidence, ByTorchError> {
    let mut tensors = worker.adapters()?;
    tensors.extend(worker.base()?);
    take_up(&mut subject.model, tensors)?;
    Ok(ParameterProbe {
        base: &subject.base,
        before: &ParameterSnapshot::capture(&subject.untrained),
        expected_adapters: subject.expected_adapters.as_deref(),
        identity_difference: subject.identity_difference,
        updates: &[],
    }
    .measure(&subject.model)?)
}

fn slot<T>(result: Result<T, ByTorchError>) -> Slot<T> {
    match result {
        Ok(measured) => Slot::Ran(measured),
        Err(ByTorchError::Worker(WorkerError::Interrupted)) => Slot::skipped("interrupted"),
        Err(error) => Slot::crashed(error),
    }
}

fn device(worker: &Worker) -> String {
    worker.greeting().devices.first().cloned().unwrap_or_default()
}

fn not_finite(step: usize, pass: Gradients, batch: &Batch) -> TrainingOutcome {
    TrainingOutcome::NotFinite {
        step,
        loss: pass.loss.is_none(),
        gradients: pass.not_finite,
        rows: batch.rows.iter().map(|row| row + 1).collect(),
    }
}

/// Puts `tensors` in the place of all parameters of `model`.
fn take_up(model: &mut CausalModel, tensors: BTreeMap<String, Array>) -> Result<(), ByTorchError> {
    let own = ParameterSnapshot::capture(model);
    let other: Vec<&String> = own
        .parameters()
        .keys()
        .filter(|name| !tensors.contains_key(*name))
        .chain(tensors.keys().filter(|name| !own.parameters().contains_key(*name)))
        .collect();
    if let Some(first) = other.first() {
        return Err(ByTorchError::OtherTensors {
            found: format!("{} tensors, `{first}` on one side only", tensors.len()),
            expected: format!("{} tensors", own.parameters().len()),
        });
    }
    update_parameters(
        model,
        tensors.into_iter().map(|(name, tensor)| (Rc::from(name), tensor)),
    );
    Ok(())
}

/// The model in PyTorch's process.
struct TorchAnswerer<'run>(&'run mut Worker);

impl Answerer for TorchAnswerer<'_> {
    fn decode(
        &mut self,
        prompt: &[u32],
        stop_ids: &BTreeSet<u32>,
        limits: DecodeLimits,
        _interrupt: &Interrupt,
    ) -> Result<Decoded, GenerationError> {
        let decoded = self.0.generate(&GenerateRequest {
            tokens: prompt,
            stop_ids: stop_ids.iter().copied().collect(),
            answer: limits.answer,
            at_least: limits.at_least,
        });
        match decoded {
            Ok(decoded) => Ok(Decoded {
                tokens: decoded.tokens,
                not_finite: decoded.not_finite,
                interrupted: false,
            }),
            Err(WorkerError::Interrupted) => Err(GenerationError::Interrupted),
            Err(error) => Err(error.into()),
        }
    }

    fn loss(&mut self, batch: &Batch) -> Result<Option<f64>, GenerationError> {
        Ok(self.0.loss(&Rows::of(batch))?)
    }
}
