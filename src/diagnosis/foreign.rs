use std::collections::BTreeSet;
use std::path::Path;

use mlx_rs::Dtype;
use thiserror::Error;

use super::finished::{GivenAdapter, TRAINED_ELSEWHERE};
use super::inputs::{Inputs, ModelSizes, unusable_rows};
use super::run::{DiagnosisError, skip_phases};
use super::validation_course::ValidationCourse;
use super::{DiagnosisOptions, Progress};
use crate::adapter::{AdapterFormat, Application, Places, StoredAdapter};
use crate::data::{Batch, Batches, Example};
use crate::engine::Decoded;
use crate::evidence::{
    AdapterFilesEvidence, Evidence, FineTuneKind, FitComparison, FitEvidence, GenerationEvidence, ModelEvidence,
    Quantization, ScaledLoss, Slot,
};
use crate::external::{
    WorkerAdapter, WorkerError, WorkerModel, WorkerReading, WorkerResult, WorkerRow, WorkerState, WorkerTask,
    ask_mlx_lm,
};
use crate::interrupt::Interrupt;
use crate::model::{CheckpointError, ForeignModel, LoadError, ModelFiles, WeightFileError, save_safetensors};
use crate::probes::adapter_files::{self, FACTORS};
use crate::probes::data::split_turn_ends;
use crate::probes::fit;
use crate::probes::foreign_base::{self, BaseReading, ForeignBaseError};
use crate::probes::generation::{FREE_RUN_TOKENS, GenerationProbe};
use crate::probes::next_token::{NextTokens, Reading, log_odds};
use crate::rules::Phase;
use crate::temporary_folder::TemporaryFolder;
use crate::workflow::Workflow;

/// Why Python mlx-lm measured nothing.
#[derive(Debug, Error)]
enum ForeignError {
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error("the adapter cannot be handed on: {0}")]
    File(#[from] WeightFileError),
    #[error("cannot make a folder for Python mlx-lm: {0}")]
    Folder(#[from] std::io::Error),
    #[error("the result of Python mlx-lm cannot be used: {0}")]
    Result(String),
}

/// A finished adapter on a base of an architecture that this program lacks.
///
/// Everything that needs no forward pass is measured here; answers and losses come from Python mlx-lm, where there is one.
pub(super) struct ForeignRun<'run> {
    pub(super) options: &'run DiagnosisOptions,
    pub(super) given: &'run GivenAdapter<'run>,
    pub(super) files: &'run ModelFiles,
    pub(super) folder: &'run Path,
    pub(super) workflow: &'run dyn Workflow,
    pub(super) interrupt: &'run Interrupt,
    pub(super) progress: &'run mut dyn Progress,
}

/// The first rows and the others that Python mlx-lm reads, each in its place among all.
struct Rows<'run> {
    first: Option<Batch>,
    all: Vec<&'run Example>,
    /// For every prompt the place of its reference.
    references: Vec<Option<usize>>,
    validation: Vec<usize>,
}

