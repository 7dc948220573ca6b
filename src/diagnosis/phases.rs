//! A run's way through the five phases.

use mlx_rs::Array;
use mlx_rs::module::ModuleParameters;

use super::costs::Costs;
use super::elsewhere::LeftAdapter;
use super::inputs::{reference_answers, unusable_rows};
use super::run::DiagnosisError;
use super::state::StatePhase;
use super::training::TrainingRun;
use super::{DiagnosisOptions, Progress, Together};
use crate::adapter::{StoredAdapter, target_modules};
use crate::data::{Dataset, Example};
use crate::device::{Backend, BackendKind, TrainedPart, TrainingMemory, TrainingSize, fitting_batch};
use crate::evidence::{
    Evidence, FineTuneKind, GenerationEvidence, MemoryEvidence, ParameterEvidence, Slot, TrainingEvidence,
};
use crate::interrupt::Interrupt;
use crate::model::{CausalModel, LoadedModel, Precision, StopSet, Tokenizer};
use crate::param_snapshot::ParameterSnapshot;
use crate::probes::generation::{Answerer, GenerationError, GenerationProbe, Prompt};
use crate::probes::parameters::ParameterProbe;
use crate::probes::state;
use crate::probes::update_size::module_updates;
use crate::rules::Phase;
use crate::rules::wording::bytes;
use crate::train::Optimizer;
use crate::workflow::Workflow;

/// Tokens of the row that logits are compared on.
const COMPARED_TOKENS: usize = 64;

/// A run on its way through the phases.
pub(super) struct Run<'run> {
    pub(super) options: &'run DiagnosisOptions,
    /// The finished adapter; `None` when there is none, or when it cannot be read.
    pub(super) stored: Option<&'run StoredAdapter>,
    pub(super) workflow: &'run dyn Workflow,
    pub(super) interrupt: &'run Interrupt,
    pub(super) progress: &'run mut dyn Progress,
    pub(super) backend: Backend,
    pub(super) precision: Precision,
    pub(super) loaded: &'run LoadedModel,
    pub(super) dataset: &'run Dataset,
    pub(super) validation: Option<&'run Dataset>,
    pub(super) tokenizer: &'run Tokenizer,
    pub(super) stop_set: &'run StopSet,
    pub(super) prompts: &'run [Prompt],
    /// The processes that train with this one; `None` where it trains alone.
    pub(super) together: Option<&'run Together<'run>>,
    /// What another trainer left, for as long as somebody may read it.
    pub(super) left: Option<LeftAdapter>,
}

/// The model on its way through the phases.
pub(super) struct Subject {
    pub(super) base: ParameterSnapshot,
    /// With adapters attached, before the first step; the base itself when the adapter was trained before.
    pub(super) untrained: CausalModel,
    pub(super) model: CausalModel,
    /// `None` when nothing was trained here.
    pub(super) optimizer: Option<Box<dyn Optimizer>>,
    /// The row that logits are compared on, `[1, tokens]`.
    pub(super) compared: Array,
    pub(super) base_logits: Array,
    pub(super) identity_difference: Option<f64>,
    pub(super) expected_adapters: Option<Vec<String>>,
}

