//! The model, the machine and the clock that all subjects share.

use std::cell::OnceCell;
use std::path::Path;
use std::time::Instant;

use mlx_rs::Dtype;
use mlx_rs::module::ModuleParameters;
use mlx_rs::transforms::eval;
use thiserror::Error;

use super::{BenchOptions, ModelDescription, Samples, bandwidth, products};
use crate::adapter::{AttachError, LoraSettings, attach};
use crate::data::{Batch, Example, SplitMix64};
use crate::device::{Backend, PrecisionChoice, Selection, dtype_name};
use crate::engine::{AnswerError, StartError, SubmitError};
use crate::fine_tuning::CheckpointError;
use crate::interrupt::Interrupt;
use crate::model::{
    BuildError, CausalModel, ConfigurationError, ConvertModelError, LoadError, LoadedModel, ModelFiles, Precision,
    TokenizerError,
};
use crate::train::TrainError;

/// Seconds that a measured piece of work takes at least; what is shorter is done several times for one value, so that
/// reading the clock and single interruptions by the system, which take microseconds, are not what is measured.
const SHORTEST_SAMPLE: f64 = 0.01;
/// The most times that work is done for one value.
const MOST_TIMES: usize = 1 << 20;

/// Why a subject could not be measured.
#[derive(Debug, Error)]
pub enum BenchError {
    /// MLX failed.
    #[error("{}", .0.what())]
    Mlx(#[from] mlx_rs::error::Exception),
    /// A training step failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The model's files cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The model's configuration cannot be used.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// The model cannot be put together.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The adapters do not fit the model.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model could not be written in another form.
    #[error(transparent)]
    Convert(#[from] ConvertModelError),
    /// There is no engine.
    #[error(transparent)]
    Engine(#[from] StartError<LoadError>),
    /// The engine took no request.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The engine broke an answer off.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// A file or a program of the system failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The work did not do what it was measured for.
    #[error("{0}")]
    Unexpected(String),
    /// The user ended it.
    #[error("interrupted")]
    Interrupted,
}

/// What every subject is given.
pub struct Workbench<'run> {
    pub(super) options: &'run BenchOptions,
    pub(super) interrupt: &'run Interrupt,
    pub(super) backend: Backend,
    pub(super) files: ModelFiles,
    pub(super) precision: Precision,
    /// The model, of which every weight is in memory.
    pub(super) loaded: LoadedModel,
    /// Values of each figure that a subject takes when it is measured.
    pub(super) repeats: usize,
    bandwidth: OnceCell<Samples>,
    best_product: OnceCell<Samples>,
}

impl<'run> Workbench<'run> {
    /// Loads the model.
    ///
    /// # Errors
    /// Its files cannot be used.
    pub fn new(
        options: &'run BenchOptions,
        selection: &Selection,
        interrupt: &'run Interrupt,
    ) -> Result<Self, BenchError> {
        let backend = selection.backend;
        let files = options.source.open()?;
        let configuration = files.configuration()?;
        let precision = backend.precision(&configuration, PrecisionChoice::default());
        let loaded = files.load(configuration, precision)?;
        eval(loaded.model.parameters().flatten().into_values())?;
        Ok(Self {
            options,
            interrupt,
            backend,
            files,
            precision,
            loaded,
            repeats: options.settings.repeats,
            bandwidth: OnceCell::new(),
            best_product: OnceCell::new(),
        })
    }

    /// Forgets what was remembered of the machine, which may be another one by now.
    pub(super) fn begin_round(&mut self) {
        self.bandwidth.take();
        self.best_product.take();
    }

    /// What is measured with.
    pub fn model_description(&self) -> ModelDescription {
        let model = &self.loaded.model;
        let parameters = model.parameters().flatten();
        let bytes = sum_of_bytes(model);
        // Without an output layer of its own, a model reads its embedding as one.
        let embedding: usize = match &model.lm_head {
            Some(_) => sum_of_bytes(&model.model.embed_tokens),
            None => 0,
        };
        ModelDescription {
            model_type: self.loaded.configuration.architecture.model_type().to_owned(),
            values: parameters.values().map(|array| array.size() as u64).sum(),
            bytes: bytes as u64,
            bytes_per_token: (bytes - embedding) as u64,
            dtype: dtype_name(self.precision.dtype).to_owned(),
            packed: model.is_packed(),
        }
    }

    /// The model with fresh adapters on every linear layer of its blocks.
    pub(super) fn adapted(&self) -> Result<CausalModel, BenchError> {
        let mut model = self.loaded.model.clone();
        let settings = LoraSettings {
            rank: self.options.settings.sizes.rank,
            ..LoraSettings::default()
        };
        attach(&mut model, &settings, self.options.settings.seed)?;
        eval(model.trainable_parameters().flatten().into_values())?;
        Ok(model)
    }

    /// The rows of a training step, every token of which is predicted but the first.
    pub(super) fn batch(&self) -> Batch {
        let sizes = self.options.settings.sizes;
        let rows: Vec<usize> = (0..sizes.training_rows).collect();
        let examples: Vec<Example> = rows
            .iter()
            .map(|&row| Example::of_tokens(self.tokens(row, sizes.training_tokens + 1)))
            .collect();
        Batch::new(&examples, &rows)
    }

    /// Made-up tokens, the same for a seed; `row` tells apart those of one measurement.
    pub(super) fn tokens(&self, row: usize, count: usize) -> Vec<u32> {
        made_up_tokens(
            self.options.settings.seed,
            row,
            count,
            self.loaded.configuration.vocab_size,
        )
    }

    /// The seconds of each repeat of `work`, after the warm-ups.
    pub(super) fn seconds_of(&self, mut work: impl FnMut() -> Result<(), BenchError>) -> Result<Samples, BenchError> {
        Samples::measure(self.options.settings.warm_ups, self.repeats, || {
            self.go_on()?;
            work()
        })
    }

    /// The seconds of one `work` in each repeat, which does it as often as a clock needs; at least one warm-up.
    pub(super) fn seconds_of_short(
        &self,
        mut work: impl FnMut() -> Result<(), BenchError>,
    ) -> Result<Samples, BenchError> {
        let mut times = 1;
        loop {
            self.go_on()?;
            let started = Instant::now();
            for _ in 0..times {
                work()?;
            }
            let seconds = started.elapsed().as_secs_f64();
            if seconds >= SHORTEST_SAMPLE || times >= MOST_TIMES {
                break;
            }
            // Twice what would do, as the first times are the slow ones.
            let needed = (2.0 * SHORTEST_SAMPLE / seconds.max(1e-9)).ceil() as usize;
            times = (times * needed).min(MOST_TIMES);
        }
        let seconds = self.seconds_of(|| {
            for _ in 0..times {
                work()?;
            }
            Ok(())
        })?;
        Ok(seconds.map(|seconds| seconds / times as f64))
    }

    /// # Errors
    /// [`BenchError::Interrupted`] when the user wants to stop.
    pub(super) fn go_on(&self) -> Result<(), BenchError> {
        if self.interrupt.is_requested() {
            Err(BenchError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Bytes in a second that the device reads of its memory, measured once a round; the reason where it is not measured.
    pub(super) fn bandwidth(&self) -> Result<&Samples, BenchError> {
        remembered(&self.bandwidth, || bandwidth::bytes_per_second(self))
    }

    /// Operations in a second of the machine's best product, measured once a round.
    pub(super) fn best_product(&self) -> Result<&Samples, BenchError> {
        remembered(&self.best_product, || products::best(self))
    }

    /// The element type that is computed in.
    pub(super) fn dtype(&self) -> Dtype {
        self.precision.dtype
    }

    /// The folder or file of the model.
    pub(super) fn path(&self) -> &Path {
        self.files.path()
    }
}

fn remembered<T>(cell: &OnceCell<T>, measure: impl FnOnce() -> Result<T, BenchError>) -> Result<&T, BenchError> {
    if let Some(known) = cell.get() {
        return Ok(known);
    }
    let measured = measure()?;
    Ok(cell.get_or_init(|| measured))
}

fn sum_of_bytes(module: &impl ModuleParameters) -> usize {
    module.parameters().flatten().values().map(|array| array.nbytes()).sum()
}

/// `count` token ids below `vocabulary` that look random.
fn made_up_tokens(seed: u64, row: usize, count: usize, vocabulary: usize) -> Vec<u32> {
    // Rows differ in bits that a seed seldom has.
    let state = seed ^ (row as u64).rotate_right(16);
    let mut random = SplitMix64 { state };
    (0..count)
        .map(|_| (random.next() % vocabulary.max(1) as u64) as u32)
        .collect()
}
