use super::rule::declare_rule;
use super::wording::out_of;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::MOST;

declare_rule! {
    /// ## What it finds
    ///
    /// Conversations of several turns of which only the last answer is trained on.
    ///
    /// ## Why it matters
    ///
    /// With masked prompts everything before the last answer counts as prompt, so that earlier answers are read and
    /// never learnt. Long conversations then teach little for what they cost. Stock mlx-lm does so.
    ///
    /// ## Evidence
    ///
    /// Answers with at least one target over all answers that are found in the rows, where conversations have more than
    /// one; information below a share of `MOST`.
    ///
    /// ## How to fix
    ///
    /// Write one row for each answer that should be learnt, with the conversation up to it.
    ///
    /// ## References
    ///
    /// - <https://github.com/huggingface/trl/issues/1282>
    /// - <https://github.com/axolotl-ai-cloud/axolotl/issues/3098>
    /// - <https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/LORA.md>
    pub static EARLIER_TURNS_NOT_SUPERVISED = {
        name: "earlier-turns-not-supervised",
        code: "MASK006",
        summary: "only the last answers of conversations are trained on",
        phase: Baseline,
        severity: Info,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    if data.assistant_messages <= data.rows {
        return Outcome::not_applicable("conversations have one answer each");
    }
    let supervised = data.supervised_assistant_messages;
    if supervised as f64 >= MOST * data.assistant_messages as f64 {
        return Outcome::Pass;
    }
    Finding::new(
        format!(
            "only {} are trained on",
            out_of(supervised, data.assistant_messages, "answer")
        ),
        "earlier answers of a conversation count as prompt",
        "a target in every answer that should be learnt",
    )
    .with("rows", data.rows)
    .with("assistant_messages", data.assistant_messages)
    .with("supervised_assistant_messages", supervised)
    .fix(Fix::by_hand(
        "write one row for each answer that should be learnt, with the conversation up to it",
    ))
    .into()
}
