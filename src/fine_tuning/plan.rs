//! Model and data in memory, and how long the run will be.

use mlx_rs::module::ModuleParameters;
use thiserror::Error;

use super::checkpoint::Progress;
use super::settings::{FineTuneSettings, Method, RunLength};
use crate::adapter::{
    AdapterFileError, AttachError, LoraSettings, attach, attach_faults, attach_magnitudes, load_adapter,
};
use crate::data::{
    Batches, BatchesError, DataError, DataFiles, Dataset, Example, ExampleError, ExampleSettings, HeldOut,
    HeldOutError, RecordFile,
};
use crate::device::{
    Backend, BackendError, FittedStep, MemoryBudget, PrecisionChoice, Selection, TrainedPart, TrainingSize, dtype_named,
};
use crate::evidence::RunEnvironment;
use crate::memory::system_memory;
use crate::model::{
    CausalModel, LoadError, LoadedModel, ModelFiles, ModelSource, TemplateChoice, Tokenizer, TokenizerError,
};
use crate::param_snapshot::ParameterSnapshot;
use crate::rules::wording::bytes;

/// Why a run could not begin.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The backend that was asked for does not work.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The model could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The tokenizer could not be loaded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The data could not be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A row could not be made into tokens.
    #[error(transparent)]
    Example(#[from] ExampleError),
    /// Rows cannot be laid out in batches.
    #[error(transparent)]
    Batches(#[from] BatchesError),
    /// The adapters do not fit the model.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The adapter to go on from does not fit.
    #[error(transparent)]
    Adapter(#[from] AdapterFileError),
    /// MLX failed.
    #[error("the model could not be examined: {}", .0.what())]
    Mlx(mlx_rs::error::Exception),
    /// All weights are to be trained and some are packed.
    #[error(
        "packed weights cannot be trained\n  found: a model that is kept packed\n  expected: plain weights for `fine_tune_type: full`\n  hint: leave out `keep_packed` on a CPU, train adapters, or dequantise the model first"
    )]
    PackedWeights,
    /// A row holds an id that the model has no row for, which MLX would not notice.
    #[error(
        "the tokenizer and the model do not fit\n  found: token id {found} in the data\n  expected: an id below {vocabulary}, the rows of the embedding table\n  hint: use the tokenizer that belongs to the model"
    )]
    TokenOutOfRange {
        /// The largest id.
        found: u32,
        /// Rows of the embedding table.
        vocabulary: usize,
    },
    /// A step would need more memory than there is.
    #[error(
        "a training step does not fit into memory\n  found: {} needed, by prediction\n  expected: at most {}\n  hint: {hint}",
        bytes(*predicted), bytes(*limit)
    )]
    TooLarge {
        /// Bytes of a step with the model, by prediction.
        predicted: u64,
        /// Bytes that may be held.
        limit: u64,
        /// What would fit.
        hint: String,
    },
    /// Several things cannot be used, each for its own reason.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<PlanError>),
    /// Nothing is to be learnt.
    #[error(
        "no row has a token to learn\n  found: {rows} rows whose answers are empty or cut off\n  hint: raise `max_seq_length`, or look at the rows with `diagnose --check-only`"
    )]
    NothingToLearn {
        /// Rows.
        rows: usize,
    },
}

/// A run that could begin now.
#[derive(Debug)]
pub struct Plan {
    /// What was asked for.
    pub settings: FineTuneSettings,
    /// The model with what is to be trained, everything else frozen.
    pub model: CausalModel,
    /// The files' own account of it; its `model` is the base.
    pub loaded: LoadedModel,
    /// Its files.
    pub files: ModelFiles,
    /// Text and tokens.
    pub tokenizer: Tokenizer,
    /// The rows that are trained on.
    pub train: Dataset,
    /// Rows that are only measured; `None` without such rows.
    pub validation: Option<Dataset>,
    /// Where it is computed.
    pub backend: Backend,
    /// The machine and the reasons for what was chosen.
    pub environment: RunEnvironment,
    /// Optimizer updates.
    pub updates: usize,
    /// Batches in one pass over the data.
    pub batches_per_epoch: usize,
    /// Values that are trained.
    pub trainable_values: u64,
    /// What a step is predicted to hold, and what the machine has for it; `None` where the system does not tell.
    pub memory: Option<FittedStep>,
    /// What was decided beside the settings, one sentence each without a final period.
    pub notes: Vec<String>,
    /// Checksum of the base model's files.
    pub model_fingerprint: u32,
    /// Batches of the whole run.
    batches: usize,
}

