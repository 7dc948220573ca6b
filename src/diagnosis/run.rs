use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use mlx_rs::Array;
use mlx_rs::module::ModuleParameters;
use thiserror::Error;

use super::costs::Costs;
use super::cross_check::CrossCheck;
use super::elsewhere::LeftAdapter;
use super::finished::{GivenAdapter, plain};
use super::foreign::ForeignRun;
use super::inputs::{Inputs, ModelSizes, reference_answers, unusable_rows};
use super::prompts::PromptError;
use super::refusal::refusal;
use super::state::StatePhase;
use super::training::TrainingRun;
use super::{DiagnosisOptions, Progress};
use crate::adapter::{AttachError, StoredAdapter, check_rank, target_modules};
use crate::data::{DataError, Dataset, Example, ExampleError};
use crate::device::{
    Backend, BackendError, BackendKind, Selection, TrainedPart, TrainingMemory, TrainingSize, fitting_batch,
};
use crate::evidence::{
    EVIDENCE_SCHEMA_VERSION, Evidence, FineTuneKind, GenerationEvidence, MemoryEvidence, ModelEvidence,
    ParameterEvidence, ProbeCost, Quantization, RunEnvironment, RunSettings, Slot, StopRow,
};
use crate::interrupt::Interrupt;
use crate::model::{
    CausalModel, ConfigurationError, LoadError, LoadedModel, ModelFiles, Packing, Precision, StopSet, Tokenizer,
    TokenizerError,
};
use crate::param_snapshot::ParameterSnapshot;
use crate::probes::data::split_turn_ends;
use crate::probes::generation::{Answerer, GenerationError, GenerationProbe, Prompt};
use crate::probes::parameters::{ParameterProbe, non_finite};
use crate::probes::update_size::module_updates;
use crate::probes::{state, stop_rows};
use crate::rules::Phase;
use crate::rules::wording::bytes;
use crate::train::Optimizer;
use crate::training_log::{self, LogError};
use crate::workflow::Workflow;

/// Tokens of the row that logits are compared on.
const COMPARED_TOKENS: usize = 64;

/// Why a diagnosis could not begin.
#[derive(Debug, Error)]
pub(super) enum DiagnosisError {
    /// The model could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The tokenizer could not be loaded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The data could not be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A row of the data could not be made into tokens.
    #[error(transparent)]
    Example(#[from] ExampleError),
    /// A prompt cannot be asked.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The log that was given could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The adapters asked for do not fit the model.
    #[error(transparent)]
    Adapter(#[from] AttachError),
    /// All weights were to be trained and some are packed.
    #[error(
        "packed weights cannot be trained\n  found: a model that is kept packed\n  expected: plain weights for `--full`\n  hint: leave out `--keep-packed` on a CPU, train adapters, or dequantise the model first"
    )]
    PackedWeights,
    /// A token id of a prompt is beyond the embedding table, which MLX would not notice.
    #[error(
        "the tokenizer and the model do not fit\n  found: token id {found}\n  expected: an id below {vocabulary}, the rows of the embedding table\n  hint: use the tokenizer that belongs to the model"
    )]
    TokenOutOfRange {
        /// The largest id.
        found: u32,
        /// Rows of the embedding table.
        vocabulary: usize,
    },
    /// PyTorch does not do what was asked for.
    #[error(
        "PyTorch does not do {found} here\n  found: the backend `torch`, or no other that works\n  expected: adapters that are trained in this run, on unpacked weights\n  hint: leave it out, or leave the choice of the backend to the program"
    )]
    NotByTorch {
        /// What was asked for.
        found: &'static str,
    },
    /// The backend that was asked for does not work.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// MLX failed before the first phase.
    #[error("the model could not be examined: {0}")]
    Mlx(#[from] mlx_rs::error::Exception),
}

/// Runs the five phases, or with `check_only` none of them.
///
/// Every failure is evidence: inputs that cannot be used are its [refusal](Evidence::refusal), a phase that fails is its
/// slot's error, and what was measured before is kept.
pub fn diagnose(
    options: &DiagnosisOptions,
    workflow: &dyn Workflow,
    interrupt: &Interrupt,
    progress: &mut dyn Progress,
) -> Evidence {
    progress.phase(Phase::Baseline, None);
    let selection = match Selection::of(options.backend) {
        Ok(selection) => selection,
        Err(error) => return unusable_backend(options, error),
    };
    let environment = selection.environment(
        selection.backend.precision_of(None, options.precision),
        options.precision,
        false,
    );
    let mut evidence = nothing_measured(options.settings(), environment, "the inputs cannot be used");
    if let Err(error) = check_and_run(options, workflow, interrupt, progress, &selection, &mut evidence) {
        evidence.refusal = Some(refusal(&error));
    }
    evidence
}

