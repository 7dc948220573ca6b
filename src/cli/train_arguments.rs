use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::fine_tuning::{Configuration, Origin};
use crate::yaml;

/// Examples behind the long help.
const EXAMPLES: &str = "Examples:
  A first try, a minute or two:
    diagnose train quick models/SmolLM2-135M-Instruct data/
  A whole run, its settings on the command line:
    diagnose train start models/SmolLM2-135M-Instruct data/ --profile chat --epochs 5 --lora-rank 16 --out pirate
  The same from a file, which mlx-lm's configurations are too, checked first:
    diagnose train validate configs/production.yml
    diagnose train start --config configs/production.yml
  Going on after Ctrl-C or a loss of power, and asking the result:
    diagnose train resume pirate
    diagnose generate pirate";

/// What to do about training.
#[derive(Debug, Subcommand)]
#[command(after_long_help = EXAMPLES)]
pub enum Train {
    /// Fine-tune with few updates and settings that suit most data, to see whether it works
    #[command(after_long_help = EXAMPLES)]
    Quick {
        /// Model folder, GGUF file or hub id
        model: String,
        /// Training data: a file, or a folder with train.jsonl
        data: PathBuf,
        /// A new folder for the run
        #[arg(long, value_name = "DIR", default_value = "fine-tuned")]
        out: PathBuf,
    },
    /// Fine-tune
    #[command(after_long_help = EXAMPLES)]
    Start(Box<StartArguments>),
    /// Check a configuration file, the data and the model it names, and train nothing
    Validate {
        /// A YAML file of this program or of mlx-lm
        config: PathBuf,
    },
    /// Go on with a run that was ended
    Resume {
        /// The folder of the run
        folder: PathBuf,
    },
}

/// Settings of a run. Those given here go before those of a file, and those of a file before those of a profile.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own on the command line"
)]
pub struct StartArguments {
    /// Model folder, GGUF file or hub id
    pub model: Option<String>,
    /// Training data: a file, or a folder with train.jsonl
    pub data: Option<PathBuf>,
    /// A YAML file with settings, as mlx-lm's
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Settings for a purpose: `chat`, `instruct`, `code` or `creative`
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// A new folder for the run [default: fine-tuned]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Chat template to train with: `chatml`, `llama3`, `mistral`, `alpaca` or `plain` [default: the model's own]
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    /// Passes over the data [default: 3]
    #[arg(long, value_name = "N", conflicts_with = "iters")]
    pub epochs: Option<f64>,
    /// Batches in all, in the place of passes
    #[arg(long, value_name = "N")]
    pub iters: Option<usize>,
    /// Rows of a batch [default: 4]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Batches that make one update together [default: 1]
    #[arg(long, value_name = "N")]
    pub grad_accumulation_steps: Option<usize>,
    /// What is trained: `lora`, `dora` or `full` [default: lora]
    #[arg(long, value_name = "NAME")]
    pub fine_tune_type: Option<String>,
    /// Rank of the adapters [default: 8]
    #[arg(long, value_name = "N")]
    pub lora_rank: Option<usize>,
    /// Factor on the adapters' output, not divided by the rank [default: 20]
    #[arg(long, value_name = "F", conflicts_with = "lora_alpha")]
    pub lora_scale: Option<f64>,
    /// The same as PEFT gives it, divided by the rank
    #[arg(long, value_name = "F")]
    pub lora_alpha: Option<f64>,
    /// Divide `--lora-alpha` by the root of the rank (rsLoRA)
    #[arg(long, requires = "lora_alpha")]
    pub rank_stabilised: bool,
    /// Part of the adapters' input that is dropped while training [default: 0]
    #[arg(long, value_name = "F")]
    pub lora_dropout: Option<f64>,
    /// Layers that get adapters, for example `self_attn.q_proj` [default: all linear layers]
    #[arg(long, value_name = "KEY,...", value_delimiter = ',')]
    pub lora_keys: Vec<String>,
    /// Blocks that are adapted, counted from the last; -1 for all [default: -1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub num_layers: Option<i64>,
    /// Learning rate after the warm-up [default: 1e-4]
    #[arg(long, value_name = "F")]
    pub learning_rate: Option<f64>,
    /// Its course: `constant`, `linear` or `cosine` [default: constant]
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<String>,
    /// Updates of the warm-up [default: 0]
    #[arg(long, value_name = "N")]
    pub warmup_steps: Option<usize>,
    /// `adam`, `adamw`, `sgd`, `adafactor`, `lion` or `muon` [default: adamw]
    #[arg(long, value_name = "NAME")]
    pub optimizer: Option<String>,
    /// Factor of weight decay [default: the optimizer's]
    #[arg(long, value_name = "F")]
    pub weight_decay: Option<f64>,
    /// Gradient norm above which gradients are scaled down [default: none]
    #[arg(long, value_name = "F")]
    pub clip_norm: Option<f64>,
    /// Longest row in tokens; longer rows are cut [default: 2048]
    #[arg(long, value_name = "N")]
    pub max_seq_length: Option<usize>,
    /// What of a row is trained on: `last-answer`, `every-answer` or `all-tokens` [default: the first]
    #[arg(long, value_name = "NAME")]
    pub supervision: Option<String>,
    /// The order of the rows: `shuffled`, `by-length` (rows of like lengths together) or `given` [default: shuffled]
    #[arg(long, value_name = "NAME")]
    pub row_order: Option<String>,
    /// Lay several rows end to end in one of at most `--max-seq-length` tokens, each attending to itself only
    #[arg(long)]
    pub packing: bool,
    /// Part of the rows that is held out where the data has none for validation [default: 0.1]
    #[arg(long, value_name = "F")]
    pub validation_split: Option<f64>,
    /// Updates between two measurements of held-out rows [default: 50]
    #[arg(long, value_name = "N")]
    pub steps_per_eval: Option<usize>,
    /// Batches that are measured each time; -1 for all [default: 25]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub val_batches: Option<i64>,
    /// End after so many measurements that are no better than the best, and keep the best
    #[arg(long, value_name = "N")]
    pub patience: Option<usize>,
    /// Updates between two lines of progress [default: 10]
    #[arg(long, value_name = "N")]
    pub steps_per_report: Option<usize>,
    /// Updates between two checkpoints [default: 100]
    #[arg(long, value_name = "N")]
    pub save_every: Option<usize>,
    /// A finished adapter of mlx-lm to go on from
    #[arg(long, value_name = "DIR")]
    pub resume_adapter: Option<PathBuf>,
    /// Seed of everything random [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// `float32`, `bfloat16` or `float16` [default: the backend's choice]
    #[arg(long, value_name = "NAME")]
    pub dtype: Option<String>,
    /// `metal`, `cuda` or `cpu` [default: the best that works]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Keep packed weights packed on a CPU too, where that is slow
    #[arg(long)]
    pub keep_packed: bool,
    /// Compute activations again in the backward pass instead of keeping them: slower, in less memory
    #[arg(long)]
    pub grad_checkpoint: bool,
    /// Let MLX compile the loss and its gradients, once for every shape of a batch; needs a C++ compiler on a CPU
    #[arg(long, conflicts_with = "grad_checkpoint")]
    pub compile: bool,
    /// Do not let the rule book judge the inputs first and watch the run
    #[arg(long)]
    pub no_guards: bool,
}

