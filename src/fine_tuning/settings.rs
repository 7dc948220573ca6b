use std::path::PathBuf;

use serde_json::{Value, json};
use thiserror::Error;

use super::configuration::Configuration;
use super::settings_reader::SettingsReader;
use crate::adapter::LoraSettings;
use crate::as_written::as_written;
use crate::data::{BatchSettings, RecordKeys, RowOrder, Supervision};
use crate::device::BackendKind;
use crate::model::{Problems, TemplateChoice};
use crate::train::{Decay, DecayScope, OptimizerSettings, Schedule};

/// Bytes of what `memory_reserve_gb` counts.
pub(super) const GIGABYTE: f64 = 1e9;

/// What of a row is trained on, by name.
pub(super) const SUPERVISIONS: [(&str, Supervision); 3] = [
    ("all-tokens", Supervision::AllTokens),
    ("last-answer", Supervision::LastAnswer),
    ("every-answer", Supervision::EveryAnswer),
];

/// Orders of rows, by name.
const ROW_ORDERS: [(&str, RowOrder); 3] = [
    ("given", RowOrder::Given),
    ("shuffled", RowOrder::Shuffled),
    ("by-length", RowOrder::ByLength),
];

/// The name of a choice.
fn name_of<T: Copy + PartialEq>(named: &[(&'static str, T)], choice: T) -> &'static str {
    let found = named.iter().find(|(_, known)| *known == choice);
    found.map_or("", |(name, _)| name)
}

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Low-rank adapters on a frozen base.
    Lora,
    /// The same, and the magnitudes of the adapted weights' rows.
    Dora,
    /// All weights.
    Full,
}

impl Method {
    /// Every method, by its name in a configuration.
    pub const NAMED: [(&'static str, Self); 3] = [("lora", Self::Lora), ("dora", Self::Dora), ("full", Self::Full)];

    /// `lora`, `dora` or `full`.
    pub fn name(self) -> &'static str {
        name_of(&Self::NAMED, self)
    }
}

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RunLength {
    /// Passes over the data; may be a part of one.
    Epochs(f64),
    /// Batches, as mlx-lm counts: with gradient accumulation several make one update.
    Batches(usize),
}

/// The form of the learning rate's course.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScheduleShape {
    /// It stays after the warm-up.
    Constant,
    /// It falls along a line to its end at the end of the run.
    Linear,
    /// It falls along half a cosine to its end at the end of the run.
    Cosine,
    /// Its decay is given in updates.
    Given(Decay),
}

/// The learning rate's course before the length of the run is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleSettings {
    /// The form.
    pub shape: ScheduleShape,
    /// Updates of the warm-up.
    pub warmup_steps: usize,
    /// The same as a part of the run, in the place of a number.
    pub warmup_ratio: Option<f64>,
    /// What is left of the learning rate where a line or a cosine ends, as a part of it.
    pub end_ratio: f64,
    /// Learning rate that the warm-up begins with; `None` for one of its equal parts.
    pub warmup_init: Option<f64>,
}

impl ScheduleSettings {
    /// Updates of the warm-up in a run of `updates`.
    pub fn warmup_of(&self, updates: usize) -> usize {
        self.warmup_ratio
            .map_or(self.warmup_steps, |ratio| (ratio * updates as f64).round() as usize)
    }

    /// The course over a run of `updates`.
    pub fn of_run(&self, peak: f64, updates: usize) -> Schedule {
        let warmup_steps = self.warmup_of(updates);
        // The last update is the first at which nothing would be left to learn with.
        let steps = updates.saturating_sub(warmup_steps).max(1);
        let end = self.end_ratio * peak;
        Schedule {
            peak,
            warmup_steps,
            warmup_init: self.warmup_init,
            decay: match self.shape {
                ScheduleShape::Constant => Decay::Constant,
                ScheduleShape::Linear => Decay::Linear { steps, end },
                ScheduleShape::Cosine => Decay::Cosine { steps, end },
                ScheduleShape::Given(decay) => decay,
            },
        }
    }
}

/// Rows that are only measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Validation {
    /// Part of the rows that is held out where the data has no rows of its own for it.
    pub split: f64,
    /// Updates between two measurements.
    pub every: usize,
    /// Batches that are measured each time; `None` for all.
    pub batches: Option<usize>,
}

/// When a run ends before its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EarlyStopping {
    /// Measurements in a row that may be no better than the best one.
    pub patience: usize,
    /// Nats by which a loss has to be lower to be better.
    pub least_improvement: f64,
}