/// Whether what is to be trained, or was, fits the model.
fn check_adaptation(
    options: &DiagnosisOptions,
    given: Option<&GivenAdapter>,
    loaded: &LoadedModel,
    evidence: &mut Evidence,
) -> Result<(), DiagnosisError> {
    if let Some(given) = given {
        given.check(&loaded.model, evidence);
    } else if options.fine_tune == FineTuneKind::Lora {
        let targets = target_modules(&loaded.model, &options.lora)?;
        check_rank(&loaded.model, &options.lora, &targets)?;
    } else if loaded.model.is_packed() {
        return Err(DiagnosisError::PackedWeights);
    }
    Ok(())
}

/// Whether PyTorch does what was asked for, where it is the backend.
fn check_torch(options: &DiagnosisOptions, backend: Backend) -> Result<(), DiagnosisError> {
    let asked = [
        (options.fine_tune == FineTuneKind::Full, "`--full`"),
        (options.adapter.is_some(), "`--adapter` or `--trained`"),
        (options.trainer.is_some(), "`--trainer`"),
        (options.generator.is_some(), "`--generator`"),
        (options.precision.keep_packed, "`--keep-packed`"),
    ];
    match asked.into_iter().find(|(is_asked, _)| *is_asked) {
        Some((_, found)) if backend.kind == BackendKind::Torch => Err(DiagnosisError::NotByTorch { found }),
        _ => Ok(()),
    }
}

/// The evidence of a run whose backend was asked for and does not work; MLX's own choice describes the machine.
fn unusable_backend(options: &DiagnosisOptions, error: BackendError) -> Evidence {
    let selection = Selection {
        backend: Backend::select(),
        reasons: Vec::new(),
    };
    let environment = selection.environment(
        selection.backend.precision_of(None, options.precision),
        options.precision,
        false,
    );
    let mut evidence = nothing_measured(options.settings(), environment, "the inputs cannot be used");
    evidence.refusal = Some(refusal(&error.into()));
    evidence
}

