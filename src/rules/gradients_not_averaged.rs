use super::rule::declare_rule;
use super::shared_gradient::{Applied, Reading, read};
use super::wording::{counted, percentage};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Listing};

declare_rule! {
    /// ## What it finds
    ///
    /// Processes whose optimizers are not given the mean of the gradients that all of them computed: each its own, the
    /// sum, or something else.
    ///
    /// ## Why it matters
    ///
    /// With its own gradient each process trains a model of its own, and the one that is saved has seen a part of the
    /// data. Adam hides a sum, since it divides by the gradient's size; clipping and SGD then take steps as many times
    /// too large as there are processes. The loss falls in every case.
    ///
    /// ## Evidence
    ///
    /// Every process computes the product of its gradient with the same random signs, before and after the exchange.
    /// The product of a mean is the mean of the products, so one number of each process tells which mean was applied.
    /// In at least `FEWEST_SHARED_UPDATES` updates the median distance is above `OTHER_GRADIENT` of the gradients'
    /// length, or another reading is nearer by a factor of `TRUER_READING`.
    ///
    /// ## How to fix
    ///
    /// Average the gradients before they are clipped and handed to the optimizer: `mlx.nn.average_gradients`, or an
    /// `all_sum` that is divided by what was added up. Look for a second path to the optimizer, such as accumulated or
    /// compiled steps, that goes around it, and for parameters that are left out.
    ///
    /// ## References
    ///
    /// - <https://github.com/kohya-ss/sd-scripts/issues/924>
    /// - <https://github.com/pytorch/pytorch/issues/109191>
    /// - <https://github.com/horovod/horovod/issues/1512>
    /// - <https://github.com/pytorch/pytorch/issues/4406>
    pub static GRADIENTS_NOT_AVERAGED = {
        name: "gradients-not-averaged",
        code: "RANK003",
        summary: "ranks apply something else than the mean of their gradients",
        phase: Training,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[
            "ranks-diverged",
            "loss-counts-prompts",
            "loss-counts-padding",
            "loss-miscomputed",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let (readings, updates) = match read(evidence) {
        Ok(read) => read,
        Err(outcome) => return outcome,
    };
    let is_wrong = |reading: &Reading| !matches!(reading.applied, Applied::MeanOverTargets | Applied::MeanOverRanks);
    let wrong: Vec<usize> = (0..readings.len()).filter(|&rank| is_wrong(&readings[rank])).collect();
    let Some(&first) = wrong.first() else {
        return Outcome::Pass;
    };
    let farthest = wrong.iter().map(|&rank| readings[rank].distance).fold(0.0, f64::max);
    let all_are = |applied| wrong.iter().all(|&rank| readings[rank].applied == applied);
    let (headline, what) = if all_are(Applied::Own) {
        ("ranks apply the gradients of their own rows", "its own gradient")
    } else if all_are(Applied::Sum) {
        (
            "the gradients of the ranks are added up and not divided",
            "the sum of the gradients",
        )
    } else {
        (
            "ranks apply gradients that are no mean of what they computed",
            "a gradient that is none of the means",
        )
    };
    Finding::new(
        headline,
        format!(
            "{what} on {} of {}, off the mean over all targets by {} of the gradients' length, by the median of {}",
            wrong.len(),
            counted(readings.len(), "rank"),
            percentage(farthest),
            counted(updates, "update")
        ),
        "the mean over the targets of all ranks, on every rank",
    )
    .at(&Listing::numbered("rank", wrong.iter().copied()))
    .with("ranks", readings.len())
    .with("wrong_ranks", wrong.len())
    .with("first_wrong_rank", first)
    .with("distance", farthest)
    .with("updates", updates)
    .fix(Fix::by_hand(if all_are(Applied::Sum) {
        "divide the summed gradients by what was added up, or average them with `mlx.nn.average_gradients`"
    } else {
        "average the gradients of all parameters over the ranks before they are clipped and applied, for example with \
         `mlx.nn.average_gradients`, and look for steps that go around it"
    }))
    .into()
}
