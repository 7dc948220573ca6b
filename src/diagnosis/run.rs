//! What has to hold before the first phase: settings, device, model, rows and prompts that can be used.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use mlx_rs::Array;
use thiserror::Error;

use super::cross_check::CrossCheck;
use super::finished::{GivenAdapter, plain};
use super::foreign::ForeignRun;
use super::inputs::{Inputs, ModelSizes};
use super::phases::Run;
use super::prompts::PromptError;
use super::refusal::refusal;
use super::{DiagnosisOptions, Progress, Together};
use crate::adapter::{AttachError, check_rank, target_modules};
use crate::data::{DataError, ExampleError};
use crate::device::{Backend, BackendError, BackendKind, Selection};
use crate::evidence::{
    EVIDENCE_SCHEMA_VERSION, Evidence, FineTuneKind, ModelEvidence, ProbeCost, Quantization, RunEnvironment,
    RunSettings, Slot,
};
use crate::interrupt::Interrupt;
use crate::model::{
    ConfigurationError, LoadError, LoadedModel, ModelFiles, Packing, StopSet, Tokenizer, TokenizerError,
};
use crate::param_snapshot::ParameterSnapshot;
use crate::probes::data::split_turn_ends;
use crate::probes::parameters::non_finite;
use crate::probes::stop_rows;
use crate::rules::Phase;
use crate::training_log::{self, LogError};
use crate::workflow::Workflow;

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
    diagnose_together(options, workflow, interrupt, progress, None)
}

/// As [`diagnose`], with a training that all processes of `together` make: those that do not lead do nothing else.
///
/// Nothing but this program's trainer on MLX trains with others.
pub fn diagnose_together(
    options: &DiagnosisOptions,
    workflow: &dyn Workflow,
    interrupt: &Interrupt,
    progress: &mut dyn Progress,
    together: Option<&Together<'_>>,
) -> Evidence {
    let mut evidence = diagnose_own_part(options, workflow, interrupt, progress, together);
    if let Some(together) = together
        && let Err(error) = together.end()
    {
        evidence.ranks = Slot::crashed(error);
    }
    evidence
}

fn diagnose_own_part(
    options: &DiagnosisOptions,
    workflow: &dyn Workflow,
    interrupt: &Interrupt,
    progress: &mut dyn Progress,
    together: Option<&Together<'_>>,
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
    if let Err(error) = check_and_run(
        options,
        workflow,
        interrupt,
        progress,
        &selection,
        together,
        &mut evidence,
    ) {
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
    together: Option<&Together<'_>>,
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
    evidence.model = Slot::Ran(examine(&loaded, &stop_set, &tokenizer, &mut evidence.costs)?);
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
        together,
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
        ranks: Slot::skipped("one process trained alone"),
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
    tokenizer: &Tokenizer,
    costs: &mut Vec<ProbeCost>,
) -> Result<ModelEvidence, DiagnosisError> {
    let started = Instant::now();
    let stop_rows = stop_rows::measure(&loaded.model, stop_set, tokenizer)?;
    costs.push(ProbeCost {
        probe: "stop-rows".to_owned(),
        seconds: started.elapsed().as_secs_f64(),
    });
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