impl ForeignRun<'_> {
    pub(super) fn check_and_run(mut self, evidence: &mut Evidence) -> Result<(), DiagnosisError> {
        let base = ForeignModel::read(self.folder)?;
        let sizes = ModelSizes {
            vocabulary: base.vocabulary_size,
            context: base.context_length,
        };
        let inputs = Inputs::read(self.options, self.files.tokenizer()?, sizes, self.workflow)?;
        inputs.audit(self.options, sizes, evidence);
        let suggested = Places::suggested_by(base.weights());
        let stored = self.given.stored();
        let application = stored.map(|stored| stored.application_to(&suggested));
        let reading = foreign_base::read(&base, stored.zip(application.as_ref())).map_err(unreadable)?;
        evidence.environment.dtype = base.stored_dtype();
        evidence.environment.packed = base.quantization.is_some();
        evidence.environment.reasons = vec![format!(
            "{}: answers and losses are left to Python mlx-lm",
            lacking(&base)
        )];
        evidence.model = Slot::Ran(examine(&base, &suggested, &reading, &inputs)?);
        evidence.resumed = adapter_files::resumed(self.given.folder(), &suggested);
        evidence.adapter_files = match (stored, &application) {
            (Some(stored), Some(application)) => suggested_files(&base, stored, application),
            _ => self.given.unread(),
        };
        if self.options.check_only {
            skip_phases(evidence, "`--check-only`");
            self.progress.finish("files, tokenizer, data and settings checked");
            return Ok(());
        }
        let Some(stored) = stored else {
            skip_phases(evidence, "the adapter cannot be read");
            return Ok(());
        };
        skip_phases(evidence, &lacking(&base));
        evidence.memory = Slot::skipped(TRAINED_ELSEWHERE);
        evidence.training = Slot::skipped(TRAINED_ELSEWHERE);
        if self.options.generator.is_some() {
            evidence.swap = Slot::skipped(lacking(&base));
        }
        let places = match self.measure(&base, &inputs, stored, evidence) {
            Ok(places) => {
                evidence.resumed = adapter_files::resumed(self.given.folder(), &places);
                places
            }
            Err(error) => {
                leave_out(&error, &base, evidence);
                suggested
            }
        };
        if self.interrupt.is_requested() {
            evidence.interrupted = Some(format!(
                "interrupted by the user in the {} phase",
                Phase::Baseline.name()
            ));
            return Ok(());
        }
        self.progress.phase(Phase::Parameters, None);
        evidence.parameters = match (&evidence.adapter_files, self.options.fine_tune) {
            (Slot::Ran(_), FineTuneKind::Lora) => {
                let application = stored.application_to(&places);
                Slot::of(foreign_base::parameters(&base, &reading, stored, &application, &places))
            }
            (Slot::Ran(_), FineTuneKind::Full) => {
                Slot::skipped(format!("{}, and its whole weights are not compared", lacking(&base)))
            }
            (absent, _) => Slot::skipped(absent.absence().unwrap_or_else(|| lacking(&base))),
        };
        self.progress.finish("parameters compared");
        Ok(())
    }

    /// Asks Python mlx-lm and takes up what it measured; returns the places that the model has there.
    fn measure(
        &mut self,
        base: &ForeignModel,
        inputs: &Inputs,
        stored: &StoredAdapter,
        evidence: &mut Evidence,
    ) -> Result<Places, ForeignError> {
        let unusable = unusable_rows(&inputs.dataset, inputs.validation.as_ref(), base.vocabulary_size);
        let rows = Rows::of(inputs, self.options, unusable.is_none());
        let result = self.ask(inputs, stored, &rows)?;
        check_lengths(&result, inputs, &rows)?;
        let places = places_of(&result.model);
        let application = stored.application_to(&places);
        let named: BTreeSet<&String> = application.applied.iter().collect();
        let applied: BTreeSet<&String> = result.applied.iter().collect();
        if let Some(name) = named.symmetric_difference(&applied).next() {
            return Err(ForeignError::Result(format!(
                "it and this program disagree about `{name}`"
            )));
        }
        evidence.environment.reasons = vec![format!(
            "{}; answers and losses come from Python mlx-lm {} on {}",
            lacking(base),
            result.model.version,
            result.model.device
        )];
        if let Some(row) = result.base.rows.first() {
            evidence.environment.dtype.clone_from(&row.dtype);
        }
        let mut files = adapter_files::measure(stored, &application);
        let losses = FACTORS.iter().zip(&result.scaled_losses);
        files.scaled_losses = losses
            .map(|(&factor, &loss)| ScaledLoss {
                factor: f64::from(factor),
                loss,
            })
            .collect();
        evidence.adapter_files = Slot::Ran(files);
        evidence.baseline = self.answers(Phase::Baseline, inputs, &rows, &result.base);
        evidence.generation = self.answers(Phase::Generation, inputs, &rows, &result.adapted);
        evidence.fit = match unusable {
            Some(reason) => Slot::skipped(reason),
            None => Slot::Ran(rows.fit(inputs, &result)),
        };
        Ok(places)
    }

    fn ask(&mut self, inputs: &Inputs, stored: &StoredAdapter, rows: &Rows) -> Result<WorkerResult, ForeignError> {
        let folder = TemporaryFolder::new()?;
        let tensors = folder.path().join("adapter.safetensors");
        save_safetensors(&stored.tensors, None, &tensors)?;
        let task = WorkerTask {
            model: self.folder.to_owned(),
            adapter: WorkerAdapter {
                tensors,
                kind: stored.kind.name().to_owned(),
                scale: stored.settings.scale,
                scales: stored.scales.clone(),
            },
            prompts: inputs.prompts.iter().map(|prompt| prompt.tokens.clone()).collect(),
            stop_ids: inputs.stop_set.ids(),
            answer_tokens: self.options.max_tokens,
            at_least_tokens: FREE_RUN_TOKENS,
            rows: rows.all.iter().map(|row| worker_row(row)).collect(),
            factors: FACTORS.to_vec(),
            scaled_rows: rows.first.as_ref().map_or(0, |batch| batch.rows.len()),
        };
        self.progress.phase(Phase::Baseline, None);
        let mut lines = 0;
        let result = ask_mlx_lm(&task, folder.path(), self.interrupt, &mut |line| {
            lines += 1;
            self.progress.advance(lines, line);
        })?;
        self.progress
            .finish(&format!("Python mlx-lm {} answered", result.model.version));
        Ok(result)
    }

    fn answers(&self, phase: Phase, inputs: &Inputs, rows: &Rows, state: &WorkerState) -> Slot<GenerationEvidence> {
        let stop_ids = match phase {
            Phase::Baseline => inputs.stop_set.ids().into_iter().collect(),
            _ => self.workflow.stop_ids(&inputs.stop_set),
        };
        let probe = GenerationProbe {
            tokenizer: &inputs.tokenizer,
            stop_set: &inputs.stop_set,
            stop_ids: &stop_ids,
            prompts: &inputs.prompts,
            reference_answers: &inputs.reference_answers(),
            max_tokens: self.options.max_tokens,
        };
        let decoded: Vec<(Decoded, Option<f64>)> = state
            .answers
            .iter()
            .zip(&rows.references)
            .map(|(answer, reference)| {
                let decoded = Decoded {
                    tokens: answer.tokens.clone(),
                    not_finite: answer.not_finite,
                    interrupted: false,
                };
                (decoded, reference.and_then(|row| rows.loss(&[row], state)))
            })
            .collect();
        Slot::of(probe.of_decoded(&decoded, state.seconds))
    }
}

