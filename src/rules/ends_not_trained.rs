use super::finished_adapter::files;
use super::row_fit::fit;
use super::rule::declare_rule;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::ENDS_LOST;

declare_rule! {
    /// ## What it finds
    ///
    /// A finished adapter that has learnt the rows of the data and unlearnt that they end.
    ///
    /// ## Why it matters
    ///
    /// The answers come in the right manner and do not stop: they ramble on, or say their last words again and again. The
    /// data looks right, because the program that trained made other rows of it.
    ///
    /// ## Evidence
    ///
    /// The rows of the data as this program reads them, without the adapter and with it, with the true tokens before each.
    /// The targets became likelier, while the mean log-odds of a stop token where rows end fell by more than `ENDS_LOST`,
    /// to below 0. An adapter that was trained on these ends holds them above 0, even in the few steps in which it first
    /// learns another manner. What exactly training saw cannot be told from finished files, so each possibility is named.
    ///
    /// ## How to fix
    ///
    /// Print the last tokens of a row as the trainer makes it, beside their mask. A base without a token for the end needs
    /// one appended; a mask by the padding's id takes the end as well; a limit cuts it off; another template ends otherwise.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/756>
    /// - <https://github.com/unslothai/unsloth/issues/416>
    /// - <https://github.com/huggingface/transformers/issues/23530>
    pub static ENDS_NOT_TRAINED = {
        name: "ends-not-trained",
        code: "EOS011",
        summary: "a finished adapter learnt the rows without the tokens that end them",
        phase: Training,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &["never-stops", "repetition-loop"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    // Of a training that was made here the rows themselves are known.
    if let Err(outcome) = files(evidence) {
        return outcome;
    }
    let fit = match fit(evidence) {
        Ok(fit) => fit,
        Err(outcome) => return outcome,
    };
    let (Slot::Ran(before), Slot::Ran(after)) = (&fit.before, &fit.after) else {
        return Outcome::not_applicable("the first batch was not measured without the adapter and with it");
    };
    let (Some(odds_before), Some(odds_after)) = (before.end_log_odds, after.end_log_odds) else {
        return Outcome::not_applicable("no row ends with a stop token, or its likelihood is not finite");
    };
    let (Some(loss_before), Some(loss_after)) = (before.supervised, after.supervised) else {
        return Outcome::not_applicable("no finite loss of the rows without the adapter and with it");
    };
    if loss_after >= loss_before || odds_after >= 0.0 || odds_before - odds_after <= ENDS_LOST {
        return Outcome::Pass;
    }
    Finding::new(
        "the adapter learnt the rows without their ends: it was trained on rows that had none, or not these",
        format!(
            "mean log-odds of a stop token of {odds_after:.1} where rows end, {odds_before:.1} without the adapter, while the \
             rows came down from {loss_before:.3} to {loss_after:.3} nats per token"
        ),
        "log-odds above 0 where rows end, as they are when the ends are targets",
    )
    .with("end_before", odds_before)
    .with("end_after", odds_after)
    .with("end_rank_after", after.end_rank)
    .with("loss_before", loss_before)
    .with("loss_after", loss_after)
    .fix(Fix::by_hand(
        "look at the last tokens of a row as the trainer makes it: the end may not be appended, be cut off by a limit, or be \
         masked as padding; then train again",
    ))
    .fix(Fix::by_hand(
        "or the trainer's chat template ends an answer with another token: use the template of the training",
    ))
    .into()
}
