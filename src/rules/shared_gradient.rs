//! What the gradients that processes applied are, of those that they computed.

use super::Outcome;
use crate::evidence::{Evidence, RanksUpdate, Slot, VectorSketch};
use crate::quantile::upper_median;
use crate::thresholds::{FEWEST_SHARED_UPDATES, OTHER_GRADIENT, ROUNDED_GRADIENT, TRUER_READING};

/// What a process gave to its optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// The mean over the targets of all processes.
    MeanOverTargets,
    /// The mean of the processes' means.
    MeanOverRanks,
    /// The sum of the processes' means.
    Sum,
    /// Its own mean.
    Own,
    /// None of these.
    Another,
}

/// The readings with the projections that they predict, in the order of [`Distances`].
const READINGS: [Applied; 4] = [
    Applied::MeanOverTargets,
    Applied::MeanOverRanks,
    Applied::Sum,
    Applied::Own,
];

/// Relative distances of what was applied from what each of [`READINGS`] predicts.
type Distances = [f64; READINGS.len()];

/// What one process applied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) applied: Applied,
    /// Distance from the mean over all targets, as a share of the gradients' length; the median over the updates.
    pub(super) distance: f64,
}

/// What every process applied, by rank, and the number of updates that say so.
pub(super) fn read(evidence: &Evidence) -> Result<(Vec<Reading>, usize), Outcome> {
    let Slot::Ran(ranks) = &evidence.ranks else {
        return Err(Outcome::not_measured("training by several ranks", &evidence.ranks));
    };
    let by_update: Vec<Vec<Distances>> = ranks.updates.iter().filter_map(distances).collect();
    if by_update.len() < FEWEST_SHARED_UPDATES {
        return Err(Outcome::not_applicable(format!(
            "fewer than {FEWEST_SHARED_UPDATES} updates have gradients to compare"
        )));
    }
    let reading = |rank: usize| {
        let of_rank =
            |reading: usize| upper_median(by_update.iter().map(|update| update[rank][reading])).unwrap_or(f64::NAN);
        reading_of(std::array::from_fn(of_rank))
    };
    Ok(((0..ranks.size).map(reading).collect(), by_update.len()))
}

/// How far each process's gradient is from every reading; `None` where the update does not tell.
fn distances(update: &RanksUpdate) -> Option<Vec<Distances>> {
    let shares = update.token_shares()?;
    let own: Vec<VectorSketch> = update
        .ranks
        .iter()
        .map(|rank| match (rank.own, rank.supervised_tokens) {
            (Some(own), _) => Some(own),
            // Without a target there is nothing to add.
            (None, 0) => Some(VectorSketch {
                norm: 0.0,
                projection: 0.0,
            }),
            (None, _) => None,
        })
        .collect::<Option<_>>()?;
    let length: f64 = own.iter().zip(&shares).map(|(own, share)| own.norm * share).sum();
    if length <= 0.0 {
        return None;
    }
    let sum: f64 = own.iter().map(|own| own.projection).sum();
    let over_targets: f64 = own.iter().zip(&shares).map(|(own, share)| own.projection * share).sum();
    let with_targets = shares.iter().filter(|&&share| share > 0.0).count();
    let over_ranks = sum / with_targets as f64;
    update
        .ranks
        .iter()
        .zip(&own)
        .map(|(rank, own)| {
            let applied = rank.applied?.projection;
            Some([over_targets, over_ranks, sum, own.projection].map(|reading| (applied - reading).abs() / length))
        })
        .collect()
}

/// The reading that says it best: the mean over targets, unless another one is far truer or none is true.
fn reading_of(distances: Distances) -> Reading {
    let distance = distances[0];
    let others = distances.into_iter().zip(READINGS).skip(1);
    let best = others.min_by(|one, other| one.0.total_cmp(&other.0));
    let applied = match best {
        _ if distance <= ROUNDED_GRADIENT => Applied::MeanOverTargets,
        Some((other, reading)) if other <= OTHER_GRADIENT && other < TRUER_READING * distance => reading,
        _ if distance <= OTHER_GRADIENT => Applied::MeanOverTargets,
        _ => Applied::Another,
    };
    Reading { applied, distance }
}
