//! Model and data in memory, and how long the run will be.

use flate2::Crc;
use thiserror::Error;

use super::settings::{FineTuneSettings, Method, RunLength};
use crate::adapter::{AdapterFileError, AttachError, attach, check_rank, load_adapter, target_modules};
use crate::data::{DataError, DataFiles, Dataset, Example, ExampleError, ExampleSettings};
use crate::device::{
    Backend, BackendError, PrecisionChoice, Selection, TrainingSize, dtype_named, predicted_training_bytes,
};
use crate::evidence::RunEnvironment;
use crate::model::{CausalModel, LoadError, LoadedModel, ModelSource, Tokenizer, TokenizerError};
use crate::param_snapshot::ParameterSnapshot;
use mlx_rs::module::ModuleParameters;

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
    /// The adapters do not fit the model.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The adapter to go on from does not fit.
    #[error(transparent)]
    Adapter(#[from] AdapterFileError),
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
    /// Bytes that training takes beyond the loaded model, by prediction.
    pub predicted_bytes: u64,
    /// Checksum of the rows as tokens.
    pub data_checksum: u32,
}

/// Loads model and data for `settings`.
pub fn prepare(settings: FineTuneSettings, source: &ModelSource) -> Result<Plan, PlanError> {
    let selection = Selection::of(settings.backend)?;
    let files = source.open()?;
    let configuration = files.configuration().map_err(LoadError::from)?;
    let choice = PrecisionChoice {
        dtype: settings.dtype.as_deref().and_then(dtype_named),
        keep_packed: settings.keep_packed,
    };
    let precision = selection.backend.precision(&configuration, choice);
    let tokenizer = files.tokenizer()?;
    let records = DataFiles::read(&settings.data)?;
    let example_settings = ExampleSettings {
        mask_prompt: settings.mask_prompt,
        max_sequence_length: settings.max_sequence_length.min(configuration.max_position_embeddings),
    };
    let dataset = |records| Dataset::new(records, &tokenizer, example_settings);
    let train = dataset(&records.train)?;
    let validation = records.valid.as_ref().map(dataset).transpose()?;
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
    let model = trainable(&settings, &loaded)?;
    let trainable_values = ParameterSnapshot::capture_trainable(&model).values();
    let rows = train.examples.len();
    let batches_per_epoch = rows.div_ceil(settings.batch_size);
    let batches = match settings.length {
        RunLength::Batches(batches) => batches,
        RunLength::Epochs(epochs) => (epochs * batches_per_epoch as f64).ceil() as usize,
    };
    let longest = all_rows().map(|row| row.tokens.len()).max().unwrap_or(0);
    let size = TrainingSize {
        trainable_values,
        batch_size: settings.batch_size.min(rows),
        tokens: longest,
    };
    let environment = selection.environment(precision, choice, !loaded.packings.is_empty());
    Ok(Plan {
        updates: batches.div_ceil(settings.accumulation).max(1),
        batches_per_epoch,
        trainable_values,
        predicted_bytes: predicted_training_bytes(&loaded.configuration, size),
        data_checksum: checksum(&train.examples),
        backend: selection.backend,
        settings,
        model,
        loaded,
        tokenizer,
        train,
        validation,
        environment,
    })
}

/// The loaded model with what is to be trained.
fn trainable(settings: &FineTuneSettings, loaded: &LoadedModel) -> Result<CausalModel, PlanError> {
    let mut model = loaded.model.clone();
    match (settings.method, &settings.resume_adapter) {
        (Method::Full, _) if model.is_packed() => return Err(PlanError::PackedWeights),
        (Method::Full, _) => model.unfreeze_parameters(true),
        (Method::Lora, None) => {
            let targets = target_modules(&model, &settings.lora)?;
            check_rank(&model, &settings.lora, &targets)?;
            attach(&mut model, &settings.lora, settings.seed)?;
        }
        (Method::Lora, Some(adapter)) => {
            load_adapter(&mut model, adapter)?;
        }
    }
    Ok(model)
}

fn checksum(examples: &[Example]) -> u32 {
    let mut checksum = Crc::new();
    for example in examples {
        checksum.update(&(example.tokens.len() as u64).to_le_bytes());
        for (token, supervised) in example.tokens.iter().zip(&example.supervised) {
            checksum.update(&token.to_le_bytes());
            checksum.update(&[u8::from(*supervised)]);
        }
    }
    checksum.sum()
}
