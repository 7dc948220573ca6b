use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Ending, Watched, process};
use crate::interrupt::Interrupt;
use crate::python::Python;
use crate::shell_word::quoted;

/// The script that the python runs.
const SCRIPT: &str = include_str!("mlx_lm_worker.py");
/// Exit code of the script without mlx-lm.
const NO_MLX_LM: i32 = 3;
/// Exit code of the script when mlx-lm lacks the architecture.
const NO_ARCHITECTURE: i32 = 4;
/// Exit codes of `sh` for a program that is not there or cannot be run.
const NO_PYTHON: [i32; 2] = [126, 127];
/// Longest time for the answers and losses of a base and an adapter.
const TIMEOUT: Duration = Duration::from_hours(1);

/// What Python mlx-lm is asked for.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerTask {
    /// The base.
    pub model: PathBuf,
    /// What to put onto it for the second half of the work.
    pub adapter: WorkerAdapter,
    /// Token ids of each prompt.
    pub prompts: Vec<Vec<u32>>,
    /// Ids that end an answer.
    pub stop_ids: Vec<u32>,
    /// Tokens of an answer at most.
    pub answer_tokens: usize,
    /// Tokens that are decoded in any case, stop tokens notwithstanding.
    pub at_least_tokens: usize,
    /// Rows that are read at every position.
    pub rows: Vec<WorkerRow>,
    /// What the adapter's change is multiplied by.
    pub factors: Vec<f32>,
    /// How many of the first rows the multiples are measured on.
    pub scaled_rows: usize,
}

/// An adapter for Python mlx-lm.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerAdapter {
    /// A safetensors file in mlx-lm's names and shapes.
    pub tensors: PathBuf,
    /// `lora`, `dora` or `full`.
    pub kind: String,
    /// Factor on the adapter's output.
    pub scale: f32,
    /// The factors of modules that have one of their own.
    pub scales: BTreeMap<String, f32>,
}

/// A row of the data.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerRow {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// 1 where the token is a target of the loss, otherwise 0.
    pub supervised: Vec<u8>,
}

/// What Python mlx-lm found.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerResult {
    /// The model as mlx-lm has it.
    pub model: WorkerModel,
    /// Without the adapter.
    pub base: WorkerState,
    /// Names of the tensors that were put on.
    pub applied: Vec<String>,
    /// With the adapter.
    pub adapted: WorkerState,
    /// The loss with the adapter's change multiplied, one for each factor, or none at all; `None` when it is not finite.
    pub scaled_losses: Vec<Option<f64>>,
}

/// A model in mlx-lm.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerModel {
    /// Version of mlx-lm.
    pub version: String,
    /// MLX's name for the device.
    pub device: String,
    /// What the path of every block begins with.
    pub block_prefix: String,
    /// Blocks.
    pub blocks: usize,
    /// Linear layers with the shape of their weight before packing.
    pub linears: BTreeMap<String, Vec<i32>>,
    /// Every parameter with its shape.
    pub weights: BTreeMap<String, Vec<i32>>,
}

/// What a model answers and predicts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerState {
    /// One entry per prompt.
    pub answers: Vec<WorkerAnswer>,
    /// Seconds for all answers.
    pub seconds: f64,
    /// One entry per row.
    pub rows: Vec<WorkerReading>,
}

/// Greedy tokens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerAnswer {
    /// Every token, stop tokens among them.
    pub tokens: Vec<u32>,
    /// Whether it ended because the logits held a NaN or an infinity.
    pub not_finite: bool,
}

/// What is predicted at every position of a row; `None` where it is not finite.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerReading {
    /// Loss in nats of the token at the position itself, of the next one, and of the one after.
    pub losses: Vec<[Option<f64>; 3]>,
    /// The likeliest token.
    pub likeliest: Vec<i32>,
    /// Log-probability of the stop tokens together; `None` without stop tokens.
    pub stop_log_probabilities: Option<Vec<Option<f64>>>,
    /// How many tokens are likelier than the next one, plus 1; `None` where the next one is no stop token.
    pub ranks: Vec<Option<f64>>,
    /// Element type of the logits.
    pub dtype: String,
}

/// Why there is no result.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// There is no mlx-lm to ask.
    #[error("Python mlx-lm is not installed for `{python}`{}\n  hint: install it (`pip install mlx-lm`), or name another python in {}", said(.last_lines), Python::VARIABLE)]
    NotInstalled {
        /// The python that was asked.
        python: String,
        /// What it said.
        last_lines: Vec<String>,
    },
    /// mlx-lm lacks the architecture too.
    #[error("Python mlx-lm does not have the architecture either{}", said(.last_lines))]
    UnknownArchitecture {
        /// What it said.
        last_lines: Vec<String>,
    },
    /// It failed.
    #[error("Python mlx-lm failed with {code}{}", said(.last_lines))]
    Failed {
        /// How it ended: an exit code or a signal.
        code: String,
        /// What it wrote last.
        last_lines: Vec<String>,
    },
    /// It took too long.
    #[error("Python mlx-lm was not done after {} s and was stopped", TIMEOUT.as_secs())]
    TimedOut,
    /// The user ended it.
    #[error("interrupted")]
    Interrupted,
    /// Its files could not be written or read.
    #[error("Python mlx-lm could not be run: {0}")]
    Io(#[from] std::io::Error),
    /// Its result is not what was asked for.
    #[error("the result of Python mlx-lm cannot be used: {0}")]
    Result(#[from] serde_json::Error),
}

fn said(lines: &[String]) -> String {
    lines
        .last()
        .map_or_else(String::new, |line| format!("\n  found: {line}"))
}

/// Has Python mlx-lm do `task` in `folder`, an empty folder for its files; every line it prints is shown to `observe`.
///
/// # Errors
/// See [`WorkerError`].
pub fn ask_mlx_lm(
    task: &WorkerTask,
    folder: &Path,
    interrupt: &Interrupt,
    observe: &mut dyn FnMut(&str),
) -> Result<WorkerResult, WorkerError> {
    let python = Python::from_environment().name();
    let [script, assignment, result] =
        ["mlx_lm_worker.py", "assignment.json", "result.json"].map(|name| folder.join(name));
    std::fs::write(&script, SCRIPT)?;
    std::fs::write(&assignment, serde_json::to_vec(task)?)?;
    let words = [Path::new(&python), &script, &assignment, &result].map(|path| quoted(&path.display().to_string()));
    let finished = process::run(
        &Watched {
            command: &format!("exec {}", words.join(" ")),
            log: &folder.join("log"),
            timeout: TIMEOUT,
            interrupt,
        },
        observe,
    )?;
    let last_lines = finished.last_lines;
    match finished.ending {
        Ending::Exited(Some(0)) => Ok(serde_json::from_slice(&std::fs::read(&result)?)?),
        Ending::Exited(Some(code)) if code == NO_MLX_LM || NO_PYTHON.contains(&code) => {
            Err(WorkerError::NotInstalled { python, last_lines })
        }
        Ending::Exited(Some(NO_ARCHITECTURE)) => Err(WorkerError::UnknownArchitecture { last_lines }),
        Ending::Exited(code) => Err(WorkerError::Failed {
            code: code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}")),
            last_lines,
        }),
        Ending::TimedOut => Err(WorkerError::TimedOut),
        Ending::Interrupted => Err(WorkerError::Interrupted),
    }
}
