use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use super::bench::BenchArguments;
use super::compare_arguments::Compare;
use super::generate::GenerateArguments;
use super::launch::LaunchArguments;
use super::serve::ServeArguments;
use super::train_arguments::Train;
use super::verification::VerificationArguments;
use crate::device::BackendKind;
use crate::evidence::RunSettings;
use crate::faults::Injection;
use crate::model::{MixedBits, QuantizationMode, WeightType};
use crate::report::FailOn;

/// Why does a fine-tuned MLX model answer badly? Runs five phases on a model and names the cause, with evidence and a fix.
///
/// Without arguments it diagnoses a tiny chat model that it carries itself.
///
/// Exit codes: 0 healthy; 1 findings at or above --fail-on, abnormal for an unknown cause, or moved from the baseline;
/// 2 could not complete.
#[derive(Debug, Parser)]
#[command(name = "diagnose", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// Something else than the five phases.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The five phases.
    #[command(flatten)]
    pub diagnose: DiagnoseArguments,
}

/// Everything beside the five phases.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Explain a rule: what it finds, why it matters, how to fix it
    Explain {
        /// Its name or code, for example `adapter-not-attached` or `ATTACH001`
        rule: String,
    },
    /// List the rules
    Rules {
        /// As a JSON array
        #[arg(long)]
        json: bool,
        /// Write a Markdown page for every rule, and an index, to this folder instead
        #[arg(long, value_name = "DIR", conflicts_with = "json")]
        docs: Option<PathBuf>,
    },
    /// Judge stored evidence again, without a model
    Replay {
        /// An evidence.json of an earlier run
        file: PathBuf,
        /// How to print the report and when to fail
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Measure this program: faults done on purpose must be found and named, healthy runs left in peace
    ///
    /// Exit codes: 0 every fault found and no error on a healthy run; 1 otherwise; 2 could not complete.
    Selftest(SelftestArguments),
    /// Measure how fast this program is here: loading, training, answering, memory, energy, and what its probes cost
    ///
    /// With --peers, PyTorch, Python mlx-lm and llama.cpp do the same work in turns with it.
    ///
    /// Exit codes: 0 what can be measured here was, and the rest is listed with its reason; 1 a figure got slower than in the
    /// baseline, beyond its noise, a promise to be faster than another program does not hold, or somebody did other work; 2 could
    /// not complete.
    Bench(BenchArguments),
    /// Compare a model in GGUF with the same one in MLX, through the servers that people use: memory, speed, stability
    #[command(subcommand)]
    Compare(Compare),
    /// Fine-tune a model, with the rule book watching
    #[command(subcommand)]
    Train(Train),
    /// Start several processes of this program that train together, here or on several machines
    Launch(LaunchArguments),
    /// Ask a model, with or without an adapter, or talk with it
    Generate(GenerateArguments),
    /// Serve a model and its adapters to programs that speak OpenAI's API
    ///
    /// Answers many requests at one time, at /v1/chat/completions, /v1/completions, /v1/models, /health and /metrics.
    /// The first Ctrl-C (or SIGTERM) lets running answers end, the second one cancels them.
    Serve(ServeArguments),
    /// Write the same thing in another program's format
    #[command(subcommand)]
    Convert(Convert),
    /// Write a model with a finished adapter fused into it
    Fuse(FuseArguments),
    /// List, locate and remove the models in the hub's cache
    #[command(subcommand)]
    Models(Models),
    /// Verify that this program and its MLX compute here what they should; or compute a single figure
    ///
    /// Everything that it needs is in the program: no file, no network, no Python. Less than a minute on a CPU.
    ///
    /// Exit codes: 0 every check that was made passed; 1 a check failed; 2 could not complete.
    Verify(VerificationArguments),
    /// Answer the jobs of a comparison
    #[command(hide = true)]
    BenchWorker,
    /// Describe this machine: chip, GPU, memory, and what would be chosen to compute with, and why
    Env(EnvironmentArguments),
    /// Print a shell's completions, to be sourced or put where the shell looks for them
    Completions {
        /// The shell
        #[arg(value_enum, value_name = "SHELL")]
        shell: ShellArgument,
    },
    /// Write the manual pages
    Man {
        /// A folder for them
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Options of the description of the machine.
#[derive(Debug, Args)]
pub struct EnvironmentArguments {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Where to compute [default: Metal or CUDA, then MLX on the CPU, then PyTorch, the first that works]
    #[arg(long, value_name = "B", value_enum)]
    pub backend: Option<BackendArgument>,
    /// Gigabytes that training is to leave free for the system and other programs
    #[arg(long, value_name = "GB", default_value_t = 8.0, value_parser = not_negative, allow_negative_numbers = true)]
    pub reserve: f64,
}

/// Shells that have completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ShellArgument {
    /// Bash
    Bash,
    /// Z shell
    Zsh,
    /// Fish
    Fish,
}

/// Options of the self-test.
#[derive(Debug, Args)]
pub struct SelftestArguments {
    /// List the faults and healthy controls, and run nothing
    #[arg(long, conflicts_with_all = ["quick", "full", "out", "only"])]
    pub list: bool,
    /// Every fault once and 32 healthy runs: minutes [default]
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// The whole design, with severities, pairs and longer runs: an hour
    #[arg(long)]
    pub full: bool,
    /// Folder for selftest.json, selftest.md, matrix.svg and the evidence of runs that went wrong
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Only these faults and healthy controls
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub only: Vec<String>,
}

/// What can be converted.
#[derive(Debug, Subcommand)]
pub enum Convert {
    /// A model of any format that is read, to a folder of mlx-lm
    Model(ConvertModelArguments),
    /// A finished adapter of mlx-lm, mlx-examples or PEFT
    Adapter {
        /// Its folder
        source: PathBuf,
        /// The format to write
        #[arg(long, value_enum, value_name = "FORMAT")]
        to: AdapterFormatArgument,
        /// A new folder for it
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Its base; for mlx-lm, so that the adapted blocks can be counted from the last
        #[arg(long, value_name = "DIR|FILE.gguf|HUB_ID")]
        model: Option<String>,
    },
}

/// Options of a model's conversion.
#[derive(Debug, Args)]
pub struct ConvertModelArguments {
    /// Model folder (safetensors, torch or npz), GGUF file or hub id
    #[arg(value_name = "DIR|FILE.gguf|HUB_ID")]
    pub source: String,
    /// A new folder for it
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Element type of plain weights [default: what config.json declares, else that of most weights]
    #[arg(long, value_name = "D", value_enum)]
    pub dtype: Option<DtypeArgument>,
    /// Pack weights in this many bits: 2, 3, 4, 5, 6 or 8 [default: 4, and 8 for mxfp8]
    #[arg(long, value_name = "N", conflicts_with = "quant_predicate")]
    pub bits: Option<i32>,
    /// Weights that share one scale: 32, 64 or 128 [default: 64, 32 for mxfp4 and mxfp8, 16 for nvfp4]
    #[arg(long, value_name = "N")]
    pub group_size: Option<i32>,
    /// How to pack [default: affine]
    #[arg(long, value_name = "MODE", value_enum)]
    pub mode: Option<ModeArgument>,
    /// Pack with more bits for the modules that matter most, by mlx-lm's recipe
    #[arg(long, value_name = "RECIPE", value_enum)]
    pub quant_predicate: Option<RecipeArgument>,
    /// Make packed weights plain
    #[arg(long, conflicts_with_all = ["bits", "group_size", "mode", "quant_predicate"])]
    pub dequantize: bool,
}

/// MLX's ways of packing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArgument {
    /// Integers with a scale and a bias per group
    Affine,
    /// Microscaling 4-bit floats
    Mxfp4,
    /// NVIDIA's 4-bit floats
    Nvfp4,
    /// Microscaling 8-bit floats
    Mxfp8,
}

