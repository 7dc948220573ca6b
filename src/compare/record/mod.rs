//! What was measured: numbers and names, nothing that is computed from them.

mod file_name;
mod folder;
mod lock;
mod read_back;
mod tables;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(super) use file_name::file_name;
pub use folder::ResultsFolder;
pub use lock::{FolderLock, LockError};
pub use read_back::{Results, ResultsError};

use super::{Format, Plan, ServerKind};
use crate::time_stamp::time_stamp;

/// Version of the format of [`Record`]; raised whenever a field is added, renamed or changes meaning.
pub const RECORD_SCHEMA_VERSION: u32 = 1;

/// A whole comparison, finished or not: `test_results.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`RECORD_SCHEMA_VERSION`] of the program that wrote it.
    pub schema_version: u32,
    /// When it began, in UTC as RFC 3339 has it.
    pub began: String,
    /// What it was measured on.
    pub machine: Machine,
    /// What was asked for.
    pub plan: Plan,
    /// Whether the user ended it before all was measured.
    pub interrupted: bool,
    /// Every test that was begun or passed over, in order.
    pub tests: Vec<TestRecord>,
}

/// The machine and the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Version of this program.
    pub tool_version: String,
    /// Operating system and processor architecture, for example `linux x86_64`.
    pub platform: String,
    /// The operating system with its version.
    pub system: Option<String>,
    /// The processor as it calls itself.
    pub processor: Option<String>,
    /// Cores that this process may use.
    pub usable_cores: usize,
    /// Installed memory in bytes.
    pub memory: Option<u64>,
    /// Processes that wanted to run when the measurements began, over 1, 5 and 15 minutes.
    pub load_average: Option<[f64; 3]>,
}

/// Which test: what `--resume` goes by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestKey {
    /// Name of the pair.
    pub pair: String,
    /// Name of the scenario.
    pub scenario: String,
    /// The format.
    pub format: Format,
    /// Counted from 0.
    pub round: usize,
}

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Outcome {
    /// All of it was measured; single requests may have failed.
    Completed,
    /// It has nothing to measure here.
    Skipped {
        /// Why.
        reason: String,
    },
    /// It could not go on.
    Failed {
        /// What happened.
        failure: Failure,
    },
    /// The user ended it.
    Interrupted,
}

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The program is not installed or cannot be started.
    NotStarted,
    /// Nobody listens there.
    Unreachable,
    /// The process ended by itself.
    Died,
    /// The connection ended in the middle.
    BrokenOff,
    /// The server refused with a status between 400 and 499.
    Refused,
    /// The server failed: a status from 500 on, or an event that says so.
    ServerError,
    /// What came is none of the protocol.
    Malformed,
    /// The answer is a success without any text.
    Empty,
    /// No piece of a stream came for too long.
    Stalled,
    /// It took too long as a whole.
    TimedOut,
    /// The model is not there or could not be loaded.
    NotLoaded,
    /// The server's API has no way to do it.
    Unsupported,
    /// A file could not be written.
    NotWritten,
    /// The user ended it.
    Interrupted,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{reason}")]
pub struct Failure {
    /// The kind.
    pub kind: FailureKind,
    /// What happened, in one line that stands alone.
    pub reason: String,
    /// What may help.
    pub hint: Option<String>,
}

/// One scenario, once, with one format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestRecord {
    /// Which.
    pub key: TestKey,
    /// When it began, in UTC as RFC 3339 has it. Every other time of the test is in seconds since then.
    pub began: String,
    /// How long it took.
    pub seconds: f64,
    /// How it ended.
    pub outcome: Outcome,
    /// Who served; `None` where nobody came up.
    pub server: Option<ServerDescription>,
    /// Parts of the test, in order; they may nest.
    pub phases: Vec<Phase>,
    /// Every request, warm-ups included, in the order in which they were due.
    pub requests: Vec<RequestRecord>,
    /// What the scenario measured beside requests and memory.
    pub figures: Vec<Figure>,
    /// How memory was watched; `None` where it was not.
    pub memory: Option<MemoryRecord>,
    /// What has to be known beside the figures, one sentence each.
    pub notes: Vec<String>,
}

