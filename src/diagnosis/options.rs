use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::adapter::{AdapterKind, LoraSettings, StoredAdapter};
use crate::as_written::as_written;
use crate::data::{DataError, DataFiles, RecordFile};
use crate::device::{BackendKind, PrecisionChoice, dtype_name, dtype_named};
use crate::evidence::{FineTuneKind, RunSettings};
use crate::external::{ExternalGenerator, ExternalTrainer};
use crate::model::{ModelSource, TemplateChoice};
use crate::python::Python;
use crate::train::{AdamWSettings, Schedule, TrainSettings};

/// What settings call PyTorch.
const TORCH: &str = "torch";

/// Where training data comes from.
#[derive(Debug, Clone)]
pub enum DataSource {
    /// A file of rows, or a folder that holds `train.jsonl` or `train.json` and perhaps a file for validation.
    Path(PathBuf),
    /// JSON lines that the program carries.
    Embedded(&'static str),
}

impl DataSource {
    /// Reads the records.
    pub fn read(&self) -> Result<DataFiles, DataError> {
        match self {
            Self::Path(path) => DataFiles::read(path),
            Self::Embedded(text) => Ok(RecordFile::parse(Path::new("embedded"), text.as_bytes())?.into()),
        }
    }
}

/// Settings name an element type that is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no element type `{name}`\n  expected: `float32`, `bfloat16` or `float16`")]
pub struct UnknownDtype {
    /// The name.
    pub name: String,
}

/// An adapter that was trained before, by whatever program.
#[derive(Debug, Clone)]
pub struct FinishedAdapter {
    /// Where it lies.
    pub folder: PathBuf,
    /// Whether it is no adapter but a whole model, fused or trained in all its weights.
    pub is_whole_model: bool,
    /// What the user called it.
    pub name: String,
    /// What its trainer wrote while it ran; `None` when the user has no such file.
    pub log: Option<PathBuf>,
    /// Whether prompts carried no loss; `None` for what the adapter states, or the default.
    pub mask_prompt: Option<bool>,
    /// Longest row in tokens; `None` as above.
    pub max_sequence_length: Option<usize>,
}

/// Everything a diagnosis is asked to do.
#[derive(Debug, Clone)]
pub struct DiagnosisOptions {
    /// The model.
    pub source: ModelSource,
    /// What the user called it.
    pub model_name: String,
    /// The data.
    pub data: DataSource,
    /// What the user called it.
    pub data_name: String,
    /// The finished adapter to judge; `None` to train one.
    pub adapter: Option<FinishedAdapter>,
    /// The program that trains; `None` for this one.
    pub trainer: Option<ExternalTrainer>,
    /// The program that answers beside this one; `None` for this one alone.
    pub generator: Option<ExternalGenerator>,
    /// The prompts, one each; empty for the program's own choice.
    pub prompts: Vec<String>,
    /// The file that the prompts were read from, as the user named it.
    pub prompts_file: Option<String>,
    /// Whether to end before the first phase, after files and data were judged.
    pub check_only: bool,
    /// Longest answer in tokens.
    pub max_tokens: usize,
    /// Adapters or all weights.
    pub fine_tune: FineTuneKind,
    /// The adapters.
    pub lora: LoraSettings,
    /// Optimizer steps.
    pub steps: usize,
    /// Rows per step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of warm-up.
    pub warmup_steps: usize,
    /// Gradient norm above which gradients are scaled down.
    pub clip_norm: Option<f32>,
    /// Whether the optimizer corrects its moments' start at zero.
    pub bias_correction: bool,
    /// Whether prompts carry no loss.
    pub mask_prompt: bool,
    /// The chat template.
    pub template: TemplateChoice,
    /// Longest row in tokens.
    pub max_sequence_length: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// The backend; `None` for the program's choice.
    pub backend: Option<BackendKind>,
    /// The python whose PyTorch computes the same; `None` not to compare.
    pub cross_check: Option<Python>,
    /// What the user asked of precision.
    pub precision: PrecisionChoice,
    /// Where the trained adapter is left; `None` to leave nothing.
    pub adapter_folder: Option<PathBuf>,
}

impl DiagnosisOptions {
    /// As evidence.
    pub fn settings(&self) -> RunSettings {
        RunSettings {
            model: self.model_name.clone(),
            data: self.data_name.clone(),
            adapter: self.finished_name(false),
            trained: self.finished_name(true),
            trainer: self.trainer.as_ref().map(|trainer| trainer.name.clone()),
            generator: self.generator.as_ref().map(|generator| generator.name.clone()),
            log: self
                .adapter
                .as_ref()
                .and_then(|adapter| adapter.log.as_ref())
                .map(|path| path.display().to_string()),
            prompts: self.prompts_file.clone(),
            dtype: self.precision.dtype.map(|dtype| dtype_name(dtype).to_owned()),
            backend: self.backend.map(|backend| backend.name().to_owned()),
            cross_check: self.cross_check.as_ref().map(|_| TORCH.to_owned()),
            keep_packed: self.precision.keep_packed,
            check_only: self.check_only,
            fine_tune: self.fine_tune,
            steps: self.steps,
            batch_size: self.batch_size,
            learning_rate: self.learning_rate,
            bias_correction: self.bias_correction,
            warmup_steps: self.warmup_steps,
            clip_norm: self.clip_norm.map(as_written),
            rank: self.lora.rank,
            scale: as_written(self.lora.scale),
            dropout: as_written(self.lora.dropout),
            layers: self.lora.layers,
            keys: self.lora.keys.clone(),
            mask_prompt: self.mask_prompt,
            max_sequence_length: self.max_sequence_length,
            max_tokens: self.max_tokens,
            seed: self.seed,
        }
    }

