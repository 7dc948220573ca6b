use super::loss_reading::{self, Reported};
use super::rule::declare_rule;
use super::shared_gradient::{Applied, read};
use super::wording::{counted, factor};
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, RanksUpdate};
use crate::quantile::upper_median;
use crate::thresholds::LOPSIDED_TARGETS;

declare_rule! {
    /// ## What it finds
    ///
    /// A mean over processes that counts each process the same, whatever number of targets its rows have.
    ///
    /// ## Why it matters
    ///
    /// A target counts the less the more targets share its process. Rows of short answers then pull harder than rows of
    /// long ones, and how hard depends on which rows happen to meet: the updates are others than those of one process,
    /// and the loss that is reported is another mean too. mlx-lm averages so.
    ///
    /// ## Evidence
    ///
    /// The products of the gradients with random signs, as for gradients-not-averaged: the mean of the processes' means
    /// says what was applied, and the mean over all targets does not. It is an error where the reported loss is another
    /// one too, otherwise a warning, and no more than a word while the processes' targets differ by less than
    /// `LOPSIDED_TARGETS`.
    ///
    /// ## How to fix
    ///
    /// Weight every process's mean by its targets: add up the gradients times targets and the targets, and divide; or
    /// let the loss of each process be a sum, divided by the targets of all.
    ///
    /// ## References
    ///
    /// - <https://github.com/huggingface/transformers/issues/34242>
    /// - <https://github.com/pytorch/torchtitan/issues/1842>
    /// - <https://github.com/PrimeIntellect-ai/prime-rl/pull/1960>
    pub static RANK_WEIGHTING_WRONG = {
        name: "rank-weighting-wrong",
        code: "RANK004",
        summary: "every rank's mean counts the same, whatever number of targets it has",
        phase: Training,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &["loss-counts-prompts", "loss-counts-padding", "loss-miscomputed"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let (readings, updates) = match read(evidence) {
        Ok(read) => read,
        Err(outcome) => return outcome,
    };
    if readings.iter().all(|reading| reading.applied != Applied::MeanOverRanks) {
        return Outcome::Pass;
    }
    let ratios: Vec<f64> = evidence.ranks.ran().map_or_else(Vec::new, |ranks| {
        ranks.updates.iter().filter_map(lopsidedness).collect()
    });
    let largest = ratios.iter().copied().reduce(f64::max).unwrap_or(1.0);
    let median = upper_median(ratios).unwrap_or(1.0);
    let finding = Finding::new(
        "every rank's mean counts the same, whatever number of targets it has",
        format!(
            "a target of one rank counts {} times as much as one of another, by the median of {}, and up to {} times",
            factor(median),
            counted(updates, "update"),
            factor(largest)
        ),
        "every target counts the same",
    )
    .with("median_factor", median)
    .with("largest_factor", largest)
    .with("updates", updates)
    .fix(Fix::by_hand(
        "weight each rank's gradients by the targets of its rows, and divide by the targets of all ranks",
    ));
    let loss_is_wrong = loss_reading::judge(evidence).is_ok_and(|judged| judged.reported != Reported::Right);
    match loss_is_wrong {
        true => finding,
        false if median < LOPSIDED_TARGETS => finding.lowered_to(Severity::Info),
        false => finding.lowered_to(Severity::Warning),
    }
    .into()
}

/// How many times the targets of the rank with the fewest the one with the most has; `None` where only one has any.
fn lopsidedness(update: &RanksUpdate) -> Option<f64> {
    let targets = || {
        update
            .ranks
            .iter()
            .map(|rank| rank.supervised_tokens)
            .filter(|&targets| targets > 0)
    };
    let (fewest, most) = (targets().min()?, targets().max()?);
    (targets().count() > 1).then_some(most as f64 / fewest as f64)
}
