use super::gradient_slope::{self, Gradients};
use super::rule::declare_rule;
use super::wording::factor;
use super::{Finding, Fix, Outcome};
use crate::evidence::Evidence;
use crate::thresholds::ABNORMAL_RISE;

declare_rule! {
    /// ## What it finds
    ///
    /// Gradients that are not those of the loss.
    ///
    /// ## Why it matters
    ///
    /// The loss is right and is printed, and the updates follow something else: a kernel with a wrong backward pass, a
    /// part of the model that was cut out of the graph, a scale that was applied twice. What is learnt is then weaker
    /// than it seems, or something else.
    ///
    /// ## Evidence
    ///
    /// The loss of the last batch is computed a little way ahead and a little way behind along the reported gradient.
    /// Its slope there must be the length of the gradient. It differs by more than rounding and the bend of the loss can
    /// make. It is not judged where the loss has risen by `ABNORMAL_RISE`: a destroyed model has no slope to speak of.
    /// Gradients of a loss that is itself another one, and gradients that are all exactly zero, belong to other rules.
    ///
    /// ## How to fix
    ///
    /// If the two slopes differ by a plain factor, look for a divisor: steps of accumulation, tokens, a loss scale. If
    /// not, turn off fused losses, custom kernels and checkpointing one by one until the slopes agree.
    ///
    /// ## References
    ///
    /// - <https://github.com/unslothai/unsloth/issues/5230>
    /// - <https://github.com/unslothai/unsloth-zoo/issues/754>
    /// - <https://github.com/locuslab/open-unlearning/issues/178>
    pub static GRADIENT_WRONG = {
        name: "gradient-wrong",
        code: "OPT017",
        summary: "the gradients are not those of the loss",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "gradient-spike",
            "training-diverged",
            "loss-not-finite",
            "loss-not-decreasing",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let (check, measured) = match gradient_slope::judge(evidence) {
        Ok((_, Gradients::Wrong)) if has_risen(evidence) => {
            return Outcome::not_applicable("the loss had risen too far by then: it bends too sharply to have a slope");
        }
        Ok((check, Gradients::Wrong)) => (check, check.reported.measured.unwrap_or(0.0)),
        Ok(_) => return Outcome::Pass,
        Err(outcome) => return outcome,
    };
    let predicted = check.reported.predicted;
    Finding::new(
        format!(
            "the gradients are not those of the loss: its slope is {} times what they predict",
            factor(measured / predicted)
        ),
        format!(
            "along the gradient of step {} the loss has a slope of {}, known to within {}",
            check.step,
            factor(measured),
            factor(check.resolution)
        ),
        format!("a slope of {}, the length of the gradient", factor(predicted)),
    )
    .with("step", check.step)
    .with("predicted_slope", predicted)
    .with("measured_slope", measured)
    .with("resolution", check.resolution)
    .fix(Fix::by_hand(
        "look for a factor on the loss or the gradients: steps of accumulation, numbers of tokens, a loss scale",
    ))
    .fix(Fix::by_hand(
        "turn off fused losses, custom kernels and checkpointing one by one until the slopes agree",
    ))
    .into()
}

/// Whether the last step stood far above where training began.
fn has_risen(evidence: &Evidence) -> bool {
    let losses = evidence.training.ran().and_then(|training| {
        let last = training.steps.last()?.loss?;
        Some((evidence.loss_before()?, last))
    });
    losses.is_some_and(|(before, last)| last > before + ABNORMAL_RISE)
}