impl TestRecord {
    /// A test that begins now and of which nothing was recorded yet.
    pub(super) fn empty(key: TestKey, outcome: Outcome) -> Self {
        Self {
            key,
            began: time_stamp(),
            seconds: 0.0,
            outcome,
            server: None,
            phases: Vec::new(),
            requests: Vec::new(),
            figures: Vec::new(),
            memory: None,
            notes: Vec::new(),
        }
    }
}

/// A part of a test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// For example `load`, `warm-up`, `measure`, `unload`.
    pub name: String,
    /// Seconds since the test began.
    pub begin: f64,
    /// Likewise.
    pub end: f64,
}

/// Who served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerDescription {
    /// The program.
    pub kind: ServerKind,
    /// Its version as it tells, where it does.
    pub version: Option<String>,
    /// Where it listens.
    pub address: String,
    /// The command by which this program started it; `None` where it ran already.
    pub command: Option<Vec<String>>,
    /// The model as requests name it.
    pub model: String,
    /// The quantisation as the server tells, where it does.
    pub quantisation: Option<String>,
    /// Tokens of context that it was loaded with, as the server tells or as it was asked for.
    pub context_length: Option<usize>,
    /// How the model came to be loaded.
    pub start: Start,
    /// What else it tells, by name.
    pub details: BTreeMap<String, String>,
}

impl ServerDescription {
    /// The command by which this program started it, with `PORT` for the port, which is another one each time.
    pub fn command_line(&self) -> Option<String> {
        let port = self.address.trim_end_matches('/').rsplit(':').next();
        let words = self.command.as_ref()?.iter().map(|word| match port {
            Some(port) if word == port => "PORT",
            _ => word,
        });
        Some(words.collect::<Vec<&str>>().join(" "))
    }
}

/// How a model came to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// This program started the server, which loads the model as it starts.
    Process,
    /// The server ran and loaded the model when it was asked to.
    Load,
    /// The model was there already: how long loading takes cannot be told.
    Already,
}

/// What loading took.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Who serves now.
    pub server: ServerDescription,
    /// Seconds until the server said that the model is ready; `None` where it was there already.
    pub ready_seconds: Option<f64>,
    /// Seconds that the server itself gives for loading, where it tells.
    pub told_seconds: Option<f64>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestRecord {
    /// What it belongs to within the test, for example `warm-up`, `measure`, `concurrency-4`.
    pub group: String,
    /// Requests that were to run at one time with it, itself included.
    pub concurrency: usize,
    /// When it was due, in seconds since the test began. Latencies count from here, so that a server that falls behind is seen.
    pub due: f64,
    /// What came, and when.
    pub times: AnswerTimes,
    /// Characters of text that came.
    pub characters: usize,
    /// The answer's text, cut where it is long.
    pub text: String,
    /// `stop`, `length` and so on, as the server says.
    pub finish_reason: Option<String>,
    /// Tokens as the server counts them.
    pub usage: Option<Usage>,
    /// Tokens of the answer as this side's tokenizer counts them, where there is one.
    pub counted_tokens: Option<usize>,
    /// Times as the server measured them, where it tells.
    pub timings: Option<ServerTimings>,
    /// Why it failed; `None` where it did not.
    pub failure: Option<Failure>,
}

/// When the parts of an answer came, in seconds since the test began.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerTimes {
    /// When the request was sent.
    pub sent: f64,
    /// When the status and headers came.
    pub headers: Option<f64>,
    /// When each piece with text came that is not empty: content, reasoning or a tool call. The first is that of the time to
    /// first token.
    pub pieces: Vec<f64>,
    /// When the answer ended, or failed.
    pub ended: f64,
}

