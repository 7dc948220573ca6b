use super::loss_reading;
use super::rule::declare_rule;
use super::{Fix, Outcome};
use crate::evidence::{Evidence, LossReading};

declare_rule! {
    /// ## What it finds
    ///
    /// A loss that compares the prediction at a token with that token itself, which the model has just been given.
    ///
    /// ## Why it matters
    ///
    /// Copying the input is easy: the loss falls to nearly nothing in a few steps, and the model that comes out repeats
    /// what it is told instead of continuing it.
    ///
    /// ## Evidence
    ///
    /// The loss of the first step is recomputed from the logits in every known way. It differs from the definition by
    /// more than rounding, and predicting each token at its own position accounts for `EXPLAINED_DEVIATION` of the
    /// distance or more, better than any other reading.
    ///
    /// ## How to fix
    ///
    /// Feed the tokens without the last one and compare with the tokens without the first one.
    ///
    /// ## References
    ///
    /// - <https://github.com/macrocosm-os/pretraining/issues/64>
    /// - <https://github.com/vithursant/nanoGPT_mlx/issues/6>
    pub static LABELS_NOT_SHIFTED = {
        name: "labels-not-shifted",
        code: "MASK007",
        summary: "the loss compares each prediction with the token that was just given",
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
    let headline = "the loss compares each prediction with the token just given: the labels are not shifted";
    match loss_reading::find(evidence, LossReading::NotShifted, headline) {
        Err(outcome) => outcome,
        Ok(None) => Outcome::Pass,
        Ok(Some(finding)) => finding
            .fix(Fix::by_hand(
                "shift the labels by one: inputs are the tokens without the last, targets the tokens without the first",
            ))
            .into(),
    }
}