impl Plan {
    /// Batches of update number `update`, counted from 1: the last one takes what is left.
    pub fn batches_of(&self, update: usize) -> usize {
        let before = (update - 1) * self.settings.accumulation;
        self.batches.saturating_sub(before).min(self.settings.accumulation)
    }

    /// Whether a run that is there has nothing left to do.
    pub fn is_over(&self, progress: &Progress) -> bool {
        progress.update >= self.updates || progress.has_lost_patience(self.settings.early_stopping)
    }
}

/// Loads model and data for `settings`, for a run of so many processes that share the rows of each batch.
pub fn prepare(mut settings: FineTuneSettings, source: &ModelSource, processes: usize) -> Result<Plan, PlanError> {
    let selection = Selection::of(settings.backend)?;
    let files = source.open()?;
    let configuration = files.configuration().map_err(LoadError::from)?;
    let choice = PrecisionChoice {
        dtype: settings.dtype.as_deref().and_then(dtype_named),
        keep_packed: settings.keep_packed,
    };
    let precision = selection.backend.precision(&configuration, choice);
    let tokenizer = settings.template.apply(files.tokenizer()?)?;
    let mut notes = match settings.template {
        TemplateChoice::Own => Vec::new(),
        TemplateChoice::Bundled(template) => template.notes(&tokenizer),
    };
    let (training_rows, validation_rows) = match rows(&settings, &mut notes) {
        Ok(rows) => rows,
        Err(error) => {
            // Everything that is wrong is told at once.
            let loaded = files.load(configuration, precision).map_err(PlanError::from);
            let of_model = loaded.and_then(|loaded| trainable(&settings, &loaded));
            return Err(match of_model {
                Ok(_) => error,
                Err(other) => PlanError::Several(vec![error, other]),
            });
        }
    };
    let example_settings = ExampleSettings {
        supervision: settings.supervision,
        max_sequence_length: settings.max_sequence_length.min(configuration.max_position_embeddings),
    };
    let dataset = |records| Dataset::new(records, &tokenizer, example_settings);
    let train = dataset(&training_rows)?;
    let validation = validation_rows.as_ref().map(dataset).transpose()?;
    let all_rows = || {
        train
            .examples
            .iter()
            .chain(validation.iter().flat_map(|rows| &rows.examples))
    };
    let largest = all_rows().flat_map(|row| &row.tokens).max().copied();
    if let Some(found) = largest.filter(|&id| id as usize >= configuration.vocab_size) {
        return Err(PlanError::TokenOutOfRange {
            found,
            vocabulary: configuration.vocab_size,
        });
    }
    if train.examples.iter().all(|row| row.supervised_tokens() == 0) {
        let rows = train.examples.len();
        return Err(PlanError::NothingToLearn { rows });
    }
    let loaded = files.load(configuration, precision)?;
    let (model, lora) = trainable(&settings, &loaded)?;
    let strength = |lora: &LoraSettings| (lora.rank, lora.scale, lora.dropout);
    if strength(&lora) != strength(&settings.lora) {
        notes.push(format!(
            "the adapter that is gone on from decides: rank {}, scale {}, dropout {}",
            lora.rank, lora.scale, lora.dropout
        ));
    }
    settings.lora = lora;
    let trainable_values = ParameterSnapshot::capture_trainable(&model).values();
    let batches_per_epoch = Batches::with_settings(&train.examples, settings.batches())?.per_epoch();
    let batches = match settings.length {
        RunLength::Batches(batches) => batches,
        RunLength::Epochs(epochs) => (epochs * batches_per_epoch as f64).ceil() as usize,
    }
    .max(1);
    let updates = batches.div_ceil(settings.accumulation);
    let warmup = settings.schedule.warmup_of(updates);
    if warmup > updates {
        notes.push(format!(
            "the warm-up of {warmup} updates is longer than the run of {updates}: the learning rate never rises to {}",
            settings.learning_rate
        ));
    }
    let own_rows = settings.batch_size.div_ceil(processes.max(1));
    let memory = memory(&settings, own_rows, &model, &loaded, all_rows())?;
    let environment = selection.environment(precision, choice, !loaded.packings.is_empty());
    Ok(Plan {
        updates,
        batches,
        batches_per_epoch,
        trainable_values,
        memory,
        notes,
        model_fingerprint: files.fingerprint().map_err(LoadError::from)?,
        backend: selection.backend,
        settings,
        model,
        files,
        loaded,
        tokenizer,
        train,
        validation,
        environment,
    })
}