/// Tokens as the server counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Of the prompt with its template.
    pub prompt_tokens: usize,
    /// Of the answer.
    pub completion_tokens: usize,
    /// Of the prompt, those that were not computed anew; `None` where the server does not tell.
    pub cached_tokens: Option<usize>,
}

/// Times as the server measured them, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTimings {
    /// From its own clock, until the first token.
    pub first_token: Option<f64>,
    /// Tokens of the prompt that were computed.
    pub prompt_tokens: Option<usize>,
    /// Reading the prompt.
    pub prompt: Option<f64>,
    /// Tokens that were written.
    pub generated_tokens: Option<usize>,
    /// Writing them.
    pub generation: Option<f64>,
    /// Tokens in a second, as the server gives it.
    pub tokens_per_second: Option<f64>,
    /// Loading the model, where the request caused it.
    pub load: Option<f64>,
}

/// A number that a scenario measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// In kebab-case, unique within the scenario but for repeats.
    pub name: String,
    /// What it is measured in.
    pub unit: Unit,
    /// One value for each repeat, in order.
    pub values: Vec<f64>,
    /// How it was measured, one sentence without a final period.
    pub note: String,
}

/// What a number is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Bytes for each request.
    BytesPerRequest,
    /// Tokens in a second.
    TokensPerSecond,
    /// Requests in a second.
    RequestsPerSecond,
    /// Tokens.
    Tokens,
    /// Between 0 and 1.
    Share,
    /// Natural logarithms of probabilities.
    Nats,
    /// Anything that is counted.
    Count,
    /// One number by another of its kind.
    Ratio,
}

/// How memory was watched during a test; the samples are a file of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryRecord {
    /// Milliseconds that were to lie between two samples.
    pub interval_ms: u64,
    /// Samples that were taken.
    pub taken: usize,
    /// Samples that were due and left out since the one before took too long.
    pub missed: usize,
    /// Processor seconds that taking samples cost this program.
    pub cost_seconds: f64,
    /// The process whose memory grew most while the model was loaded, as `NAME (PID)`.
    pub holder: Option<String>,
    /// What the system does not tell here, and why: for example other users' processes.
    pub unknown: Vec<String>,
}

/// The memory of a server at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemorySample {
    /// Seconds since the test began.
    pub at: f64,
    /// Every process of the server, ordered by PID.
    pub processes: Vec<ProcessSample>,
    /// Memory of the machine that is free for programs, in bytes.
    pub available: Option<u64>,
    /// Memory of the machine that cannot be paged out, in bytes; macOS.
    pub wired: Option<u64>,
}

/// The memory of one process at one moment, in bytes; `None` where the system does not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSample {
    /// Its number.
    pub pid: u32,
    /// Its name, without its arguments.
    pub name: String,
    /// In physical memory, shared pages counted whole.
    pub resident: Option<u64>,
    /// Shared pages divided among those who share them; Linux (PSS).
    pub proportional: Option<u64>,
    /// Of what is resident, what no file holds; Linux (`RssAnon`).
    pub anonymous: Option<u64>,
    /// Of what is resident, pages of files, weights that are mapped among them; Linux (`RssFile`).
    pub file: Option<u64>,
    /// What the system charges the process with, compressed and GPU pages included; macOS.
    pub footprint: Option<u64>,
    /// Pages that cannot be paged out; macOS.
    pub wired: Option<u64>,
}

impl ProcessSample {
    /// The number that stands for the process: what the system charges it with.
    ///
    /// The footprint on macOS, the proportional share on Linux, else what is resident.
    pub fn charged(&self) -> Option<u64> {
        self.footprint.or(self.proportional).or(self.resident)
    }
}

impl MemorySample {
    /// [`ProcessSample::charged`] of all processes together; `None` where none of them is known.
    pub fn charged(&self) -> Option<u64> {
        let known = self.processes.iter().filter_map(ProcessSample::charged);
        known.reduce(u64::saturating_add)
    }
}
