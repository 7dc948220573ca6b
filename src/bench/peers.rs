//! What a comparison with other programs came to, in short; the whole is in a file of its own.

use serde::{Deserialize, Serialize};

use super::Unit;

/// What the comparison with PyTorch and others came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PeerComparison {
    /// Nobody else was measured.
    Skipped {
        /// One sentence without a final period.
        reason: String,
    },
    /// Others were measured at the same work.
    Measured {
        /// Every figure of everybody.
        figures: Vec<PeerFigure>,
        /// Whether all did the same work, as far as that can be judged.
        same_work: bool,
        /// What this program promises and holds.
        bars_held: usize,
        /// What it promises and does not hold.
        bars_missed: usize,
        /// What it promises and nobody measured.
        bars_not_measured: usize,
    },
}

/// The median of a program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerFigure {
    /// What was measured, for example `training-4x128`.
    pub measure: String,
    /// What it counts.
    pub unit: Unit,
    /// Who.
    pub contestant: String,
    /// The median.
    pub median: f64,
    /// How many times better this program's median is; `None` where it has none.
    pub advantage: Option<f64>,
}
