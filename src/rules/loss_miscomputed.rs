use super::loss_reading::{self, Reported};
use super::rule::declare_rule;
use super::{Fix, Outcome};
use crate::evidence::{Evidence, LossReading};

declare_rule! {
    /// ## What it finds
    ///
    /// A reported loss that is not the mean over the supervised tokens, and whose labels and mask are not to blame.
    ///
    /// ## Why it matters
    ///
    /// The loss decides what is learnt. Divided by all tokens of the batch, it makes long prompts and padding weaken the
    /// answers; as a mean of means, of rows or of parts of a batch, it gives short rows the weight of long ones. Losses
    /// of different runs can then not be compared either.
    ///
    /// ## Evidence
    ///
    /// The loss of the first step is recomputed from the logits, by code that training does not use. It differs from the
    /// definition by more than rounding. A wrong divisor is named when it accounts for `EXPLAINED_DEVIATION` of the
    /// distance or more; misplaced labels and masks have rules of their own.
    ///
    /// ## How to fix
    ///
    /// Sum the losses of the supervised tokens over the whole batch and divide once, by their number. With accumulated
    /// gradients divide by the number of supervised tokens of all parts together.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/1413>
    /// - <https://github.com/huggingface/transformers/issues/35203>
    /// - <https://github.com/meta-pytorch/torchtune/issues/1875>
    pub static LOSS_MISCOMPUTED = {
        name: "loss-miscomputed",
        code: "OPT016",
        summary: "the reported loss is not the mean over the supervised tokens",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["gradient-wrong", "gradient-spike", "training-diverged", "loss-not-decreasing"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let judged = match loss_reading::judge(evidence) {
        Ok(judged) => judged,
        Err(outcome) => return outcome,
    };
    let (headline, fix) = match judged.reported {
        Reported::As(LossReading::DividedByAllTokens) => (
            "the loss is divided by all tokens of the batch, not by the supervised ones",
            "divide the summed loss by the number of supervised tokens",
        ),
        Reported::As(LossReading::MeanOfRowMeans) => (
            "the loss is the mean over the means of the rows, so that short rows count as much as long ones",
            "sum over all supervised tokens of the batch and divide once, by their number",
        ),
        Reported::Unknown => (
            "the reported loss is not that of the batch",
            "compute the mean cross-entropy over the supervised tokens, on the batch that is trained on and with the \
             parameters that are trained",
        ),
        Reported::Right | Reported::As(_) => return Outcome::Pass,
    };
    judged.finding(headline).fix(Fix::by_hand(fix)).into()
}