impl<'run> Rows<'run> {
    /// None at all when the rows cannot be computed with.
    fn of(inputs: &'run Inputs, options: &DiagnosisOptions, usable: bool) -> Self {
        let examples = &inputs.dataset.examples;
        let batch = Batches::new(examples, options.batch_size, options.seed).next();
        let first = batch.filter(|_| usable).map(|batch| fit::first_rows(&batch));
        let mut all: Vec<&Example> = Vec::new();
        if let Some(batch) = &first {
            all.extend(batch.rows.iter().filter_map(|&row| examples.get(row)));
        }
        let mut references = Vec::new();
        for prompt in &inputs.prompts {
            references.push(prompt.reference.as_ref().map(|_| all.len()));
            all.extend(&prompt.reference);
        }
        let course = ValidationCourse::new(inputs.validation.as_ref().filter(|_| usable), options.steps);
        let measured = course.measured_rows();
        let validation = (all.len()..all.len() + measured.len()).collect();
        all.extend(measured);
        Self {
            first,
            all,
            references,
            validation,
        }
    }

    fn fit(&self, inputs: &Inputs, result: &WorkerResult) -> FitComparison {
        let read = |state: &WorkerState| match &self.first {
            None => Slot::skipped("there is no row to train on"),
            Some(batch) => Slot::Ran(fit_of(batch, &state.rows[..batch.rows.len()], &inputs.stop_set.ids())),
        };
        FitComparison {
            before: read(&result.base),
            after: read(&result.adapted),
            validation_before: self.loss(&self.validation, &result.base),
            validation_between: Vec::new(),
            validation_after: self.loss(&self.validation, &result.adapted),
        }
    }

    /// The mean loss of these rows in nats per supervised token; `None` without such a token, or when it is not finite.
    fn loss(&self, rows: &[usize], state: &WorkerState) -> Option<f64> {
        let (mut sum, mut count) = (0.0, 0_u32);
        for &row in rows {
            let supervised = self.all[row].supervised.iter().skip(1);
            for (_, losses) in supervised.zip(&state.rows[row].losses).filter(|(counted, _)| **counted) {
                sum += losses[1]?;
                count += 1;
            }
        }
        (count > 0).then(|| sum / f64::from(count))
    }
}

fn fit_of(batch: &Batch, readings: &[WorkerReading], stop_ids: &[u32]) -> FitEvidence {
    let rows: Vec<Vec<Reading>> = readings.iter().map(position_readings).collect();
    let dtype = match readings.first().map(|reading| reading.dtype.as_str()) {
        Some("bfloat16") => Dtype::Bfloat16,
        Some("float16") => Dtype::Float16,
        _ => Dtype::Float32,
    };
    fit::measure(&NextTokens::of_readings(&rows, dtype), batch, stop_ids)
}

fn position_readings(row: &WorkerReading) -> Vec<Reading> {
    let stopping = |position: usize| -> Option<f64> {
        let log_probability = row.stop_log_probabilities.as_ref()?.get(position)?;
        Some(log_probability.map_or(f64::NAN, log_odds))
    };
    let columns = row.losses.iter().zip(&row.likeliest).zip(&row.ranks).enumerate();
    columns
        .map(|(position, ((losses, &likeliest), &rank))| Reading {
            losses: losses.map(|loss| loss.unwrap_or(f64::NAN)),
            likeliest,
            rank,
            stop_log_odds: stopping(position),
        })
        .collect()
}

fn worker_row(row: &Example) -> WorkerRow {
    WorkerRow {
        tokens: row.tokens.clone(),
        supervised: row.supervised.iter().map(|&counted| u8::from(counted)).collect(),
    }
}