/// Files first, then the tokenizer, then the data, and each before anything that takes long.
fn check_and_run(
    options: &DiagnosisOptions,
    workflow: &dyn Workflow,
    interrupt: &Interrupt,
    progress: &mut dyn Progress,
    selection: &Selection,
    evidence: &mut Evidence,
) -> Result<(), DiagnosisError> {
    let backend = selection.backend;
    check_torch(options, backend)?;
    let mut given = options
        .adapter
        .as_ref()
        .map(|finished| GivenAdapter::read(finished, backend, options.precision));
    let adopted = given.as_ref().map(|given| given.adopted_by(options));
    let options = adopted.as_ref().unwrap_or(options);
    evidence.settings = options.settings();
    if let Some(path) = options.adapter.as_ref().and_then(|finished| finished.log.as_ref()) {
        evidence.log = Slot::Ran(training_log::read(path)?);
    }
    if let Some(packing) = given.as_ref().and_then(GivenAdapter::foreign_packing) {
        return Err(LoadError::from(packing).into());
    }
    let files = options.source.open()?;
    let configuration = match (files.configuration(), &given, &files) {
        (Err(ConfigurationError::UnsupportedArchitecture { .. }), Some(given), ModelFiles::Folder(folder)) => {
            return ForeignRun {
                options,
                given,
                files: &files,
                folder,
                workflow,
                interrupt,
                progress,
            }
            .check_and_run(evidence);
        }
        (configuration, ..) => configuration.map_err(LoadError::from)?,
    };
    let mut precision = backend.precision(&configuration, options.precision);
    if options.is_whole_model() {
        precision = plain(precision);
    }
    evidence.environment = selection.environment(precision, options.precision, configuration.quantization.is_some());
    files.check_weights().map_err(LoadError::from)?;
    let sizes = ModelSizes {
        vocabulary: configuration.vocab_size,
        context: Some(configuration.max_position_embeddings),
    };
    let tokenizer = match given.as_mut().and_then(GivenAdapter::tokenizer) {
        Some(tokenizer) => tokenizer?,
        None => options.template.apply(files.tokenizer()?)?,
    };
    let inputs = Inputs::read(options, tokenizer, sizes, workflow)?;
    inputs.audit(options, sizes, evidence);
    let Inputs {
        tokenizer,
        stop_set,
        dataset,
        validation,
        prompts,
    } = inputs;
    let loaded = files.load(configuration, precision)?;
    evidence.environment = selection.environment(precision, options.precision, !loaded.packings.is_empty());
    evidence.environment.reasons.extend(loaded.notes());
    let started = Instant::now();
    let stop_rows = stop_rows::measure(&loaded.model, &stop_set, &tokenizer)?;
    evidence.costs.push(ProbeCost {
        probe: "stop-rows".to_owned(),
        seconds: started.elapsed().as_secs_f64(),
    });
    evidence.model = Slot::Ran(examine(&loaded, &stop_set, stop_rows, &tokenizer)?);
    check_adaptation(options, given.as_ref(), &loaded, evidence)?;
    if let Some(python) = &options.cross_check {
        let check = CrossCheck {
            options,
            backend,
            precision,
            loaded: &loaded,
            dataset: &dataset,
            interrupt,
        };
        evidence.cross_check = check.measure(python);
    }
    if options.check_only {
        skip_phases(evidence, "`--check-only`");
        progress.finish("files, tokenizer, data and settings checked");
        return Ok(());
    }
    skip_phases(evidence, "the run ended before this phase");
    Run {
        options,
        stored: given.as_ref().and_then(GivenAdapter::stored),
        workflow,
        interrupt,
        progress,
        backend,
        precision,
        loaded: &loaded,
        dataset: &dataset,
        validation: validation.as_ref(),
        tokenizer: &tokenizer,
        stop_set: &stop_set,
        prompts: &prompts,
        left: None,
    }
    .phases(evidence);
    Ok(())
}

/// The evidence of a run whose inputs were not looked at yet.
pub(super) fn nothing_measured(settings: RunSettings, environment: RunEnvironment, reason: &str) -> Evidence {
    let is_finished = settings.is_finished();
    let has_cross_check = settings.cross_check.is_some();
    Evidence {
        schema_version: EVIDENCE_SCHEMA_VERSION,
        environment,
        settings,
        refusal: None,
        model: Slot::skipped(reason),
        data: Slot::skipped(reason),
        external: Slot::skipped("no other trainer was asked for"),
        resumed: Slot::skipped("no finished adapter was given"),
        log: Slot::skipped("no log of a training was given"),
        cross_check: Slot::skipped(if has_cross_check {
            reason
        } else {
            "no other backend was asked to compute the same"
        }),
        adapter_files: Slot::skipped(if is_finished {
            reason
        } else {
            "no finished adapter was given"
        }),
        baseline: Slot::skipped(reason),
        memory: Slot::skipped(reason),
        training: Slot::skipped(reason),
        fit: Slot::skipped(reason),
        parameters: Slot::skipped(reason),
        generation: Slot::skipped(reason),
        state: Slot::skipped(reason),
        swap: Slot::skipped("no other trainer and no other generator was asked for"),
        costs: Vec::new(),
        interrupted: None,
    }
}

/// Says of everything that only the phases measure why it was not measured.
pub(super) fn skip_phases(evidence: &mut Evidence, reason: &str) {
    evidence.baseline = Slot::skipped(reason);
    evidence.memory = Slot::skipped(reason);
    evidence.training = Slot::skipped(reason);
    evidence.fit = Slot::skipped(reason);
    evidence.parameters = Slot::skipped(reason);
    evidence.generation = Slot::skipped(reason);
    evidence.state = Slot::skipped(reason);
}

