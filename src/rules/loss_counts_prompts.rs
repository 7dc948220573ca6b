use super::loss_reading;
use super::rule::declare_rule;
use super::{Fix, Outcome};
use crate::evidence::{Evidence, LossReading};

declare_rule! {
    /// ## What it finds
    ///
    /// A loss that counts the prompts although the mask leaves them out.
    ///
    /// ## Why it matters
    ///
    /// The mask was asked for and built, and then not used. The model learns to write questions, and where prompts are
    /// longer than answers most of the training goes there.
    ///
    /// ## Evidence
    ///
    /// The loss of the first step is recomputed from the logits in every known way. It differs from the definition by
    /// more than rounding, and counting every token of the rows accounts for `EXPLAINED_DEVIATION` of the distance or
    /// more, better than any other reading. A run that does not mask its prompts counts them by definition and is fine.
    ///
    /// ## How to fix
    ///
    /// Multiply the loss of each token by the mask before summing, and divide by the sum of the mask.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/689>
    /// - <https://github.com/ml-explore/mlx-examples/issues/1313>
    /// - <https://github.com/huggingface/trl/issues/1282>
    pub static LOSS_COUNTS_PROMPTS = {
        name: "loss-counts-prompts",
        code: "MASK009",
        summary: "the loss counts the prompts although the mask leaves them out",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["gradient-wrong", "loss-not-decreasing", "never-stops"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let headline = "the loss counts the prompts, although the mask leaves them out";
    match loss_reading::find(evidence, LossReading::PromptsToo, headline) {
        Err(outcome) => outcome,
        Ok(None) => Outcome::Pass,
        Ok(Some(finding)) => finding
            .fix(Fix::by_hand(
                "multiply the loss of each token by the mask, and divide by the sum of the mask",
            ))
            .into(),
    }
}