/// The rows to train on, and those that are only measured: rows of the data's own, or some that are held out.
fn rows(settings: &FineTuneSettings, notes: &mut Vec<String>) -> Result<(RecordFile, Option<RecordFile>), PlanError> {
    let files = DataFiles::read_with(&settings.data, &settings.record_keys)?;
    for name in &files.unread_files {
        notes.push(format!("`{name}` of the data is not read"));
    }
    if files.valid.is_some() || settings.validation.split == 0.0 {
        return Ok((files.train, files.valid));
    }
    match files
        .train
        .hold_out(HeldOut::Fraction(settings.validation.split), settings.seed)
    {
        Ok((train, valid)) => Ok((train, Some(valid))),
        Err(error) => {
            let reason = match error {
                HeldOutError::Amount { rows: 1, .. } | HeldOutError::AllTheSame { rows: 1 } => {
                    "there is only one row".to_owned()
                }
                HeldOutError::Amount { found, rows, .. } => {
                    format!("{found} of {rows} rows would leave none to train on")
                }
                HeldOutError::AllTheSame { rows } => format!("all {rows} rows are the same"),
            };
            notes.push(format!(
                "no rows are held out for validation, since {reason}: no loss on such rows will be known"
            ));
            Ok((files.train, None))
        }
    }
}

/// What a step will hold; a step that is far too large would end the process, and perhaps others.
fn memory<'rows>(
    settings: &FineTuneSettings,
    batch_size: usize,
    model: &CausalModel,
    loaded: &LoadedModel,
    rows: impl Iterator<Item = &'rows Example>,
) -> Result<Option<FittedStep>, PlanError> {
    let Some(system) = system_memory() else {
        return Ok(None);
    };
    let (mut tokens, mut supervised, mut count) = (0, 0, 0);
    for row in rows {
        tokens = tokens.max(row.tokens.len());
        supervised = supervised.max(row.supervised_tokens());
        count += 1;
    }
    let size = TrainingSize {
        part: TrainedPart::of(model),
        optimizer_state: settings.optimizer.kept_copies() as f64,
        batch_size: batch_size.min(count),
        tokens,
        supervised,
    };
    let held = mlx_rs::memory::active_memory().map_err(PlanError::Mlx)? as u64;
    let weights: u64 = loaded
        .model
        .parameters()
        .flatten()
        .values()
        .map(|array| array.nbytes() as u64)
        .sum();
    let budget = MemoryBudget::new(system, None, held, settings.memory_reserve);
    let fitted = budget.fit(&loaded.configuration, weights, size);
    if settings.guards && !fitted.is_whole() {
        let hint = match fitted.batch.rows {
            0 if fitted.batch.tokens == 0 => "train fewer layers, or a smaller model".to_owned(),
            0 => format!("cut rows to `max_seq_length: {}`", fitted.batch.tokens),
            rows => format!(
                "`batch_size: {rows}` with `grad_accumulation_steps: {}` trains on as many rows per update",
                settings.accumulation * settings.batch_size.div_ceil(rows)
            ),
        };
        return Err(PlanError::TooLarge {
            predicted: fitted.asked.peak(),
            limit: budget.limit(),
            hint,
        });
    }
    Ok(Some(fitted))
}

/// The loaded model with what is to be trained, and the settings of its adapters.
fn trainable(settings: &FineTuneSettings, loaded: &LoadedModel) -> Result<(CausalModel, LoraSettings), PlanError> {
    let mut lora = settings.lora.clone();
    let mut model = loaded.model.clone();
    match (settings.method, &settings.resume_adapter) {
        (Method::Full, _) if model.is_packed() => return Err(PlanError::PackedWeights),
        (Method::Full, _) => model.unfreeze_parameters(true),
        (Method::Lora | Method::Dora, None) => {
            let faults = attach_faults(&model, &settings.lora);
            if !faults.is_empty() {
                return Err(PlanError::Several(faults.into_iter().map(Into::into).collect()));
            }
            attach(&mut model, &settings.lora, settings.seed)?;
        }
        (Method::Lora | Method::Dora, Some(adapter)) => {
            // mlx-lm names the file, whose settings stand beside it.
            let folder = if adapter.is_file() { adapter.parent() } else { None };
            lora = load_adapter(&mut model, folder.unwrap_or(adapter))?;
        }
    }
    if settings.method == Method::Dora {
        attach_magnitudes(&mut model)?;
    }
    Ok((model, lora))
}