fn examine(
    loaded: &LoadedModel,
    stop_set: &StopSet,
    stop_rows: Vec<StopRow>,
    tokenizer: &Tokenizer,
) -> Result<ModelEvidence, DiagnosisError> {
    let configuration = &loaded.configuration;
    let snapshot = ParameterSnapshot::capture(&loaded.model);
    let expected = configuration.expected_tensors();
    // Scales and biases of packed weights belong to their weight; the configuration predicts neither.
    let is_packing = |name: &str| name.ends_with(".scales") || name.ends_with(".biases");
    let registered: Vec<&String> = snapshot.parameters().keys().filter(|name| !is_packing(name)).collect();
    let values = |name: &String| -> u64 {
        let shape = expected
            .iter()
            .find(|(expected, _)| expected == name)
            .map(|(_, shape)| shape.as_slice());
        let unpacked = shape.map(|shape| shape.iter().map(|&size| size as u64).product());
        unpacked.unwrap_or_else(|| snapshot.parameters().get(name).map_or(0, Array::size) as u64)
    };
    Ok(ModelEvidence {
        architecture: configuration.architecture.model_type().to_owned(),
        layers: configuration.num_hidden_layers,
        vocabulary_size: configuration.vocab_size,
        context_length: Some(configuration.max_position_embeddings),
        predicted_values: Some(configuration.expected_values()),
        registered_values: registered.iter().map(|name| values(name)).sum(),
        predicted_tensors: Some(expected.len()),
        registered_tensors: registered.len(),
        unregistered: expected
            .iter()
            .filter(|(name, _)| !snapshot.parameters().contains_key(name))
            .map(|(name, _)| name.clone())
            .collect(),
        quantization: commonest(loaded.packings.values().copied()).map(|packing| Quantization {
            bits: packing.bits as u32,
            group_size: packing.group_size as u32,
            mode: packing.mode.name().to_owned(),
        }),
        non_finite: non_finite(&snapshot)?,
        stop_tokens: stop_set.tokens().to_vec(),
        stop_rows,
        split_turn_ends: split_turn_ends(tokenizer)?,
        beginning_of_text: tokenizer.bos_id().and_then(|id| tokenizer.token_text(id)),
        stored_dtype: loaded.stored_dtype.clone(),
        tied_output: configuration.tie_word_embeddings,
        has_chat_template: tokenizer.chat_template().is_some(),
        load_seconds: loaded.seconds,
    })
}

/// The packing of most modules, the narrower one where two are as common.
fn commonest(packings: impl Iterator<Item = Packing>) -> Option<Packing> {
    let mut counts: BTreeMap<Packing, usize> = BTreeMap::new();
    for packing in packings {
        *counts.entry(packing).or_insert(0) += 1;
    }
    counts
        .into_iter()
        .max_by_key(|(packing, count)| (*count, Reverse(*packing)))
        .map(|(packing, _)| packing)
}

/// A run on its way through the phases.
pub(super) struct Run<'run> {
    pub(super) options: &'run DiagnosisOptions,
    /// The finished adapter; `None` when there is none, or when it cannot be read.
    stored: Option<&'run StoredAdapter>,
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
    fn phases(&mut self, evidence: &mut Evidence) {
        if self.backend.kind == BackendKind::Torch {
            return self.phases_by_torch(evidence);
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
        match too_little(&memory) {
            Some(reason) => evidence.training = Slot::skipped(reason),
            None => self.make_steps(&mut subject, evidence),
        }
        evidence.memory = Slot::Ran(memory);
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

    fn make_steps(&mut self, subject: &mut Subject, evidence: &mut Evidence) {
        if ParameterSnapshot::capture_trainable(&subject.model)
            .parameters()
            .is_empty()
        {
            evidence.training = Slot::skipped("no parameter is trainable");
            return;
        }
        let Some(optimizer) = &mut subject.optimizer else {
            return;
        };
        let trained = TrainingRun {
            dataset: self.dataset,
            validation: self.validation,
            stop_ids: &self.stop_set.ids(),
            workflow: self.workflow,
            backend: self.backend,
            options: self.options,
            interrupt: self.interrupt,
        }
        .run(&mut subject.model, &mut **optimizer, self.progress);
        match trained {
            Ok(trained) => {
                self.progress
                    .finish(&format!("{:.0} tokens/s", trained.training.tokens_per_second));
                evidence.costs.extend(trained.costs);
                evidence.fit = Slot::Ran(trained.fit);
                evidence.training = Slot::Ran(trained.training);
            }
            Err(error) => {
                evidence.fit = Slot::skipped("training failed");
                evidence.training = Slot::crashed(error);
            }
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