impl Run<'_> {
    pub(super) fn phases(&mut self, evidence: &mut Evidence) {
        if self.backend.kind == BackendKind::Torch {
            return self.phases_by_torch(evidence);
        }
        if let Some(together) = self.together {
            if let Some(hindrance) = self.disagreement(together, evidence) {
                evidence.training = hindrance;
                self.interrupted(evidence, Phase::Baseline);
                return;
            }
            together.know(evidence);
            if !together.leads() {
                self.train(evidence);
                return;
            }
        }
        evidence.baseline = self.answer(Phase::Baseline, &self.loaded.model.clone());
        if self.interrupted(evidence, Phase::Baseline) {
            return;
        }
        let subject = match (&self.options.trainer, &self.options.adapter, self.stored) {
            (Some(trainer), ..) => self.train_elsewhere(trainer, evidence),
            (None, None, _) => {
                self.progress.phase(Phase::Training, Some(self.options.steps));
                self.train(evidence)
            }
            (None, Some(_), Some(stored)) => self.adopt(stored, evidence),
            (None, Some(_), None) => None,
        };
        if self.interrupted(evidence, Phase::Training) {
            return;
        }
        if let Some(subject) = &subject {
            self.examine(subject, evidence);
        }
        if evidence.interrupted.is_none() {
            self.swap(subject.as_ref(), evidence);
            self.interrupted(evidence, Phase::Generation);
        }
    }

    /// Trains with the reference trainer; `None` when that could not begin.
    pub(super) fn train(&mut self, evidence: &mut Evidence) -> Option<Subject> {
        if let Some(reason) = self.unusable_rows() {
            evidence.training = Slot::skipped(reason);
            return None;
        }
        let mut subject = match self.prepare() {
            Ok(subject) => subject,
            Err(error) => {
                evidence.training = Slot::crashed(error);
                return None;
            }
        };
        let memory = self.memory(&subject);
        let too_little = too_little(&memory);
        evidence.memory = Slot::Ran(memory);
        match too_little {
            Some(reason) => evidence.training = Slot::skipped(reason),
            None if self.make_steps(&mut subject, evidence) => {}
            // Nothing of the training can be looked at, and other processes end.
            None => return None,
        }
        Some(subject)
    }

    /// The phases after training.
    fn examine(&mut self, subject: &Subject, evidence: &mut Evidence) {
        // Compared even without training: what is attached and trainable may be why there was none.
        self.progress.phase(Phase::Parameters, None);
        let mut costs = Costs::default();
        evidence.parameters = Slot::of(self.compare_parameters(subject, &mut costs));
        evidence.costs.extend(costs.into_list());
        self.progress.finish("parameters compared");
        let is_trained = evidence.training.ran().is_some() || evidence.adapter_files.ran().is_some();
        if self.interrupted(evidence, Phase::Parameters) || !is_trained {
            return;
        }
        let generating = self.workflow.model_for_generation(&subject.model, &subject.untrained);
        evidence.generation = self.answer(Phase::Generation, &generating);
        if self.interrupted(evidence, Phase::Generation) {
            return;
        }
        self.progress.phase(Phase::State, None);
        let phase = StatePhase {
            options: self.options,
            workflow: self.workflow,
            loaded: self.loaded,
            tokenizer: self.tokenizer,
            prompts: self.prompts,
            baseline: evidence.baseline.ran(),
            subject,
            generating: &generating,
            lanes: &self.backend.lanes(),
        };
        let mut costs = Costs::default();
        evidence.state = Slot::of(phase.measure(&mut costs));
        evidence.costs.extend(costs.into_list());
        self.progress.finish("state examined");
        self.interrupted(evidence, Phase::State);
    }

    pub(super) fn interrupted(&self, evidence: &mut Evidence, phase: Phase) -> bool {
        let requested = self.interrupt.is_requested();
        if requested {
            evidence.interrupted = Some(format!("interrupted by the user in the {} phase", phase.name()));
        }
        requested
    }

    fn answer(&mut self, phase: Phase, mut model: &CausalModel) -> Slot<GenerationEvidence> {
        self.answer_by(phase, &mut model)
    }

    pub(super) fn answer_by(&mut self, phase: Phase, model: &mut dyn Answerer) -> Slot<GenerationEvidence> {
        self.progress.phase(phase, Some(self.prompts.len()));
        self.answers_of(phase, model)
    }

    /// The answers of `model`, without a phase of their own.
    pub(super) fn answers_of(&mut self, phase: Phase, model: &mut dyn Answerer) -> Slot<GenerationEvidence> {
        let reference_answers = reference_answers(self.dataset);
        let stop_ids = match phase {
            Phase::Baseline => self.stop_set.ids().into_iter().collect(),
            _ => self.workflow.stop_ids(self.stop_set),
        };
        let probe = GenerationProbe {
            tokenizer: self.tokenizer,
            stop_set: self.stop_set,
            stop_ids: &stop_ids,
            prompts: self.prompts,
            reference_answers: &reference_answers,
            max_tokens: self.options.max_tokens,
        };
        let total = self.prompts.len();
        let mut answered = |done: usize| self.progress.advance(done, &format!("prompt {done} of {total}"));
        match probe.measure(model, self.interrupt, &mut answered) {
            Ok(measured) => {
                self.progress
                    .finish(&format!("{:.1} tokens/s", measured.tokens_per_second));
                Slot::Ran(measured)
            }
            Err(GenerationError::Interrupted) => Slot::skipped("interrupted"),
            Err(error) => Slot::crashed(error),
        }
    }

    /// Why the rows cannot be trained on: MLX reads beyond the embedding table without a word.
    pub(super) fn unusable_rows(&self) -> Option<String> {
        unusable_rows(self.dataset, self.validation, self.loaded.configuration.vocab_size)
    }

    /// Attaches the adapters and measures what they must not change.
    fn prepare(&self) -> Result<Subject, DiagnosisError> {
        let base = ParameterSnapshot::capture(&self.loaded.model);
        let compared = self.compared_row();
        let base_logits = self.loaded.model.logits(&compared)?;
        let mut model = self.loaded.model.clone();
        let expected_adapters = match self.options.fine_tune {
            FineTuneKind::Full => {
                model.unfreeze_parameters(true);
                None
            }
            FineTuneKind::Lora => {
                let expected = target_modules(&model, &self.options.lora)?;
                self.workflow
                    .attach_adapters(&mut model, &self.options.lora, self.options.seed)?;
                Some(expected)
            }
        };
        let identity_difference = state::largest_difference(&model.logits(&compared)?, &base_logits)?;
        Ok(Subject {
            base,
            untrained: model.clone(),
            model,
            optimizer: Some(self.workflow.optimizer(self.options.optimizer())),
            compared,
            base_logits,
            identity_difference,
            expected_adapters,
        })
    }

    pub(super) fn compared_row(&self) -> Array {
        let tokens = self
            .dataset
            .examples
            .first()
            .map_or([].as_slice(), |example| &example.tokens);
        let ids: Vec<i32> = tokens.iter().take(COMPARED_TOKENS).map(|&token| token as i32).collect();
        Array::from_slice(&ids, &[1, ids.len() as i32])
    }

    fn memory(&self, subject: &Subject) -> MemoryEvidence {
        let examples = &self.dataset.examples;
        let longest = |count: fn(&Example) -> usize| examples.iter().map(count).max().unwrap_or(0);
        let size = TrainingSize {
            part: TrainedPart::of(&subject.model),
            optimizer_state: TrainingSize::ADAMW,
            batch_size: self.options.batch_size.min(examples.len()),
            tokens: longest(|example| example.tokens.len()),
            supervised: longest(|example| example.supervised.iter().filter(|&&counts| counts).count()),
        };
        let configuration = &self.loaded.configuration;
        let available = self.workflow.available_memory();
        MemoryEvidence {
            predicted: TrainingMemory::predict(configuration, 0, size).beyond_the_model(),
            available,
            fitting: available.map(|available| fitting_batch(configuration, size, available)),
        }
    }

    /// Trains; `false` where other processes keep it from doing so.
    fn make_steps(&mut self, subject: &mut Subject, evidence: &mut Evidence) -> bool {
        if ParameterSnapshot::capture_trainable(&subject.model)
            .parameters()
            .is_empty()
        {
            evidence.training = Slot::skipped("no parameter is trainable");
            return true;
        }
        if let Some(together) = self.together {
            if let Some(hindrance) = self.hindrance(together, together.can_train()) {
                evidence.training = hindrance;
                return false;
            }
            together.know(evidence);
        }
        let Some(optimizer) = &mut subject.optimizer else {
            return true;
        };
        let changed = self.together.and_then(|together| together.of(self.workflow));
        let others = self
            .together
            .map(|together| (together, changed.as_deref().unwrap_or(together.plain())));
        let run = TrainingRun {
            dataset: self.dataset,
            validation: self.validation,
            stop_ids: &self.stop_set.ids(),
            workflow: self.workflow,
            backend: self.backend,
            options: self.options,
            interrupt: self.interrupt,
            together: others,
        };
        if self.together.is_some_and(|together| !together.leads()) {
            match run.accompany(&mut subject.model, &mut **optimizer) {
                Ok(Some(ranks)) => evidence.ranks = Slot::Ran(ranks),
                Ok(None) => {}
                Err(error) => evidence.training = Slot::crashed(error),
            }
            return true;
        }
        match run.run(&mut subject.model, &mut **optimizer, self.progress) {
            Ok(trained) => {
                self.progress
                    .finish(&format!("{:.0} tokens/s", trained.training.tokens_per_second));
                evidence.costs.extend(trained.costs);
                evidence.fit = Slot::Ran(trained.fit);
                if let Some(ranks) = trained.ranks {
                    evidence.ranks = Slot::Ran(ranks);
                }
                evidence.training = Slot::Ran(trained.training);
                true
            }
            Err(error) => {
                evidence.fit = Slot::skipped("training failed");
                evidence.training = Slot::crashed(error);
                self.together.inspect(|together| together.fail()).is_none()
            }
        }
    }

    /// Why the processes do not train together; asked before anything that takes long.
    fn disagreement(&self, together: &Together<'_>, evidence: &Evidence) -> Option<Slot<TrainingEvidence>> {
        self.hindrance(together, together.can_begin()).or_else(|| {
            let base = ParameterSnapshot::capture(&self.loaded.model);
            let agreed = together.agree(&evidence.settings, &base, self.dataset);
            agreed.err().map(Slot::crashed)
        })
    }

    /// What it means that all processes can train, or that one cannot.
    fn hindrance(
        &self,
        together: &Together<'_>,
        all_can: Result<bool, mlx_rs::error::Exception>,
    ) -> Option<Slot<TrainingEvidence>> {
        const OTHER: &str = "another process cannot train; it has said why";
        match all_can {
            Ok(true) => None,
            Ok(false) if self.interrupt.is_requested() => Some(Slot::skipped("interrupted")),
            // The report is incomplete then; those that make none have nothing to say.
            Ok(false) if together.leads() => Some(Slot::crashed(OTHER)),
            Ok(false) => Some(Slot::skipped(OTHER)),
            Err(error) => Some(Slot::crashed(error)),
        }
    }

    /// Compares the parameters with those before training; what it costs beyond that is added to `costs`.
    pub(super) fn compare_parameters(
        &self,
        subject: &Subject,
        costs: &mut Costs,
    ) -> Result<ParameterEvidence, mlx_rs::error::Exception> {
        let updates = costs.of("module-updates", || {
            module_updates(&subject.model, &self.loaded.packings)
        })?;
        ParameterProbe {
            base: &subject.base,
            before: &ParameterSnapshot::capture(&subject.untrained),
            expected_adapters: subject.expected_adapters.as_deref(),
            identity_difference: subject.identity_difference,
            updates: &updates,
        }
        .measure(&subject.model)
    }
}

/// Why training is not begun; `None` when nothing is known against it.
fn too_little(memory: &MemoryEvidence) -> Option<String> {
    let available = memory.available.filter(|_| memory.is_short() == Some(true))?;
    Some(format!(
        "training is predicted to need {} and {} are available",
        bytes(memory.predicted),
        bytes(available)
    ))
}