/// Everything a run is asked to do.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own in the configuration"
)]
pub struct FineTuneSettings {
    /// Folder, GGUF file or hub id.
    pub model: String,
    /// Folder or file.
    pub data: PathBuf,
    /// The folder that the run leaves.
    pub output: PathBuf,
    /// Names of the keys of a row.
    pub record_keys: RecordKeys,
    /// What is trained.
    pub method: Method,
    /// The adapters.
    pub lora: LoraSettings,
    /// A finished adapter to go on from.
    pub resume_adapter: Option<PathBuf>,
    /// The chat template to train and ask with.
    pub template: TemplateChoice,
    /// What of a row is trained on.
    pub supervision: Supervision,
    /// The order in which rows are taken.
    pub row_order: RowOrder,
    /// Whether several rows are laid end to end in one, each attending to itself only.
    pub packing: bool,
    /// Longest row in tokens.
    pub max_sequence_length: usize,
    /// How long the run is.
    pub length: RunLength,
    /// Rows of a batch.
    pub batch_size: usize,
    /// Batches of an update.
    pub accumulation: usize,
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// Its course.
    pub schedule: ScheduleSettings,
    /// The optimizer.
    pub optimizer: OptimizerSettings,
    /// What weight decay acts on.
    pub decay_scope: DecayScope,
    /// Gradient norm above which gradients are scaled down.
    pub clip_norm: Option<f32>,
    /// Rows that are only measured.
    pub validation: Validation,
    /// When the run ends before its end; `None` for never.
    pub early_stopping: Option<EarlyStopping>,
    /// Updates between two lines of progress.
    pub report_every: usize,
    /// Updates between two checkpoints.
    pub save_every: usize,
    /// Checkpoints that are kept, the newest ones.
    pub keep_checkpoints: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Element type to compute in; `None` for the backend's choice.
    pub dtype: Option<String>,
    /// The backend; `None` for the program's choice.
    pub backend: Option<BackendKind>,
    /// Keep packed weights packed on a CPU too.
    pub keep_packed: bool,
    /// Whether the activations of a block are computed again in the backward pass instead of kept.
    pub checkpoint_blocks: bool,
    /// Whether MLX compiles the loss and its gradients.
    pub compile: bool,
    /// Bytes of memory that are kept free for the system and other programs.
    pub memory_reserve: u64,
    /// Whether the rule book watches the run and ends it.
    pub guards: bool,
}

/// The settings cannot be used; everything that is wrong is listed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the settings of the run cannot be used ({} wrong)\n{problems}", problems.len())]
pub struct SettingsError {
    /// Every value that is wrong, with where it was given.
    pub problems: Problems,
}

impl FineTuneSettings {
    /// The settings that `configuration` gives, defaults filled in, and what was asked for and does not apply.
    ///
    /// # Errors
    /// Every value that is wrong, and every key that is unknown, at once.
    pub fn read(configuration: &Configuration) -> Result<(Self, Vec<String>), SettingsError> {
        let mut reader = SettingsReader::new(configuration);
        let settings = read_all(&mut reader);
        let (problems, notes) = reader.finish();
        if problems.is_empty() {
            Ok((settings, notes))
        } else {
            Err(SettingsError { problems })
        }
    }

    /// How rows become batches.
    pub fn batches(&self) -> BatchSettings {
        BatchSettings {
            batch_size: self.batch_size,
            order: self.row_order,
            seed: self.seed,
            pack_to: self.packing.then_some(self.max_sequence_length),
        }
    }

    /// Every setting under its key in a configuration, as a YAML or JSON table that [`Self::read`] takes back.
    pub fn to_json(&self) -> Value {
        let (layers, lora) = match self.method {
            // Nothing of adapters applies.
            Method::Full => (None, None),
            Method::Lora | Method::Dora => (
                Some(self.lora.layers.map_or(-1, |layers| layers as i64)),
                Some(lora_json(&self.lora)),
            ),
        };
        let mut table = json!({
            "model": self.model,
            "data": self.data,
            "adapter_path": self.output,
            "fine_tune_type": self.method.name(),
            "num_layers": layers,
            "lora_parameters": lora,
            "template": self.template.name(),
            "supervision": name_of(&SUPERVISIONS, self.supervision),
            "row_order": name_of(&ROW_ORDERS, self.row_order),
            "packing": self.packing,
            "max_seq_length": self.max_sequence_length,
            "batch_size": self.batch_size,
            "grad_accumulation_steps": self.accumulation,
            "learning_rate": self.learning_rate,
            "lr_schedule": schedule_json(&self.schedule, self.learning_rate),
            "optimizer": self.optimizer.name(),
            "optimizer_config": { self.optimizer.name(): self.optimizer.to_json() },
            "decay_matrices_only": self.decay_scope == DecayScope::Matrices,
            "validation_split": self.validation.split,
            "steps_per_eval": self.validation.every,
            "val_batches": self.validation.batches.map_or(-1, |batches| batches as i64),
            "steps_per_report": self.report_every,
            "save_every": self.save_every,
            "keep_checkpoints": self.keep_checkpoints,
            "seed": self.seed,
            "keep_packed": self.keep_packed,
            "grad_checkpoint": self.checkpoint_blocks,
            "compile": self.compile,
            "memory_reserve_gb": self.memory_reserve as f64 / GIGABYTE,
            "guards": self.guards,
        });
        let mut set = |key: &str, value: Value| table[key] = value;
        match self.length {
            RunLength::Epochs(epochs) => set("epochs", epochs.into()),
            RunLength::Batches(batches) => set("iters", batches.into()),
        }
        for (key, name) in [
            ("prompt_feature", &self.record_keys.prompt_feature),
            ("completion_feature", &self.record_keys.completion_feature),
            ("chat_feature", &self.record_keys.chat_feature),
            ("text_feature", &self.record_keys.text_feature),
        ] {
            table[key] = json!(name);
        }
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                table[key] = value;
            }
        };
        set(
            "resume_adapter_file",
            self.resume_adapter.as_ref().map(|path| json!(path)),
        );
        set("clip_norm", self.clip_norm.map(|norm| as_written(norm).into()));
        set("dtype", self.dtype.as_ref().map(|dtype| json!(dtype)));
        set("backend", self.backend.map(|backend| json!(backend.name())));
        set(
            "early_stopping",
            self.early_stopping.map(
                |stopping| json!({"patience": stopping.patience, "least_improvement": stopping.least_improvement}),
            ),
        );
        if let Some(table) = table.as_object_mut() {
            table.retain(|_, value| !value.is_null());
        }
        table
    }
}

