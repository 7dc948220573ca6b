use super::gradient_slope::{self, Gradients};
use super::rule::declare_rule;
use super::update_reading;
use super::wording::factor;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, UpdateReading};

declare_rule! {
    /// ## What it finds
    ///
    /// Updates that make the loss larger on purpose: the sign of the gradient is turned somewhere.
    ///
    /// ## Why it matters
    ///
    /// The run does all a run does, and the model unlearns the data. At a small learning rate the loss rises so slowly
    /// that it looks like noise.
    ///
    /// ## Evidence
    ///
    /// Either of two. The updates, replayed on a sample of values, are those of Adam with every gradient negated. Or
    /// finite differences of the loss have the slope that the reported gradient predicts, with the opposite sign.
    ///
    /// ## How to fix
    ///
    /// Subtract the update from the parameter, and differentiate the loss, not the reward or the log-likelihood.
    ///
    /// ## References
    ///
    /// - <https://github.com/KanishJebaMathewM/Truxify/pull/11885>
    /// - <https://arxiv.org/abs/2506.14813>
    pub static UPDATE_UPHILL = {
        name: "update-uphill",
        code: "OPT007",
        summary: "the updates raise the loss: a sign is wrong",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "gradient-wrong",
            "training-diverged",
            "loss-not-finite",
            "loss-not-decreasing",
            "end-expected-everywhere",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let updates = update_reading::judge(evidence);
    if let Ok(judged) = &updates
        && judged.reading == Some(UpdateReading::Uphill)
    {
        return judged
            .finding(
                "the optimizer goes uphill: its updates raise the loss",
                "updates against the gradient",
            )
            .fix(Fix::by_hand(
                "subtract the update from the parameter instead of adding it",
            ))
            .into();
    }
    match gradient_slope::judge(evidence) {
        Ok((check, Gradients::Uphill)) => Finding::new(
            "the gradients have the wrong sign, so every update raises the loss",
            format!(
                "along the gradient of step {} the loss has a slope of {}, where the gradient predicts {}",
                check.step,
                check.reported.measured.map_or_else(|| "none".to_owned(), factor),
                factor(check.reported.predicted)
            ),
            "the slope that the gradient predicts",
        )
        .with("step", check.step)
        .with("predicted_slope", check.reported.predicted)
        .with("measured_slope", check.reported.measured)
        .fix(Fix::by_hand(
            "differentiate the loss itself, not a reward or a log-likelihood, and negate nothing after it",
        ))
        .into(),
        Ok(_) => Outcome::Pass,
        Err(outcome) => updates.map_or(outcome, |_| Outcome::Pass),
    }
}
