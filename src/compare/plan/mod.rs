//! What is compared, and how.

mod built_in;
mod check;
mod configuration;
mod defaults;
mod document;
mod presence;
mod problem;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use configuration::{ConfigurationError, ConfiguredPlan};
pub use problem::{PlanProblem, PlanProblems};

/// The two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// llama.cpp's.
    Gguf,
    /// Weights as MLX reads them.
    Mlx,
}

impl Format {
    /// Both, in the order of tables.
    pub const ALL: [Self; 2] = [Self::Gguf, Self::Mlx];

    /// `gguf` or `mlx`, as in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Mlx => "mlx",
        }
    }

    /// `GGUF` or `MLX`, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Gguf => "GGUF",
            Self::Mlx => "MLX",
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Gguf => Self::Mlx,
            Self::Mlx => Self::Gguf,
        }
    }
}

/// A program that serves a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerKind {
    /// LM Studio's REST API, v1 with v0 as fallback, and its `lms` command.
    LmStudio,
    /// llama.cpp's `llama-server`.
    LlamaServer,
    /// Python mlx-lm's `mlx_lm.server`.
    MlxLm,
    /// Ollama.
    Ollama,
    /// This program's `serve`.
    Diagnose,
    /// Anything that speaks OpenAI's API.
    OpenAi,
}

impl ServerKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::LmStudio,
        Self::LlamaServer,
        Self::MlxLm,
        Self::Ollama,
        Self::Diagnose,
        Self::OpenAi,
    ];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::LmStudio => "lm-studio",
            Self::LlamaServer => "llama-server",
            Self::MlxLm => "mlx-lm",
            Self::Ollama => "ollama",
            Self::Diagnose => "diagnose",
            Self::OpenAi => "open-ai",
        }
    }
}

/// One format of a model, and who serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// The program.
    pub server: ServerKind,
    /// The model as that program names it: a file, a folder, a key, an id.
    pub model: String,
    /// Address of a server that runs already; `None` where this program starts one, or where the server has a usual address.
    pub address: Option<String>,
    /// The command that starts the server, words apart, instead of the usual one; `{model}`, `{host}`, `{port}`,
    /// `{context}` and `{prompt-cache}`, which is `on` or `off`, stand for what is known only then.
    pub command: Option<Vec<String>>,
    /// Variables of the server's environment.
    pub environment: BTreeMap<String, String>,
    /// Name of the variable that holds the key to the API.
    pub api_key_variable: Option<String>,
}

/// One model in both formats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPair {
    /// Its name, unique in a plan.
    pub name: String,
    /// llama.cpp's format.
    pub gguf: Side,
    /// MLX's.
    pub mlx: Side,
    /// Where the tokenizer lies by which answers are counted on this side: a model folder or a GGUF file.
    pub tokenizer: Option<PathBuf>,
    /// Whether it is a mixture of experts; `None` where the servers or the files have to say.
    pub mixture: Option<bool>,
}

impl ModelPair {
    /// The side of this format.
    pub fn side(&self, format: Format) -> &Side {
        match format {
            Format::Gguf => &self.gguf,
            Format::Mlx => &self.mlx,
        }
    }
}

/// Longest times, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// From starting a server to a model that answers.
    pub load: f64,
    /// One request from end to end.
    pub request: f64,
    /// Between two pieces of a stream, the first included; keep-alive comments do not count.
    pub stall: f64,
    /// One test.
    pub test: f64,
}

/// What is compared, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Pairs, in order.
    pub pairs: Vec<ModelPair>,
    /// Names of scenarios, in order.
    pub scenarios: Vec<String>,
    /// Formats that are measured; one of them alone is compared with nothing.
    pub formats: Vec<Format>,
    /// How often each scenario is run with each format; the formats take turns.
    pub rounds: usize,
    /// Measured requests of a test, where the scenario leaves it open.
    pub repeats: usize,
    /// Requests before the measured ones.
    pub warm_ups: usize,
    /// Longest answer in tokens.
    pub answer_tokens: usize,
    /// What is asked, in turn.
    pub prompts: Vec<String>,
    /// Length of the long prompt in tokens.
    pub context_tokens: usize,
    /// Requests of a leak test, one after the other.
    pub leak_requests: usize,
    /// Requests at one time.
    pub concurrency: Vec<usize>,
    /// Requests in a second that the concurrency scenario sends whether answers have come or not; `None` sends each when one
    /// before it has ended.
    pub request_rate: Option<f64>,
    /// Longest times.
    pub limits: Limits,
    /// Milliseconds between two looks at memory.
    pub memory_interval_ms: u64,
    /// Seed of what is drawn.
    pub seed: u64,
}
