use serde::{Deserialize, Serialize};

/// The machine and the libraries a run used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunEnvironment {
    /// Version of this program.
    pub tool_version: String,
    /// Version of the MLX library that is linked.
    pub mlx_version: String,
    /// Operating system and processor, for example `linux x86_64`.
    pub platform: String,
    /// `cpu`, `metal`, `cuda` or `torch`.
    pub backend: String,
    /// The device as a person would name it, for example `CPU, 2 cores`.
    pub device: String,
    /// Element type that products are computed in: `float32`, `bfloat16` or `float16`.
    pub dtype: String,
    /// Whether quantised weights stay packed during the run.
    pub packed: bool,
    /// Why this device, dtype and packing were chosen, and what of the model's files is treated in a way of its own, one
    /// sentence each.
    pub reasons: Vec<String>,
}

/// What kind of fine-tuning was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FineTuneKind {
    /// Low-rank adapters on a frozen base.
    Lora,
    /// All weights.
    Full,
}

/// What the run was asked to do, with every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own on the command line"
)]
pub struct RunSettings {
    /// The model as given: a folder, a file, a hub id, or `embedded`.
    pub model: String,
    /// The data as given, or `embedded`.
    pub data: String,
    /// The folder of the finished adapter as given; `None` when one is trained here.
    pub adapter: Option<String>,
    /// The folder of the finished model as given, whole weights instead of an adapter; `None` without one.
    pub trained: Option<String>,
    /// The trainer that is called: `mlx-lm`, `peft`, or a command; `None` for this program's own.
    pub trainer: Option<String>,
    /// The generator that is asked beside the engine: `mlx-lm`, a command, or an address; `None` for the engine alone.
    pub generator: Option<String>,
    /// The log of its training as given; `None` without one.
    pub log: Option<String>,
    /// The file of prompts as given; `None` for the program's own prompts.
    pub prompts: Option<String>,
    /// The element type that was asked for; `None` for the program's choice.
    pub dtype: Option<String>,
    /// The backend that was asked for: `cpu`, `metal`, `cuda` or `torch`; `None` for the program's choice.
    pub backend: Option<String>,
    /// The backend that was asked to compute the same; `None` for none.
    pub cross_check: Option<String>,
    /// Whether packed weights were to stay packed on a CPU too.
    pub keep_packed: bool,
    /// Whether the run was to end before the first phase, after files and data were judged.
    pub check_only: bool,
    /// Adapters or all weights.
    pub fine_tune: FineTuneKind,
    /// Optimizer steps requested.
    pub steps: usize,
    /// Rows per step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Whether the optimizer corrects its moments' start at zero (MLX's default is not to).
    pub bias_correction: bool,
    /// Steps over which the learning rate rises from zero to its peak.
    pub warmup_steps: usize,
    /// Gradient norm above which gradients are scaled down; `None` for no clipping.
    pub clip_norm: Option<f64>,
    /// Rank of the adapters.
    pub rank: usize,
    /// Factor on the adapters' output, as mlx-lm uses it (not divided by the rank).
    pub scale: f64,
    /// Dropout probability on the adapters' input.
    pub dropout: f64,
    /// Number of blocks adapted, counted from the last; `None` for all.
    pub layers: Option<usize>,
    /// Module paths adapted within a block; empty for every linear layer.
    pub keys: Vec<String>,
    /// Whether prompts carry no loss.
    pub mask_prompt: bool,
    /// Longest row in tokens; longer rows are cut.
    pub max_sequence_length: usize,
    /// Longest answer in tokens.
    pub max_tokens: usize,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for RunSettings {
    /// What a run does when nothing is set.
    fn default() -> Self {
        Self {
            model: Self::EMBEDDED.to_owned(),
            data: Self::EMBEDDED.to_owned(),
            adapter: None,
            trained: None,
            trainer: None,
            generator: None,
            log: None,
            prompts: None,
            dtype: None,
            backend: None,
            cross_check: None,
            keep_packed: false,
            check_only: false,
            fine_tune: FineTuneKind::Lora,
            steps: 10,
            batch_size: 4,
            learning_rate: 1e-4,
            bias_correction: false,
            warmup_steps: 0,
            clip_norm: None,
            rank: 8,
            scale: 20.0,
            dropout: 0.0,
            layers: None,
            keys: Vec::new(),
            mask_prompt: true,
            max_sequence_length: 512,
            max_tokens: 64,
            seed: 0,
        }
    }
}

impl RunSettings {
    /// What a model or data set is called that the program carries itself.
    pub const EMBEDDED: &str = "embedded";

    /// Whether nothing but the log of a training was given.
    pub fn is_log_alone(&self) -> bool {
        self.log.is_some() && !self.is_finished()
    }

    /// Whether no phase was to run.
    pub fn judges_only_inputs(&self) -> bool {
        self.check_only || self.is_log_alone()
    }

    /// Whether what is judged was trained before, and nothing is trained in this run.
    pub fn is_finished(&self) -> bool {
        self.adapter.is_some() || self.trained.is_some()
    }

    /// Whether the adapter that is judged was trained by another program, or before.
    pub fn is_trained_elsewhere(&self) -> bool {
        self.is_finished() || self.trainer.is_some()
    }
}
