use super::loss_reading::{self, Reported};
use super::rule::declare_rule;
use super::{Fix, Outcome, Severity};
use crate::evidence::{Evidence, LossReading};

declare_rule! {
    /// ## What it finds
    ///
    /// A loss that counts the padding behind shorter rows.
    ///
    /// ## Why it matters
    ///
    /// The model learns that an answer is followed by the padding token, over and over. Where that is token 0 its text is
    /// `!` in many vocabularies, and answers end in a row of them; where it is the end of text the model learns to say
    /// nothing else.
    ///
    /// ## Evidence
    ///
    /// The loss of the first step is recomputed from the logits in every known way. It differs from the definition by
    /// more than rounding, and counting the padding accounts for `EXPLAINED_DEVIATION` of the distance or more, better
    /// than any other reading. mlx-lm counts exactly one padding token behind each shorter row; that is reported as
    /// information.
    ///
    /// ## How to fix
    ///
    /// Give padding a mask of 0: a position counts if its target lies before the end of the row, not at it. With mlx-lm
    /// make sure that the last real token is a stop token, so that generation never gets to the padding.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/1697>
    /// - <https://github.com/unslothai/unsloth-zoo/issues/684>
    /// - <https://github.com/ml-explore/mlx-examples/issues/448>
    pub static LOSS_COUNTS_PADDING = {
        name: "loss-counts-padding",
        code: "MASK010",
        summary: "the loss counts the padding behind shorter rows",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "gradient-wrong",
            "loss-not-decreasing",
            "end-expected-everywhere",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let judged = match loss_reading::judge(evidence) {
        Ok(judged) => judged,
        Err(outcome) => return outcome,
    };
    let (headline, severity) = match judged.reported {
        Reported::As(LossReading::PaddingToo) => ("the loss counts the padding behind shorter rows", None),
        Reported::As(LossReading::OnePaddingToo) => (
            "the loss counts one padding token behind each shorter row, as that of mlx-lm does",
            Some(Severity::Info),
        ),
        _ => return Outcome::Pass,
    };
    let mut finding = judged.finding(headline).fix(Fix::by_hand(
        "count a position only if its target lies before the end of its row",
    ));
    finding.lowered_severity = severity;
    finding.into()
}
