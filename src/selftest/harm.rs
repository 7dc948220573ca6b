//! Whether a fault does harm: longer runs with it against the same runs without it.

use serde::Serialize;

use super::interval::rounded;
use crate::evidence::Evidence;

/// Chance of a difference like this without harm, from which on it does not count (Humbatova et al. 2021, `DeepCrime`).
const SIGNIFICANCE: f64 = 0.05;
/// Least effect in standard deviations of the paired differences, from the same source.
const EFFECT: f64 = 0.5;

/// What a run is worth to its user: the higher, the worse.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    /// Name in reports.
    pub name: &'static str,
    /// Mean difference from which on a user would notice.
    pub noticeable: f64,
    /// The value; `None` when it was not measured.
    pub of: fn(&Evidence) -> Option<f64>,
}

/// Every measure. None of them is a rule's finding.
pub static MEASURES: [Measure; 7] = [
    Measure {
        name: "loss of the reference answers",
        noticeable: 0.02,
        of: |evidence| evidence.generation.ran()?.summary().reference_nll,
    },
    Measure {
        name: "loss of the validation rows",
        noticeable: 0.02,
        of: |evidence| evidence.fit.ran()?.validation_after,
    },
    Measure {
        name: "answers that do not stop",
        noticeable: 0.1,
        of: |evidence| {
            let summary = evidence.generation.ran()?.summary();
            Some((summary.answers - summary.stopped) as f64 / summary.answers as f64)
        },
    },
    Measure {
        name: "empty or looping answers",
        noticeable: 0.1,
        of: |evidence| {
            let summary = evidence.generation.ran()?.summary();
            Some((summary.empty + summary.looping) as f64 / summary.answers as f64)
        },
    },
    Measure {
        name: "what saving and loading loses",
        noticeable: 0.01,
        of: |evidence| evidence.state.ran()?.divergence.ran()?.live_from_reloaded,
    },
    Measure {
        name: "what fusing loses",
        noticeable: 0.01,
        of: |evidence| evidence.state.ran()?.fuse.ran()?.divergence_from_live,
    },
    Measure {
        name: "what is forgotten",
        noticeable: 0.02,
        of: |evidence| evidence.state.ran()?.divergence.ran()?.held_out_rise,
    },
];

/// The values of [`MEASURES`] for one run, in their order.
pub type Measured = [Option<f64>; MEASURES.len()];

/// Measures a run.
pub fn measure(evidence: &Evidence) -> Measured {
    MEASURES.map(|measure| (measure.of)(evidence))
}

/// Harm that was shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Harm {
    /// The measure that shows it most clearly.
    pub measure: &'static str,
    /// Pairs of runs.
    pub pairs: usize,
    /// Mean difference; `None` when a run with the fault could not be measured at all.
    pub difference: Option<f64>,
    /// Chance of such differences without harm, one-sided, by the signs of their ranks (Wilcoxon 1945, exact).
    pub chance: f64,
}

/// The harm that pairs of runs, with the fault and without it, show most clearly; `None` when they show none.
pub fn harm(pairs: &[(Measured, Measured)]) -> Option<Harm> {
    let mut shown: Vec<Harm> = MEASURES
        .iter()
        .enumerate()
        .filter_map(|(index, measure)| {
            let differences: Vec<f64> = pairs
                .iter()
                .filter_map(|(with, without)| {
                    // What the run without the fault gives and the one with it does not is lost without bound.
                    Some(with[index].map_or(f64::INFINITY, |with| with - without[index].unwrap_or(with)))
                        .filter(|_| without[index].is_some())
                })
                .collect();
            judge(measure, &differences)
        })
        .collect();
    shown.sort_by(|one, other| one.chance.total_cmp(&other.chance));
    shown.into_iter().next()
}

