use serde::{Deserialize, Serialize};

/// A training by another program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalTraining {
    /// The trainer as it was named: `mlx-lm`, or a command.
    pub trainer: String,
    /// The code that it exited with; `None` when a signal ended it, or this program did.
    pub exit_code: Option<i32>,
    /// Whether it was ended for taking too long.
    pub timed_out: bool,
    /// Longest time in seconds that it was given.
    pub timeout: f64,
    /// The last lines that it printed.
    pub last_lines: Vec<String>,
    /// Whether it left an adapter.
    pub left_adapter: bool,
    /// Seconds that it ran.
    pub seconds: f64,
}