    /// The same model, data and prompts with every number and switch taken from `settings`.
    ///
    /// # Errors
    /// [`UnknownDtype`] when the element type has a name that [`dtype_name`] does not give.
    pub fn with_settings(&self, settings: &RunSettings) -> Result<Self, UnknownDtype> {
        let RunSettings {
            // These say where the inputs are, and stay.
            model: _,
            data: _,
            prompts: _,
            adapter,
            trained,
            trainer: _,
            generator: _,
            log: _,
            dtype,
            backend,
            cross_check,
            keep_packed,
            check_only,
            fine_tune,
            steps,
            batch_size,
            learning_rate,
            bias_correction,
            warmup_steps,
            clip_norm,
            rank,
            scale,
            dropout,
            layers,
            keys,
            mask_prompt,
            max_sequence_length,
            max_tokens,
            seed,
        } = settings.clone();
        let dtype = match dtype {
            Some(name) => Some(dtype_named(&name).ok_or(UnknownDtype { name })?),
            None => None,
        };
        Ok(Self {
            // A fix may train anew what was finished before, and never the other way round.
            adapter: self.adapter.clone().filter(|_| adapter.is_some() || trained.is_some()),
            // A fix that leaves it out asks for the program's choice.
            backend: self.backend.filter(|_| backend.is_some()),
            cross_check: self.cross_check.clone().filter(|_| cross_check.is_some()),
            check_only,
            max_tokens,
            fine_tune,
            lora: LoraSettings {
                rank,
                scale: scale as f32,
                dropout: dropout as f32,
                layers,
                keys,
            },
            steps,
            batch_size,
            learning_rate,
            warmup_steps,
            clip_norm: clip_norm.map(|norm| norm as f32),
            bias_correction,
            mask_prompt,
            max_sequence_length,
            seed,
            precision: PrecisionChoice { dtype, keep_packed },
            ..self.clone()
        })
    }

    /// The same with everything that `stored` says of its training.
    pub(super) fn of_finished(&self, finished: &FinishedAdapter, stored: &StoredAdapter) -> Self {
        let stated = &stored.training;
        Self {
            fine_tune: match stored.kind {
                AdapterKind::Lora | AdapterKind::Dora => FineTuneKind::Lora,
                AdapterKind::Full => FineTuneKind::Full,
            },
            lora: stored.settings.clone(),
            steps: stated.steps.unwrap_or(self.steps),
            batch_size: stated.batch_size.filter(|&rows| rows > 0).unwrap_or(self.batch_size),
            learning_rate: stated.learning_rate.unwrap_or(self.learning_rate),
            mask_prompt: finished.mask_prompt.or(stated.mask_prompt).unwrap_or(self.mask_prompt),
            max_sequence_length: finished
                .max_sequence_length
                .or(stated.max_sequence_length.filter(|&tokens| tokens > 0))
                .unwrap_or(self.max_sequence_length),
            ..self.clone()
        }
    }

    /// Whether a whole model is judged, and no adapter.
    pub(super) fn is_whole_model(&self) -> bool {
        self.adapter.as_ref().is_some_and(|finished| finished.is_whole_model)
    }

    fn finished_name(&self, is_whole_model: bool) -> Option<String> {
        let finished = self.adapter.as_ref()?;
        (finished.is_whole_model == is_whole_model).then(|| finished.name.clone())
    }

    pub(super) fn training(&self) -> TrainSettings {
        TrainSettings {
            steps: self.steps,
            schedule: Schedule {
                warmup_steps: self.warmup_steps,
                ..Schedule::constant(self.learning_rate)
            },
            clip_norm: self.clip_norm,
        }
    }

    pub(super) fn optimizer(&self) -> AdamWSettings {
        AdamWSettings {
            bias_correction: self.bias_correction,
            ..AdamWSettings::default()
        }
    }
}