fn judge(measure: &Measure, differences: &[f64]) -> Option<Harm> {
    if differences.is_empty() {
        return None;
    }
    let count = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / count;
    let variance = differences
        .iter()
        .map(|difference| (difference - mean).powi(2))
        .sum::<f64>()
        / (count - 1.0).max(1.0);
    // An infinite difference has no deviation, and equal differences have none either.
    let effect_is_large = !mean.is_finite() || mean >= EFFECT * variance.sqrt();
    let chance = chance_of_ranks(differences);
    (mean >= measure.noticeable && effect_is_large && chance < SIGNIFICANCE).then(|| Harm {
        measure: measure.name,
        pairs: differences.len(),
        difference: mean.is_finite().then(|| rounded(mean)),
        chance: rounded(chance),
    })
}

/// Chance that the ranks of the positive differences sum to at least what they do, if every sign were a coin's.
fn chance_of_ranks(differences: &[f64]) -> f64 {
    let mut nonzero: Vec<f64> = differences
        .iter()
        .copied()
        .filter(|difference| *difference != 0.0)
        .collect();
    nonzero.sort_by(|one, other| one.abs().total_cmp(&other.abs()));
    // Twice the mean rank of equal sizes, so that ranks stay whole.
    let ranks: Vec<usize> = nonzero
        .iter()
        .map(|value| {
            let below = nonzero.iter().filter(|other| other.abs() < value.abs()).count();
            let equal = nonzero.iter().filter(|other| other.abs() == value.abs()).count();
            2 * below + equal + 1
        })
        .collect();
    let observed: usize = nonzero
        .iter()
        .zip(&ranks)
        .filter(|(value, _)| **value > 0.0)
        .map(|(_, rank)| rank)
        .sum();
    // Ways to reach each sum, one rank after the other.
    let mut ways = vec![0.0_f64; ranks.iter().sum::<usize>() + 1];
    ways[0] = 1.0;
    for &rank in &ranks {
        for sum in (rank..ways.len()).rev() {
            ways[sum] += ways[sum - rank];
        }
    }
    ways[observed..].iter().sum::<f64>() / ways.iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(reference: Option<f64>) -> Measured {
        let mut measured = [None; MEASURES.len()];
        measured[0] = reference;
        measured
    }

    fn pairs(differences: &[f64]) -> Vec<(Measured, Measured)> {
        differences
            .iter()
            .map(|difference| (measured(Some(2.0 + difference)), measured(Some(2.0))))
            .collect()
    }

    /// Wilcoxon's one-sided table: all of 6 pairs worse has a chance of 1/64, 19 of 21 ranks 3/64.
    #[test]
    fn chances_are_those_of_wilcoxons_table() {
        assert_eq!(chance_of_ranks(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), 1.0 / 64.0);
        assert_eq!(chance_of_ranks(&[0.1, -0.2, 0.3, 0.4, 0.5, 0.6]), 3.0 / 64.0);
        assert_eq!(chance_of_ranks(&[]), 1.0);
    }

    #[test]
    fn runs_that_are_all_clearly_worse_are_harmed() {
        let shown = harm(&pairs(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])).unwrap();
        assert_eq!(shown.measure, "loss of the reference answers");
        assert_eq!(shown.difference, Some(0.35));
    }

    #[test]
    fn a_difference_that_nobody_would_notice_is_no_harm() {
        assert_eq!(harm(&pairs(&[0.001; 6])), None);
    }

    #[test]
    fn runs_that_differ_in_both_directions_are_not_harmed() {
        assert_eq!(harm(&pairs(&[0.5, -0.4, 0.3, -0.6, 0.2, -0.1])), None);
    }

    #[test]
    fn what_cannot_be_measured_any_more_is_lost() {
        let pairs = vec![(measured(None), measured(Some(2.0))); 6];
        let shown = harm(&pairs).unwrap();
        assert_eq!((shown.difference, shown.pairs), (None, 6));
    }

    #[test]
    fn what_neither_run_measures_says_nothing() {
        assert_eq!(harm(&vec![(measured(None), measured(None)); 6]), None);
    }
}
