//! What the program can be asked to do. The arguments of a command are beside it.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::bench::BenchArguments;
use super::compare_arguments::Compare;
use super::convert_arguments::Convert;
use super::diagnose_arguments::{DiagnoseArguments, OutputArguments};
use super::environment::EnvironmentArguments;
use super::fuse::FuseArguments;
use super::generate::GenerateArguments;
use super::launch::LaunchArguments;
use super::manual::ShellArgument;
use super::models::Models;
use super::selftest::SelftestArguments;
use super::serve::ServeArguments;
use super::train_arguments::Train;
use super::verification::VerificationArguments;

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
