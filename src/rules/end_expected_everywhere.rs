use super::row_fit::fit;
use super::rule::declare_rule;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::END_UNLIKELY;

declare_rule! {
    /// ## What it finds
    ///
    /// A model that after training expects the end of the text in the middle of it.
    ///
    /// ## Why it matters
    ///
    /// It is the moment before the answers become empty: with greedy decoding a stop token that is likelier than all
    /// else comes at once. It is a symptom, measured on the training rows with the true tokens before each, so that it
    /// shows even where the prompts of the report still get answers.
    ///
    /// ## Evidence
    ///
    /// The mean log-odds of a stop token, wherever the next token is not one, were below `END_UNLIKELY` before training
    /// and are above 0 after it.
    ///
    /// ## How to fix
    ///
    /// See to the cause that is named beside it: targets that are mostly end tokens, padding that counts, updates that
    /// destroy the model. If none is named, count the end tokens among the targets.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/448>
    /// - <https://github.com/mlabonne/llm-course/issues/33>
    pub static END_EXPECTED_EVERYWHERE = {
        name: "end-expected-everywhere",
        code: "EOS007",
        summary: "since training a stop token is expected in the middle of the text",
        phase: Training,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["end-of-text-spam"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let fit = match fit(evidence) {
        Ok(fit) => fit,
        Err(outcome) => return outcome,
    };
    let (Slot::Ran(before), Slot::Ran(after)) = (&fit.before, &fit.after) else {
        return Outcome::not_applicable("the first batch was not measured before and after");
    };
    let (Some(odds_before), Some(odds_after)) = (before.elsewhere_log_odds, after.elsewhere_log_odds) else {
        return Outcome::not_applicable("there is no stop token, or its likelihood is not finite");
    };
    if odds_before >= END_UNLIKELY || odds_after <= 0.0 {
        return Outcome::Pass;
    }
    Finding::new(
        "since training the model expects the end of the text in the middle of it",
        format!("mean log-odds of a stop token of {odds_after:.1} where the text goes on, {odds_before:.1} before training"),
        "log-odds far below 0 where the text goes on",
    )
    .with("elsewhere_before", odds_before)
    .with("elsewhere_after", odds_after)
    .with("end_before", before.end_log_odds)
    .with("end_after", after.end_log_odds)
    .fix(Fix::by_hand(
        "count the end tokens among the targets, and see that padding is none; lower the learning rate if both are right",
    ))
    .into()
}
