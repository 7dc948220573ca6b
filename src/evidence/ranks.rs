use serde::{Deserialize, Serialize};

/// More processes than any run has; a file that names more, and has nothing of them, is none of this program's.
const MOST_RANKS: usize = 1 << 12;

/// The length of a vector, and its product with random signs that all processes have alike: the product of a sum is the sum of
/// the products.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorSketch {
    /// Euclidean length.
    pub norm: f64,
    /// Product with the signs.
    pub projection: f64,
}

/// What one process gave to an update, and where the update left it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankUpdate {
    /// Checksum of the trained values after the update.
    pub parameters: u32,
    /// The trained values after the update, by the same signs in every update; `None` when one is not finite.
    pub trained: Option<VectorSketch>,
    /// Which rows it computed, in ascending order: their places in the data from 0, or checksums of their tokens where only these are
    /// known.
    pub rows: Vec<usize>,
    /// Targets in these rows.
    pub supervised_tokens: usize,
    /// Positions of these rows, padding counted.
    pub positions: usize,
    /// The mean gradient over its targets; `None` where it had none, or when it is not finite.
    pub own: Option<VectorSketch>,
    /// The gradient that its optimizer was given, before clipping, by the same signs; `None` when it is not finite.
    pub applied: Option<VectorSketch>,
    /// Seconds that it computed before it was ready for the others.
    pub own_seconds: f64,
    /// Seconds for the whole update.
    pub seconds: f64,
    /// Bytes that MLX held after the update; `None` when it did not tell.
    pub active_memory: Option<u64>,
}

/// One update of all processes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RanksUpdate {
    /// Counted from 1.
    pub update: usize,
    /// Rows that the update was to be made of.
    pub rows: usize,
    /// What each process did, by rank.
    pub ranks: Vec<RankUpdate>,
}

impl RanksUpdate {
    /// The part of the targets that each process has; `None` where none has any.
    pub fn token_shares(&self) -> Option<Vec<f64>> {
        let all: usize = self.ranks.iter().map(|rank| rank.supervised_tokens).sum();
        let share = |rank: &RankUpdate| rank.supervised_tokens as f64 / all as f64;
        (all > 0).then(|| self.ranks.iter().map(share).collect())
    }
}

/// A process that was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostRank {
    /// Its number.
    pub rank: usize,
    /// Updates that all had made until then.
    pub updates: usize,
    /// How it was lost, for example `it was silent for 10 s`.
    pub how: String,
}

/// Several processes that trained together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RanksEvidence {
    /// How many.
    pub size: usize,
    /// Checksum of the trained values before the first update, by rank; empty when it was not taken.
    pub start: Vec<u32>,
    /// The updates that all of them made, in order.
    pub updates: Vec<RanksUpdate>,
    /// The first that was lost; `None` when all stayed.
    pub lost: Option<LostRank>,
}

impl RanksEvidence {
    /// What lacks a process, where not every update has all of them; `None` in evidence as this program makes it.
    pub(super) fn missing(&self) -> Option<String> {
        let size = self.size;
        if size == 0 {
            return Some("no rank".to_owned());
        }
        if let Some(lost) = self.lost.as_ref().filter(|lost| lost.rank >= size) {
            return Some(format!("rank {} of {size} was lost", lost.rank));
        }
        if !self.start.is_empty() && self.start.len() != size {
            return Some(format!("`start` of {} ranks where `size` is {size}", self.start.len()));
        }
        if let Some(update) = self.updates.iter().find(|update| update.ranks.len() != size) {
            return Some(format!(
                "update {} of {} ranks where `size` is {size}",
                update.update,
                update.ranks.len()
            ));
        }
        let is_bounded = !self.start.is_empty() || !self.updates.is_empty() || size <= MOST_RANKS;
        (!is_bounded).then(|| format!("{size} ranks and nothing of them"))
    }
}
