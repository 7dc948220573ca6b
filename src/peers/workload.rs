use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::bench::Unit;

/// Rows and tokens of a training batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Rows.
    pub rows: usize,
    /// Targets of each row.
    pub tokens: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}x{}", self.rows, self.tokens)
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || format!("`{text}` is no shape: rows x tokens, for example 4x128");
        let (rows, tokens) = text.split_once('x').ok_or_else(refused)?;
        let number = |text: &str| text.parse().ok().filter(|&number| number > 0).ok_or_else(refused);
        Ok(Self {
            rows: number(rows)?,
            tokens: number(tokens)?,
        })
    }
}

/// What one process does in one turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workload {
    /// Load the model and compute the logits of one token.
    Loading,
    /// Steps of training.
    Training(Shape),
    /// Reading a prompt, then answering several at one time.
    Generation {
        /// Tokens of the prompt whose reading is timed.
        prefill: usize,
        /// Tokens of the prompts before decoding.
        prompt: usize,
        /// Tokens that are decoded.
        new: usize,
        /// How many at one time, each in a run of its own.
        at_once: Vec<usize>,
    },
}

impl Workload {
    /// Its name, which chooses it on the command line.
    pub fn name(&self) -> String {
        match self {
            Self::Loading => "loading".to_owned(),
            Self::Training(shape) => format!("training-{shape}"),
            Self::Generation { .. } => "generation".to_owned(),
        }
    }

    /// What is measured of it, in the order of the report; memory comes last.
    pub fn measures(&self) -> Vec<Measure> {
        let mut measures = match self {
            Self::Loading => vec![Measure::Loading],
            Self::Training(shape) => vec![Measure::Training(*shape)],
            Self::Generation { at_once, prefill, .. } => {
                let decoding = at_once.iter().map(|&count| Measure::Decoding(count));
                let whole = at_once.iter().filter(|&&count| count > 1);
                [Measure::Prefill(*prefill)]
                    .into_iter()
                    .chain(decoding)
                    .chain(whole.map(|&count| Measure::Answering(count)))
                    .collect()
            }
        };
        measures.extend([Measure::Memory(self.name()), Measure::FrameworkMemory(self.name())]);
        measures
    }
}

/// One measured quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measure {
    /// Seconds from the process's start to the logits of one token.
    Loading,
    /// Targets trained in a second.
    Training(Shape),
    /// Prompt tokens read in a second.
    Prefill(usize),
    /// Tokens decoded in a second after each answer has its first, by so many answers at one time.
    Decoding(usize),
    /// Tokens of answers in a second, the reading of the prompts included.
    Answering(usize),
    /// Peak of the process's resident memory in a workload.
    Memory(String),
    /// Peak of what the framework itself counts in a workload.
    FrameworkMemory(String),
}

impl Measure {
    /// Its name in results.
    pub fn name(&self) -> String {
        match self {
            Self::Loading => "loading".to_owned(),
            Self::Training(shape) => format!("training-{shape}"),
            Self::Prefill(tokens) => format!("prefill-{tokens}"),
            Self::Decoding(count) => format!("decoding-{count}"),
            Self::Answering(count) => format!("answering-{count}"),
            Self::Memory(workload) => format!("memory-{workload}"),
            Self::FrameworkMemory(workload) => format!("framework-memory-{workload}"),
        }
    }

    /// What it is for people.
    pub fn title(&self) -> String {
        match self {
            Self::Loading => "loading, from the process's start to the logits of one token".to_owned(),
            Self::Training(shape) => format!("training, batches of {} x {} tokens", shape.rows, shape.tokens),
            Self::Prefill(tokens) => format!("reading a prompt of {tokens} tokens"),
            Self::Decoding(1) => "decoding, one request".to_owned(),
            Self::Decoding(count) => format!("decoding, {count} at one time"),
            Self::Answering(count) => format!("{count} requests in all, with their prompts"),
            Self::Memory(workload) => format!("peak of the process's memory, {workload}"),
            Self::FrameworkMemory(workload) => format!("peak as the framework counts it, {workload}"),
        }
    }

    /// What it is counted in.
    pub fn unit(&self) -> Unit {
        match self {
            Self::Loading => Unit::Seconds,
            Self::Training(_) | Self::Prefill(_) | Self::Decoding(_) | Self::Answering(_) => Unit::TokensPerSecond,
            Self::Memory(_) | Self::FrameworkMemory(_) => Unit::Bytes,
        }
    }
}
