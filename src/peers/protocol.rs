//! What contestants are asked and what they answer, one JSON object a line.
//!
//! The first line of a contestant is a [`Greeting`], or what it lacks. Then `{"id": N, "job": NAME, ...}` is answered by
//! `{"id": N, "result": {...}}` or `{"id": N, "error": {"kind": WORD, "message": TEXT}}`. `scripts/peers/bench_worker.py` is
//! the other side.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Version of the protocol.
pub(super) const PROTOCOL: u64 = 1;

/// What a contestant is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "lowercase", deny_unknown_fields)]
pub enum Job {
    /// Load a model and compute the logits of one token.
    Load {
        /// A model folder or a GGUF file.
        model: PathBuf,
        /// Element type to compute in: `float32` or `bfloat16`; what the file has where that cannot be chosen.
        dtype: String,
        /// One of [`Greeting::devices`].
        device: String,
        /// Threads, where they can be set; `None` for the program's own choice.
        threads: Option<usize>,
        /// What it will be asked for next.
        purpose: Purpose,
    },
    /// Put fresh adapters on every linear layer of the blocks, and take steps of `AdamW` on one batch.
    Training {
        /// Token ids of rows of one length; each token but the first of a row is a target.
        rows: Vec<Vec<u32>>,
        /// Rank of the adapters.
        rank: usize,
        /// Factor on their output.
        scale: f32,
        /// Learning rate.
        learning_rate: f64,
        /// Steps at most.
        steps: usize,
        /// Seconds from which on a step is the last.
        slow: f64,
    },
    /// Read a prompt.
    Prefill {
        /// Token ids.
        prompt: Vec<u32>,
    },
    /// Answer prompts at one time, greedily, whatever tokens come.
    Decode {
        /// Token ids of each, of one length.
        prompts: Vec<Vec<u32>>,
        /// Tokens of each answer.
        new: usize,
    },
    /// Tell the peaks of memory.
    Memory,
}

impl Job {
    /// Its name in the protocol.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Load { .. } => "load",
            Self::Training { .. } => "training",
            Self::Prefill { .. } => "prefill",
            Self::Decode { .. } => "decode",
            Self::Memory => "memory",
        }
    }
}

/// What a model is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Nothing but a forward pass, or training.
    Training,
    /// Answers.
    Generation,
}

/// What a contestant says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Greeting {
    /// Version of the protocol.
    pub protocol: u64,
    /// Versions of what it consists of.
    pub versions: BTreeMap<String, String>,
    /// Devices that it can use, the fastest first; `cpu` is always among them.
    pub devices: Vec<String>,
    /// Libraries in use that decide about speed, where the system tells.
    pub libraries: Vec<String>,
}

impl Greeting {
    /// The fastest of its devices.
    pub(super) fn first_device(&self) -> String {
        self.devices.first().map_or_else(|| "cpu".to_owned(), Clone::clone)
    }
}

/// The first line of a contestant.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum First {
    Ready(Greeting),
    Lacking { error: Refusal },
}

/// A line that asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) id: u64,
    #[serde(flatten)]
    pub(super) job: Job,
}

/// A line that answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answered {
    pub(super) id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Refusal>,
}

/// Why a job was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refusal {
    pub(super) kind: String,
    pub(super) message: String,
}

/// A model is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loaded {}

/// Steps that were taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trained {
    /// Mean loss per target before each step, in nats.
    pub losses: Vec<f64>,
    /// Seconds of each step.
    pub seconds: Vec<f64>,
    /// Targets of one step.
    pub tokens: usize,
}

/// A prompt that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefilled {
    /// Seconds until the next token was there.
    pub seconds: f64,
    /// That token.
    pub token: u32,
}

/// Answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoded {
    /// Seconds from the request to the last token of all.
    pub seconds: f64,
    /// Seconds from the request until each answer had a token.
    pub to_first: f64,
    /// The answers, in the order of the prompts.
    pub tokens: Vec<Vec<u32>>,
}

/// Peaks of memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// What the process held at most, files that are mapped into it among it.
    pub resident: u64,
    /// What its framework counted at most; `None` where it does not count.
    pub framework: Option<u64>,
}