impl From<ModeArgument> for QuantizationMode {
    fn from(argument: ModeArgument) -> Self {
        match argument {
            ModeArgument::Affine => Self::Affine,
            ModeArgument::Mxfp4 => Self::Mxfp4,
            ModeArgument::Nvfp4 => Self::Nvfp4,
            ModeArgument::Mxfp8 => Self::Mxfp8,
        }
    }
}

/// mlx-lm's recipes of mixed bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RecipeArgument {
    /// 2 bits, and 6 for what matters most
    #[value(name = "mixed_2_6")]
    Mixed2And6,
    /// 3 and 4
    #[value(name = "mixed_3_4")]
    Mixed3And4,
    /// 3 and 6
    #[value(name = "mixed_3_6")]
    Mixed3And6,
    /// 4 and 6
    #[value(name = "mixed_4_6")]
    Mixed4And6,
}

impl From<RecipeArgument> for MixedBits {
    fn from(argument: RecipeArgument) -> Self {
        match argument {
            RecipeArgument::Mixed2And6 => Self::TwoSix,
            RecipeArgument::Mixed3And4 => Self::ThreeFour,
            RecipeArgument::Mixed3And6 => Self::ThreeSix,
            RecipeArgument::Mixed4And6 => Self::FourSix,
        }
    }
}

/// Options of fusing.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("fused").required(true).args(["run", "adapter"]))]
pub struct FuseArguments {
    /// The folder of a run of `diagnose train`, which knows its base
    #[arg(conflicts_with_all = ["model", "adapter"])]
    pub run: Option<PathBuf>,
    /// The base: model folder, GGUF file or hub id
    #[arg(long, value_name = "DIR|FILE.gguf|HUB_ID", requires = "adapter")]
    pub model: Option<String>,
    /// The finished adapter: a folder of mlx-lm, mlx-examples or PEFT
    #[arg(long, value_name = "DIR", requires = "model")]
    pub adapter: Option<PathBuf>,
    /// A new folder for the fused model
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Make packed weights plain, so that nothing of the adapter is lost to rounding
    #[arg(long)]
    pub dequantize: bool,
}