impl StartArguments {
    /// What was typed, by the keys of a configuration.
    pub fn configuration(&self) -> Configuration {
        let mut typed = Configuration::default();
        let mut set = |key: &str, option: &str, value: Value| {
            typed.set(key, value, Origin::Option(option.to_owned()));
        };
        set("model", "MODEL", json!(self.model));
        set("data", "DATA", json!(self.data));
        set("adapter_path", "--out", json!(self.out));
        set("template", "--template", json!(self.template));
        set("epochs", "--epochs", json!(self.epochs.map(yaml::number)));
        set("iters", "--iters", json!(self.iters));
        set("batch_size", "--batch-size", json!(self.batch_size));
        set(
            "grad_accumulation_steps",
            "--grad-accumulation-steps",
            json!(self.grad_accumulation_steps),
        );
        set("fine_tune_type", "--fine-tune-type", json!(self.fine_tune_type));
        set("lora_parameters.rank", "--lora-rank", json!(self.lora_rank));
        set(
            "lora_parameters.scale",
            "--lora-scale",
            json!(self.lora_scale.map(yaml::number)),
        );
        set(
            "lora_parameters.alpha",
            "--lora-alpha",
            json!(self.lora_alpha.map(yaml::number)),
        );
        set(
            "lora_parameters.dropout",
            "--lora-dropout",
            json!(self.lora_dropout.map(yaml::number)),
        );
        set("num_layers", "--num-layers", json!(self.num_layers));
        set(
            "learning_rate",
            "--learning-rate",
            json!(self.learning_rate.map(yaml::number)),
        );
        set("lr_schedule", "--schedule", json!(self.schedule));
        set("warmup_steps", "--warmup-steps", json!(self.warmup_steps));
        set("optimizer", "--optimizer", json!(self.optimizer));
        set(
            "weight_decay",
            "--weight-decay",
            json!(self.weight_decay.map(yaml::number)),
        );
        set("clip_norm", "--clip-norm", json!(self.clip_norm.map(yaml::number)));
        set("max_seq_length", "--max-seq-length", json!(self.max_seq_length));
        set("supervision", "--supervision", json!(self.supervision));
        set("row_order", "--row-order", json!(self.row_order));
        set(
            "validation_split",
            "--validation-split",
            json!(self.validation_split.map(yaml::number)),
        );
        set("steps_per_eval", "--steps-per-eval", json!(self.steps_per_eval));
        set("val_batches", "--val-batches", json!(self.val_batches));
        set("early_stopping.patience", "--patience", json!(self.patience));
        set("steps_per_report", "--steps-per-report", json!(self.steps_per_report));
        set("save_every", "--save-every", json!(self.save_every));
        set("resume_adapter_file", "--resume-adapter", json!(self.resume_adapter));
        set("seed", "--seed", json!(self.seed));
        set("dtype", "--dtype", json!(self.dtype));
        set("backend", "--backend", json!(self.backend));
        if !self.lora_keys.is_empty() {
            set("lora_parameters.keys", "--lora-keys", json!(self.lora_keys));
        }
        for (key, option, given, value) in [
            (
                "lora_parameters.rank_stabilised",
                "--rank-stabilised",
                self.rank_stabilised,
                true,
            ),
            ("packing", "--packing", self.packing, true),
            ("keep_packed", "--keep-packed", self.keep_packed, true),
            ("grad_checkpoint", "--grad-checkpoint", self.grad_checkpoint, true),
            ("compile", "--compile", self.compile, true),
            ("guards", "--no-guards", self.no_guards, false),
        ] {
            if given {
                set(key, option, json!(value));
            }
        }
        typed
    }
}
