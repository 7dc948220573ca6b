use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::compare::Format;

/// What is compared.
#[derive(Debug, Subcommand)]
pub enum Compare {
    /// Run every scenario of a plan with both formats of every pair
    ///
    /// Without --config, SmolLM2-135M-Instruct is compared: its GGUF file, which scripts/fetch-smollm2 fetches, by llama.cpp's
    /// server, and a folder of the same weights for MLX by this program's `serve`.
    ///
    /// Exit codes: 0 everything was measured; 1 something leaks; 2 something could not be measured.
    Run(RunArguments),
    /// Run one scenario with one format of one pair
    Single(SingleArguments),
    /// Judge results again, and write their report anew, without measuring anything
    Analyze {
        /// The folder of one comparison
        #[arg(value_name = "RESULTS_DIR")]
        results: PathBuf,
    },
}

/// Where a plan comes from.
#[derive(Debug, Clone, Args)]
pub struct PlanArguments {
    /// YAML file with pairs of models, scenarios, repeats and limits, such as config/compare.yaml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// GGUF file to compare when there is no --config [default: models/SmolLM2-135M-Instruct.Q4_1.gguf]
    #[arg(long, value_name = "FILE.gguf", conflicts_with = "config")]
    pub gguf: Option<PathBuf>,
    /// Folder of the same weights for MLX [default: one that this program makes of the GGUF file, once]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub mlx: Option<PathBuf>,
    /// Folder in which each comparison gets a folder named after its time [default: what the plan says, or results]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Say what happens while it happens
    #[arg(long, short)]
    pub verbose: bool,
}

/// Options of a whole comparison.
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// Where the plan comes from
    #[command(flatten)]
    pub plan: PlanArguments,
    /// Only these scenarios of the plan
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub only: Vec<String>,
    /// How often each scenario is run with each format
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Measured requests of a test
    #[arg(long, value_name = "N")]
    pub repeats: Option<usize>,
    /// Folder of a comparison that was ended early: run what it lacks, by its own plan
    #[arg(long, value_name = "RESULTS_DIR", conflicts_with_all = ["config", "gguf", "mlx", "output_dir", "only", "rounds", "repeats"])]
    pub resume: Option<PathBuf>,
}

/// Options of one test.
#[derive(Debug, Clone, Args)]
pub struct SingleArguments {
    /// Name of a pair of the plan
    #[arg(value_name = "MODEL_ID")]
    pub model: String,
    /// `gguf` or `mlx`
    #[arg(value_name = "FORMAT", value_parser = format)]
    pub format: Format,
    /// Name of a scenario
    #[arg(value_name = "SCENARIO")]
    pub scenario: String,
    /// Where the plan comes from
    #[command(flatten)]
    pub plan: PlanArguments,
}

fn format(text: &str) -> Result<Format, String> {
    let found = Format::ALL
        .into_iter()
        .find(|format| format.name() == text.to_lowercase());
    found.ok_or_else(|| "must be gguf or mlx".to_owned())
}
