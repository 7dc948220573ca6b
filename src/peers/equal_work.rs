//! Whether all did the same work: the same losses step by step, and the same answers.

use serde::{Deserialize, Serialize};

use super::contestant::Contestant;
use super::race::{TurnRecord, Turned};
use super::workload::Workload;
use crate::thresholds::{SAME_ANSWER, loss_tolerance};

/// What was compared of two contestants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkCheck {
    /// The workload's name.
    pub workload: String,
    /// Whose numbers are judged.
    pub contestant: String,
    /// Whose numbers they are compared with.
    pub reference: String,
    /// What was compared, and how far it was apart.
    pub difference: Difference,
    /// Whether it is the same work; `None` where numbers may differ, since weights or precision do.
    pub same: Option<bool>,
}

/// How far numbers of two contestants are apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "compared", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Difference {
    /// The losses of the steps that both took, from the same weights, adapters and rows, with the same optimizer.
    Losses {
        /// The first loss of the one that is judged.
        first: f64,
        /// The reference's.
        reference_first: f64,
        /// Steps that were compared: one where precision differs, since updates carry that on.
        steps: usize,
        /// The largest difference, relative to the reference's loss or to 1 nat where that is smaller.
        largest: f64,
        /// What rounding may make of it.
        tolerance: f64,
    },
    /// Greedy answers to the same prompts.
    Answers {
        /// Tokens of the answers that are alike from their beginning on.
        alike: usize,
        /// Tokens of all answers.
        of: usize,
        /// The least share that must be alike.
        least: f64,
    },
}

/// Compares everybody in each workload with the first who did it and is exact.
pub fn compare_work(contestants: &[Contestant], workloads: &[Workload], records: &[TurnRecord]) -> Vec<WorkCheck> {
    let mut checks = Vec::new();
    for (place, workload) in workloads.iter().enumerate() {
        let turns_of = |id: &str| -> Vec<&Turned> {
            let own = records
                .iter()
                .filter(|record| record.workload == place && record.contestant == id);
            own.filter_map(|record| record.outcome.as_ref().ok()).collect()
        };
        let mut done = contestants
            .iter()
            .map(|contestant| (contestant, turns_of(&contestant.id)))
            .filter(|(_, turns)| !turns.is_empty());
        let Some((reference, first)) = done.by_ref().find(|(contestant, _)| contestant.exact) else {
            continue;
        };
        // The reference is compared with itself too: every turn has to be the same.
        let all = contestants
            .iter()
            .map(|contestant| (contestant, turns_of(&contestant.id)));
        for (contestant, turns) in all {
            let differences = turns
                .iter()
                .filter_map(|turned| difference(first[0], turned, contestant));
            if let Some(worst) = differences.reduce(worse) {
                let same = is_same(&worst);
                checks.push(WorkCheck {
                    workload: workload.name(),
                    contestant: contestant.id.clone(),
                    reference: reference.id.clone(),
                    // A first loss is judged in any precision, since its tolerance is known.
                    same: (contestant.exact || matches!(worst, Difference::Losses { .. })).then_some(same),
                    difference: worst,
                });
            }
        }
    }
    checks
}

fn difference(reference: &Turned, turned: &Turned, contestant: &Contestant) -> Option<Difference> {
    match (&reference.trained, &turned.trained) {
        (Some(reference), Some(trained)) => {
            let steps = reference.losses.len().min(trained.losses.len());
            let steps = if contestant.exact { steps } else { steps.min(1) };
            let pairs = || reference.losses.iter().zip(&trained.losses).take(steps);
            let (&reference_first, &first) = pairs().next()?;
            Some(Difference::Losses {
                first,
                reference_first,
                steps,
                largest: pairs()
                    .map(|(reference, loss)| (loss - reference).abs() / reference.abs().max(1.0))
                    .fold(0.0, f64::max),
                tolerance: loss_tolerance(&contestant.dtype),
            })
        }
        (None, None) if turned.prefilled.is_some() || !turned.decoded.is_empty() => {
            let answers = |turned: &Turned| -> Vec<Vec<u32>> {
                let prefilled = turned.prefilled.iter().map(|prefilled| vec![prefilled.token]);
                let decoded = turned.decoded.iter().flat_map(|decoded| decoded.tokens.clone());
                prefilled.chain(decoded).collect()
            };
            let (theirs, own) = (answers(reference), answers(turned));
            let alike = theirs.iter().zip(&own).map(|(theirs, own)| {
                let pairs = theirs.iter().zip(own);
                pairs.take_while(|(theirs, own)| theirs == own).count()
            });
            Some(Difference::Answers {
                alike: alike.sum(),
                of: theirs.iter().map(Vec::len).sum(),
                least: SAME_ANSWER,
            })
        }
        _ => None,
    }
}

fn is_same(difference: &Difference) -> bool {
    match difference {
        Difference::Losses { largest, tolerance, .. } => largest <= tolerance,
        Difference::Answers { alike, of, least } => *alike as f64 >= least * *of as f64,
    }
}

fn worse(left: Difference, right: Difference) -> Difference {
    let is_worse = match (&left, &right) {
        (Difference::Losses { largest, .. }, Difference::Losses { largest: other, .. }) => other > largest,
        (Difference::Answers { alike, .. }, Difference::Answers { alike: other, .. }) => other < alike,
        _ => false,
    };
    if is_worse { right } else { left }
}
