use super::loss_reading;
use super::rule::declare_rule;
use super::{Fix, Outcome};
use crate::evidence::{Evidence, LossReading};

declare_rule! {
    /// ## What it finds
    ///
    /// A loss that asks each position for the token after the next one.
    ///
    /// ## Why it matters
    ///
    /// The loss begins high, falls like any other, and the model learns to leave out every other token: the answers are
    /// garbled. It happens when the labels are shifted in the data and once more in the loss.
    ///
    /// ## Evidence
    ///
    /// The loss of the first step is recomputed from the logits in every known way. It differs from the definition by
    /// more than rounding, and predicting each token one position too early accounts for `EXPLAINED_DEVIATION` of the
    /// distance or more, better than any other reading.
    ///
    /// ## How to fix
    ///
    /// Shift once: either in the data or in the loss. The models of Hugging Face shift on their own.
    ///
    /// ## References
    ///
    /// - <https://github.com/huggingface/transformers/issues/44642>
    /// - <https://github.com/huggingface/transformers/issues/32944>
    /// - <https://github.com/InternLM/InternLM/issues/318>
    pub static LABELS_SHIFTED_TWICE = {
        name: "labels-shifted-twice",
        code: "MASK008",
        summary: "the loss asks each position for the token after the next one",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "gradient-wrong",
            "gradient-spike",
            "training-diverged",
            "loss-not-decreasing",
            "overfit",
            "end-expected-everywhere",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let headline = "the loss asks each position for the token after the next: the labels are shifted twice";
    match loss_reading::find(evidence, LossReading::ShiftedTwice, headline) {
        Err(outcome) => outcome,
        Ok(None) => Outcome::Pass,
        Ok(Some(finding)) => finding
            .fix(Fix::by_hand("shift the labels once, either in the data or in the loss"))
            .into(),
    }
}
