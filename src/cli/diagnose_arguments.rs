//! Arguments of the five phases.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::bounded_numbers::{at_least_one, not_negative, positive, probability};
use super::device_arguments::{BackendArgument, DtypeArgument};
use crate::evidence::RunSettings;
use crate::faults::Injection;
use crate::report::FailOn;

/// Options of the five phases.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own on the command line"
)]
pub struct DiagnoseArguments {
    /// Model folder, GGUF file or hub id [default: a tiny model carried by the program]
    #[arg(long, value_name = "DIR|FILE.gguf|HUB_ID")]
    pub model: Option<String>,
    /// Training data: a .jsonl or .json file, or a folder with train.jsonl [default: two rows carried by the program]
    #[arg(long, value_name = "DIR|FILE")]
    pub data: Option<PathBuf>,
    /// A finished adapter to judge instead of training one: a folder of mlx-lm or PEFT
    #[arg(long, value_name = "DIR", requires_all = ["model", "data"], conflicts_with_all = [
        "steps", "batch_size", "learning_rate", "warmup_steps", "clip_norm", "bias_correction", "full", "rank", "scale",
        "dropout", "layers", "keys", "inject", "apply_fix",
    ])]
    pub adapter: Option<PathBuf>,
    /// A finished model to judge instead of training one: a folder of whole weights, fused or trained
    #[arg(long, value_name = "DIR", requires_all = ["model", "data"], conflicts_with_all = [
        "adapter", "trainer", "steps", "batch_size", "learning_rate", "warmup_steps", "clip_norm", "bias_correction", "full",
        "rank", "scale", "dropout", "layers", "keys", "inject", "apply_fix", "keep_packed",
    ])]
    pub trained: Option<PathBuf>,
    /// The program that trains: `mlx-lm`, `peft`, or a command for `sh` with `{model}`, `{data}`, `{output}`, `{steps}`,
    /// `{learning_rate}`, `{rank}`, `{scale}`, `{dropout}`, `{layers}`, `{seed}`, `{batch_size}` and `{max_seq_length}`
    /// [default: this one]
    #[arg(long, value_name = "NAME|COMMAND", requires = "data", conflicts_with_all = ["adapter", "full", "inject", "apply_fix", "keys", "warmup_steps", "clip_norm", "bias_correction"])]
    pub trainer: Option<String>,
    /// Seconds that the trainer may take
    #[arg(long, value_name = "N", default_value_t = 3600, requires = "trainer", value_parser = at_least_one, allow_negative_numbers = true)]
    pub trainer_timeout: usize,
    /// A program that answers beside this one's engine: `mlx-lm`, a command for `sh` with `{model}`, `{adapter}`, `{prompt}`
    /// and `{max_tokens}`, or the address of a server that speaks OpenAI's API
    #[arg(long, value_name = "NAME|COMMAND|URL", value_parser = clap::builder::NonEmptyStringValueParser::new(), conflicts_with_all = ["full", "inject", "apply_fix", "check_only"])]
    pub generator: Option<String>,
    /// The model to ask a server for [default: the one that it was started with]
    #[arg(long, value_name = "NAME", requires = "generator")]
    pub generator_model: Option<String>,
    /// Seconds that the generator may take for an answer
    #[arg(long, value_name = "N", default_value_t = 600, requires = "generator", value_parser = at_least_one, allow_negative_numbers = true)]
    pub generator_timeout: usize,
    /// What its trainer wrote: the output of mlx-lm or transformers, `trainer_state.json`, JSON lines or CSV, or a folder with the
    /// records of each of several processes; judged alone where nothing else is given
    #[arg(long, value_name = "FILE|DIR")]
    pub log: Option<PathBuf>,
    /// File with one prompt on each line [default: two general questions and the first two of the data]
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = RunSettings::default().max_tokens, value_parser = at_least_one, allow_negative_numbers = true)]
    pub max_tokens: usize,
    /// Optimizer steps
    #[arg(long, value_name = "N", default_value_t = RunSettings::default().steps, value_parser = at_least_one, allow_negative_numbers = true)]
    pub steps: usize,
    /// Rows per step
    #[arg(long, value_name = "N", default_value_t = RunSettings::default().batch_size, value_parser = at_least_one, allow_negative_numbers = true)]
    pub batch_size: usize,
    /// Peak learning rate
    #[arg(long, value_name = "F", default_value_t = RunSettings::default().learning_rate, value_parser = not_negative, allow_negative_numbers = true)]
    pub learning_rate: f64,
    /// Steps over which the learning rate rises to its peak
    #[arg(long, value_name = "N", default_value_t = RunSettings::default().warmup_steps)]
    pub warmup_steps: usize,
    /// Scale gradients down to this norm [default: no clipping, as mlx-lm]
    #[arg(long, value_name = "F", value_parser = positive, allow_negative_numbers = true)]
    pub clip_norm: Option<f64>,
    /// Correct Adam's moments for their start at zero (MLX's default is not to)
    #[arg(long)]
    pub bias_correction: bool,
    /// Train all weights instead of adapters
    #[arg(long, conflicts_with_all = ["rank", "scale", "dropout", "layers", "keys"])]
    pub full: bool,
    /// Rank of the adapters
    #[arg(long, value_name = "N", default_value_t = RunSettings::default().rank, value_parser = at_least_one, allow_negative_numbers = true)]
    pub rank: usize,
    /// Factor on the adapters' output, as mlx-lm's `scale`
    #[arg(long, value_name = "F", default_value_t = RunSettings::default().scale, value_parser = not_negative, allow_negative_numbers = true)]
    pub scale: f64,
    /// Dropout on the adapters' input, 0 to below 1
    #[arg(long, value_name = "F", default_value_t = RunSettings::default().dropout, value_parser = probability, allow_negative_numbers = true)]
    pub dropout: f64,
    /// Blocks to adapt, counted from the last [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    pub layers: Option<usize>,
    /// Modules to adapt, for example `self_attn.q_proj,self_attn.v_proj` [default: every linear layer of a block]
    #[arg(long, value_name = "PATH,...", value_delimiter = ',')]
    pub keys: Vec<String>,
    /// Train on prompts too, as mlx-lm does without --mask-prompt
    #[arg(long)]
    pub no_mask_prompt: bool,
    /// Longest row in tokens; longer rows are cut [default: 512, or what the finished adapter was trained with]
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    pub max_seq_length: Option<usize>,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = RunSettings::default().seed)]
    pub seed: u64,
    /// Element type to compute in [default: float32 on a CPU, the checkpoint's on a GPU]
    #[arg(long, value_name = "D", value_enum)]
    pub dtype: Option<DtypeArgument>,
    /// Keep packed weights packed on a CPU too
    #[arg(long)]
    pub keep_packed: bool,
    /// Where to compute [default: Metal or CUDA, then MLX on the CPU, then PyTorch, the first that works]
    #[arg(long, value_name = "B", value_enum)]
    pub backend: Option<BackendArgument>,
    /// Compute the logits, loss and gradients of the first batch with another backend too, and compare
    #[arg(long, value_name = "BACKEND", value_enum)]
    pub cross_check: Option<CrossCheckArgument>,
    /// Judge files and data, and stop before the first phase
    #[arg(long)]
    pub check_only: bool,
    /// Do one thing wrongly on purpose, to see it found; a fault's name, or NAME=SEVERITY
    #[arg(long, value_name = "FAULT")]
    pub inject: Option<Injection>,
    /// Run again with the fix of the worst finding, where it can be applied without help
    #[arg(long, conflicts_with_all = ["check_only", "baseline", "save_baseline"])]
    pub apply_fix: bool,
    /// Where the report goes
    #[command(flatten)]
    pub output: OutputArguments,
    /// Store what was measured, for later runs to compare with
    #[arg(long, value_name = "FILE", conflicts_with = "baseline")]
    pub save_baseline: Option<PathBuf>,
    /// Folder for report.html, report.json, report.md, evidence.json and the trained adapter
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// How a report is printed and when it fails the run.
#[derive(Debug, Clone, Args)]
pub struct OutputArguments {
    /// Format on standard output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// From which severity on findings exit with 1
    #[arg(long, value_enum, default_value_t = FailOnArgument::Error)]
    pub fail_on: FailOnArgument,
    /// Compare with what an earlier run of the same kind stored, and exit with 1 if something moved
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
}

/// Backends that compute the same for comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CrossCheckArgument {
    /// PyTorch with transformers, by the python on the path or the one that `MLX_DIAGNOSE_PYTHON` names
    Torch,
}

/// Formats of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a terminal
    Text,
    /// For programs
    Json,
    /// For issues and notes
    Markdown,
    /// For a browser: one page with curves and a map of the updates
    Html,
    /// For test reports: XML with a test case for each rule
    Junit,
    /// For GitHub Actions: annotations of the workflow
    Github,
}

impl Format {
    /// Whether two reports in a row are no document of this format.
    pub fn is_one_document(self) -> bool {
        match self {
            Self::Json | Self::Html | Self::Junit => true,
            Self::Text | Self::Markdown | Self::Github => false,
        }
    }
}

/// Severities that fail a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOnArgument {
    /// Errors
    Error,
    /// Warnings too
    Warning,
    /// Nothing
    Never,
}

impl From<FailOnArgument> for FailOn {
    fn from(argument: FailOnArgument) -> Self {
        match argument {
            FailOnArgument::Error => Self::Error,
            FailOnArgument::Warning => Self::Warning,
            FailOnArgument::Never => Self::Never,
        }
    }
}
