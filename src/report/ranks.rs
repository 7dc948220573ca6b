use serde::Serialize;

use crate::evidence::{Evidence, LostRank, RankUpdate, RanksEvidence, VectorSketch};
use crate::quantile::upper_median;
use crate::rules::wording::{bytes, grouped, percentage};

/// One process over all updates; what is measured in each update is the median.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankRow {
    /// Its number.
    pub rank: usize,
    /// Rows that it computed.
    pub rows: usize,
    /// Targets in these rows.
    pub supervised_tokens: usize,
    /// Seconds of an update that it computed before it was ready for the others.
    pub own_seconds: Option<f64>,
    /// The part of an update in which it waited for the others or exchanged gradients with them.
    pub waiting: Option<f64>,
    /// Length of the mean gradient of its rows.
    pub own_gradient: Option<f64>,
    /// Length of the gradient that its optimizer was given.
    pub applied_gradient: Option<f64>,
    /// The most bytes that MLX held after an update.
    pub active_memory: Option<u64>,
    /// The first update after which its trained values were not those of rank 0, 0 for before any; `None` when they always were.
    pub apart_since: Option<usize>,
}

/// The processes of a training side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankTable {
    /// Updates that all of them made.
    pub updates: usize,
    /// One row for each process, by number.
    pub ranks: Vec<RankRow>,
    /// The process that was lost; `None` when all stayed.
    pub lost: Option<LostRank>,
}

impl RankTable {
    /// What the columns of [`cells`](Self::cells) show.
    pub const TITLES: [&str; 9] = [
        "rank",
        "rows",
        "targets",
        "own time",
        "waits",
        "own gradient",
        "applied",
        "memory",
        "values",
    ];

    /// The processes of the run; `None` where one trained alone.
    pub(super) fn of(evidence: &Evidence) -> Option<Self> {
        evidence.ranks.ran().map(Self::new)
    }

    /// These processes.
    pub fn new(ranks: &RanksEvidence) -> Self {
        Self {
            updates: ranks.updates.len(),
            ranks: (0..ranks.size).map(|rank| row(ranks, rank)).collect(),
            lost: ranks.lost.clone(),
        }
    }

    /// The processes in words, a line for each.
    pub fn cells(&self) -> Vec<[String; Self::TITLES.len()]> {
        const NONE: &str = "-";
        let number = |value: Option<f64>| value.map_or_else(|| NONE.to_owned(), |value| format!("{value:.3}"));
        self.ranks
            .iter()
            .map(|row| {
                let is_lost = self.lost.as_ref().is_some_and(|lost| lost.rank == row.rank);
                [
                    row.rank.to_string(),
                    grouped(row.rows as u64),
                    grouped(row.supervised_tokens as u64),
                    row.own_seconds
                        .map_or_else(|| NONE.to_owned(), |seconds| format!("{seconds:.3} s")),
                    row.waiting.map_or_else(|| NONE.to_owned(), percentage),
                    number(row.own_gradient),
                    number(row.applied_gradient),
                    row.active_memory.map_or_else(|| NONE.to_owned(), bytes),
                    match row.apart_since {
                        _ if is_lost => "lost".to_owned(),
                        Some(0) => "others from the start".to_owned(),
                        Some(update) => format!("others from update {update}"),
                        None if row.rank == 0 => NONE.to_owned(),
                        None => "as rank 0".to_owned(),
                    },
                ]
            })
            .collect()
    }
}

fn row(ranks: &RanksEvidence, rank: usize) -> RankRow {
    let own = || ranks.updates.iter().filter_map(move |update| update.ranks.get(rank));
    let norm = |sketch: fn(&RankUpdate) -> Option<VectorSketch>| {
        upper_median(own().filter_map(sketch).map(|sketch| sketch.norm))
    };
    RankRow {
        rank,
        rows: own().map(|update| update.rows.len()).sum(),
        supervised_tokens: own().map(|update| update.supervised_tokens).sum(),
        own_seconds: upper_median(own().map(|update| update.own_seconds)),
        waiting: upper_median(
            own()
                .filter(|update| update.seconds > 0.0)
                .map(|update| 1.0 - update.own_seconds / update.seconds),
        ),
        own_gradient: norm(|update| update.own),
        applied_gradient: norm(|update| update.applied),
        active_memory: own().filter_map(|update| update.active_memory).max(),
        apart_since: apart_since(ranks, rank),
    }
}

fn apart_since(ranks: &RanksEvidence, rank: usize) -> Option<usize> {
    if ranks.start.get(rank) != ranks.start.first() {
        return Some(0);
    }
    let apart = ranks.updates.iter().find(|update| {
        let values = |rank: usize| update.ranks.get(rank).map(|update| update.parameters);
        values(rank) != values(0)
    });
    apart.map(|update| update.update)
}