fn lora_json(lora: &LoraSettings) -> Value {
    let mut table = json!({
        "rank": lora.rank,
        "scale": as_written(lora.scale),
        "dropout": as_written(lora.dropout),
    });
    if !lora.keys.is_empty() {
        table["keys"] = json!(lora.keys);
    }
    table
}

fn schedule_json(schedule: &ScheduleSettings, peak: f64) -> Value {
    let (name, arguments) = match schedule.shape {
        ScheduleShape::Constant | ScheduleShape::Given(Decay::Constant) => ("constant", None),
        ScheduleShape::Linear => ("linear", None),
        ScheduleShape::Cosine => ("cosine", None),
        ScheduleShape::Given(Decay::Cosine { steps, end }) => ("cosine_decay", Some(json!([peak, steps, end]))),
        ScheduleShape::Given(Decay::Linear { steps, end }) => ("linear_schedule", Some(json!([peak, end, steps]))),
        ScheduleShape::Given(Decay::Exponential { factor }) => ("exponential_decay", Some(json!([peak, factor]))),
        ScheduleShape::Given(Decay::Steps { factor, every }) => ("step_decay", Some(json!([peak, factor, every]))),
    };
    let mut table = json!({"name": name});
    match schedule.warmup_ratio {
        Some(ratio) => table["warmup_ratio"] = ratio.into(),
        None => table["warmup"] = schedule.warmup_steps.into(),
    }
    if schedule.end_ratio != 0.0 {
        table["end_ratio"] = schedule.end_ratio.into();
    }
    if let Some(arguments) = arguments {
        table["arguments"] = arguments;
    }
    if let Some(init) = schedule.warmup_init {
        table["warmup_init"] = init.into();
    }
    table
}

fn read_all(reader: &mut SettingsReader<'_>) -> FineTuneSettings {
    let learning_rate = reader.learning_rate();
    let method = reader.choice("fine_tune_type", &Method::NAMED).unwrap_or(Method::Lora);
    let settings = FineTuneSettings {
        model: reader.text("model").unwrap_or_default(),
        data: reader.text("data").unwrap_or_default().into(),
        output: reader
            .text("adapter_path")
            .unwrap_or_else(|| "fine-tuned".to_owned())
            .into(),
        record_keys: reader.record_keys(),
        method,
        lora: reader.lora(),
        resume_adapter: reader.resume_adapter(method),
        template: reader.template(),
        supervision: reader.supervision(),
        row_order: reader.choice("row_order", &ROW_ORDERS).unwrap_or(RowOrder::Shuffled),
        packing: reader.switch("packing").unwrap_or(false),
        max_sequence_length: reader.size("max_seq_length").unwrap_or(2048),
        length: reader.length(),
        batch_size: reader.size("batch_size").unwrap_or(4),
        accumulation: reader.size("grad_accumulation_steps").unwrap_or(1),
        learning_rate,
        schedule: reader.schedule(learning_rate),
        optimizer: reader.optimizer(),
        decay_scope: match reader.switch("decay_matrices_only") {
            Some(false) => DecayScope::Everything,
            _ => DecayScope::Matrices,
        },
        clip_norm: reader.positive("clip_norm").map(|norm| norm as f32),
        validation: reader.validation(),
        early_stopping: reader.early_stopping(),
        report_every: reader.size("steps_per_report").unwrap_or(10),
        save_every: reader.size("save_every").unwrap_or(100),
        keep_checkpoints: reader.size("keep_checkpoints").unwrap_or(2),
        seed: reader.seed(),
        dtype: reader.dtype(),
        backend: reader.backend(),
        keep_packed: reader.switch("keep_packed").unwrap_or(false),
        checkpoint_blocks: reader.switch("grad_checkpoint").unwrap_or(false),
        compile: reader.switch("compile").unwrap_or(false),
        memory_reserve: reader.memory_reserve(),
        guards: reader.switch("guards").unwrap_or(true),
    };
    reader.required("model");
    reader.required("data");
    reader.without_effect();
    if method == Method::Full {
        reader.without_adapters();
    }
    reader.unknown_keys();
    settings
}