/// As many answers and readings as were asked for.
fn check_lengths(result: &WorkerResult, inputs: &Inputs, rows: &Rows) -> Result<(), ForeignError> {
    let wrong = |what: &str| Err(ForeignError::Result(format!("it has other {what} than were asked for")));
    for state in [&result.base, &result.adapted] {
        if state.answers.len() != inputs.prompts.len() {
            return wrong("answers");
        }
        let lengths = |reading: &WorkerReading| {
            let stopping = reading.stop_log_probabilities.as_ref();
            [
                reading.losses.len(),
                reading.likeliest.len(),
                reading.ranks.len(),
                stopping.map_or(reading.losses.len(), Vec::len),
            ]
        };
        let fits = |(reading, row): (&WorkerReading, &&Example)| lengths(reading) == [row.tokens.len(); 4];
        if state.rows.len() != rows.all.len() || !state.rows.iter().zip(&rows.all).all(fits) {
            return wrong("rows");
        }
    }
    Ok(())
}

fn places_of(model: &WorkerModel) -> Places {
    Places {
        block_prefix: model.block_prefix.clone(),
        blocks: model.blocks,
        linears: model.linears.clone().into_iter().collect(),
        weights: model.weights.clone(),
    }
}

/// What became of the adapter by the names in the base's files, which are not always those of mlx-lm's modules.
fn suggested_files(
    base: &ForeignModel,
    stored: &StoredAdapter,
    application: &Application,
) -> Slot<AdapterFilesEvidence> {
    let is_comparable = base.has_names_of_mlx_lm || stored.format == AdapterFormat::Peft;
    match application.unused.first() {
        Some(name) if !is_comparable => Slot::skipped(format!(
            "{}, and whether `{name}` has a place in it cannot be told without Python mlx-lm: the base's files do not have \
             mlx-lm's names",
            lacking(base)
        )),
        _ => Slot::Ran(adapter_files::measure(stored, application)),
    }
}

fn examine(
    base: &ForeignModel,
    places: &Places,
    reading: &BaseReading,
    inputs: &Inputs,
) -> Result<ModelEvidence, DiagnosisError> {
    let weights = base.weights();
    Ok(ModelEvidence {
        architecture: base.model_type.clone(),
        layers: base.layers.unwrap_or(places.blocks),
        vocabulary_size: base.vocabulary_size,
        context_length: base.context_length,
        predicted_values: None,
        registered_values: base.values(),
        predicted_tensors: None,
        registered_tensors: weights.len(),
        unregistered: std::iter::empty::<String>().collect(),
        quantization: base.quantization.as_ref().map(|packed| Quantization {
            bits: packed.default.bits,
            group_size: packed.default.group_size,
            mode: packed.default.mode.name().to_owned(),
        }),
        non_finite: reading.non_finite.iter().cloned().collect(),
        stop_tokens: inputs.stop_set.tokens().to_vec(),
        stop_rows: Vec::new(),
        split_turn_ends: split_turn_ends(&inputs.tokenizer)?,
        beginning_of_text: inputs.tokenizer.bos_id().and_then(|id| inputs.tokenizer.token_text(id)),
        stored_dtype: base.stored_dtype(),
        tied_output: !weights.keys().any(|name| name.ends_with("lm_head.weight")),
        has_chat_template: inputs.tokenizer.chat_template().is_some(),
        load_seconds: reading.seconds,
    })
}

/// Says of everything that Python mlx-lm was to measure why it was not.
fn leave_out(error: &ForeignError, base: &ForeignModel, evidence: &mut Evidence) {
    let reason = match error {
        ForeignError::Worker(WorkerError::Interrupted) => "interrupted".to_owned(),
        ForeignError::Worker(WorkerError::NotInstalled { .. } | WorkerError::UnknownArchitecture { .. }) => {
            let lines: Vec<String> = error.to_string().lines().map(|line| line.trim().to_owned()).collect();
            format!("{}, and {}", lacking(base), lines.join("; "))
        }
        _ => {
            evidence.baseline = Slot::crashed(error);
            evidence.generation = Slot::crashed(error);
            evidence.fit = Slot::crashed(error);
            return;
        }
    };
    evidence.baseline = Slot::skipped(&reason);
    evidence.generation = Slot::skipped(&reason);
    evidence.fit = Slot::skipped(&reason);
}

fn lacking(base: &ForeignModel) -> String {
    format!("this program has no `{}`", base.model_type)
}

fn unreadable(error: ForeignBaseError) -> DiagnosisError {
    match error {
        ForeignBaseError::File(error) => LoadError::from(CheckpointError::from(error)).into(),
        ForeignBaseError::Mlx(error) => error.into(),
    }
}
