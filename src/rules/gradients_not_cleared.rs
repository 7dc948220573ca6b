use super::gradient_slope::{self, Gradients};
use super::rule::declare_rule;
use super::update_reading;
use super::wording::factor;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, UpdateReading};

declare_rule! {
    /// ## What it finds
    ///
    /// Gradients that are added to those of all earlier steps.
    ///
    /// ## Why it matters
    ///
    /// Each step follows the sum of what all batches so far wanted, most of it long done. The steps overshoot, the loss
    /// swings, and a longer run diverges.
    ///
    /// ## Evidence
    ///
    /// Either of two. The updates, replayed on a sample of values, are those of Adam fed with running sums of the
    /// gradients. Or finite differences of the loss contradict the reported gradient and agree with what was added to it
    /// since the step before.
    ///
    /// ## How to fix
    ///
    /// Use each gradient once. Where several batches are accumulated on purpose, start from zero after every update.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/1413>
    /// - <https://github.com/huggingface/transformers/issues/35203>
    pub static GRADIENTS_NOT_CLEARED = {
        name: "gradients-not-cleared",
        code: "OPT008",
        summary: "each gradient is added to those of all earlier steps",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "gradient-wrong",
            "gradient-spike",
            "training-diverged",
            "loss-not-decreasing",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
    }
}

const HEADLINE: &str = "gradients are not cleared: each step adds to those of all earlier steps";
const EXPECTED: &str = "the gradient of one batch in each step";

fn check(evidence: &Evidence) -> Outcome {
    let fix = Fix::by_hand("set the accumulated gradients to zero after every update");
    let updates = update_reading::judge(evidence);
    if let Ok(judged) = &updates
        && judged.reading == Some(UpdateReading::GradientsSummed)
    {
        return judged.finding(HEADLINE, EXPECTED).fix(fix).into();
    }
    match gradient_slope::judge(evidence) {
        Ok((check, Gradients::NotCleared)) => {
            let since = check.since_previous.as_ref();
            Finding::new(
                HEADLINE,
                format!(
                    "along the gradient of step {} the loss has a slope of {}, not {}; along what was added since the \
                     step before it has {} and should have {}",
                    check.step,
                    slope(check.reported.measured),
                    factor(check.reported.predicted),
                    slope(since.and_then(|since| since.measured)),
                    slope(since.map(|since| since.predicted)),
                ),
                EXPECTED,
            )
            .with("step", check.step)
            .with("predicted_slope", check.reported.predicted)
            .with("measured_slope", check.reported.measured)
            .with("predicted_since_previous", since.map(|since| since.predicted))
            .with("measured_since_previous", since.and_then(|since| since.measured))
            .fix(fix)
            .into()
        }
        Ok(_) => Outcome::Pass,
        Err(outcome) => updates.map_or(outcome, |_| Outcome::Pass),
    }
}

fn slope(value: Option<f64>) -> String {
    value.map_or_else(|| "none".to_owned(), factor)
}