/// What can be done with the models in the hub's cache.
#[derive(Debug, Subcommand)]
pub enum Models {
    /// List them with their sizes, and what is lacking of those that are not whole
    List {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Print the folder that a model is loaded from
    Locate {
        /// Its hub id
        #[arg(value_name = "HUB_ID")]
        name: String,
    },
    /// Remove a model, or one of its revisions; without --yes, say what that would remove
    Remove {
        /// Its hub id
        #[arg(value_name = "HUB_ID")]
        name: String,
        /// Only this commit or branch, with what no other revision shares
        #[arg(long, value_name = "REVISION")]
        revision: Option<String>,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

/// Formats of adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AdapterFormatArgument {
    /// mlx-lm's
    MlxLm,
    /// PEFT's
    Peft,
}

/// Figures for comparison with other programs.
#[derive(Debug, Subcommand)]
pub enum Verify {
    /// The logits of a row of token ids
    Logits {
        /// Folder or GGUF file
        #[arg(long)]
        model: PathBuf,
        /// Adapter folder of mlx-lm or PEFT
        #[arg(long)]
        adapter: Option<PathBuf>,
        /// Token ids, separated by commas
        #[arg(long, value_delimiter = ',', required = true)]
        ids: Vec<u32>,
        /// Where to write them, as JSON
        #[arg(long)]
        out: PathBuf,
    },
    /// The memory of a training step, as predicted and as MLX counts it, on rows of made-up tokens
    TrainingMemory(TrainingMemoryArguments),
}

/// Options of the measurement of a training step's memory.
#[derive(Debug, Args)]
pub struct TrainingMemoryArguments {
    /// Folder, GGUF file or hub id
    #[arg(long, value_name = "DIR|FILE.gguf|HUB_ID")]
    pub model: String,
    /// Rows per step
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one)]
    pub batch_size: usize,
    /// Tokens that are fed of each row
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_one)]
    pub sequence_length: usize,
    /// Tokens of each row that the loss counts, the last ones [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub supervised: Option<usize>,
    /// Rank of the adapters
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    pub rank: usize,
    /// Blocks to adapt, counted from the last [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one, conflicts_with = "full")]
    pub layers: Option<usize>,
    /// Modules to adapt [default: every linear layer of a block]
    #[arg(long, value_name = "PATH,...", value_delimiter = ',', conflicts_with = "full")]
    pub keys: Vec<String>,
    /// Train all weights instead of adapters
    #[arg(long)]
    pub full: bool,
}

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

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DtypeArgument {
    /// IEEE single precision
    Float32,
    /// The upper half of a single
    Bfloat16,
    /// IEEE half precision
    Float16,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendArgument {
    /// MLX on an Apple GPU
    Metal,
    /// MLX on an NVIDIA GPU
    Cuda,
    /// MLX on the processor
    Cpu,
    /// PyTorch on MPS, CUDA or the processor, by the python on the path or the one that `MLX_DIAGNOSE_PYTHON` names
    Torch,
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

impl From<BackendArgument> for BackendKind {
    fn from(argument: BackendArgument) -> Self {
        match argument {
            BackendArgument::Metal => Self::Metal,
            BackendArgument::Cuda => Self::Cuda,
            BackendArgument::Cpu => Self::Cpu,
            BackendArgument::Torch => Self::Torch,
        }
    }
}

impl From<DtypeArgument> for mlx_rs::Dtype {
    fn from(argument: DtypeArgument) -> Self {
        match argument {
            DtypeArgument::Float32 => Self::Float32,
            DtypeArgument::Bfloat16 => Self::Bfloat16,
            DtypeArgument::Float16 => Self::Float16,
        }
    }
}

impl From<DtypeArgument> for WeightType {
    fn from(argument: DtypeArgument) -> Self {
        match argument {
            DtypeArgument::Float32 => Self::Float32,
            DtypeArgument::Bfloat16 => Self::Bfloat16,
            DtypeArgument::Float16 => Self::Float16,
        }
    }
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("must be a whole number".to_owned()),
    }
}

fn number(text: &str, accepted: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // Everything is computed in f32 at most, where larger numbers are infinite.
        Ok(number) if (number as f32).is_finite() && accepted(number) => Ok(number),
        _ => Err(format!("must be {expected}")),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |number| number >= 0.0, "a finite number that is not negative")
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |number| number > 0.0, "a finite number above 0")
}

fn probability(text: &str) -> Result<f64, String> {
    number(
        text,
        |number| (0.0..1.0).contains(&number),
        "a number from 0 to below 1",
    )
}
