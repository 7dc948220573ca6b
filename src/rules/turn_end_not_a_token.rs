use super::rule::declare_rule;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// The chat template ends answers with a tag that the tokenizer has no token for: the template of another model.
    ///
    /// ## Why it matters
    ///
    /// To this tokenizer the tag is a few ordinary letters. Training teaches the letters and no end, so the model writes
    /// them and goes on; and a model that was trained with its own template does not recognise the question.
    ///
    /// ## Evidence
    ///
    /// Identity: among the tags, `<...>`, that the chat template writes behind an answer there is one that is a token.
    ///
    /// ## How to fix
    ///
    /// Take the chat template that belongs to the tokenizer: that of the base's own files.
    ///
    /// ## References
    ///
    /// - <https://github.com/hiyouga/LlamaFactory/issues/6736>
    /// - <https://github.com/ml-explore/mlx-examples/issues/849>
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/1254>
    pub static TURN_END_NOT_A_TOKEN = {
        name: "turn-end-not-a-token",
        code: "EOS010",
        summary: "the chat template ends answers with a tag that is no token of the tokenizer",
        phase: Baseline,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[
            "asked-differently",
            "rows-without-end",
            "base-cannot-predict",
            "training-diverged",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
            "forgetting",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(model) = &evidence.model else {
        return Outcome::not_measured("the model", &evidence.model);
    };
    if !model.has_chat_template {
        return Outcome::not_applicable("there is no chat template");
    }
    if evidence.data.ran().is_some_and(|data| data.format == "text") {
        return Outcome::not_applicable("the rows are plain text, in which nobody takes turns");
    }
    let tags = &model.split_turn_ends;
    if tags.is_empty() {
        return Outcome::Pass;
    }
    let quoted: Vec<String> = tags.iter().map(|tag| format!("`{tag}`")).collect();
    Finding::new(
        format!(
            "the chat template belongs to another model: it ends answers with {}, which is no token here",
            quoted.join(" ")
        ),
        format!("{} behind an answer, split into ordinary tokens", quoted.join(" ")),
        "a tag behind every answer that the tokenizer holds as one token",
    )
    .with("split_turn_ends", tags.clone())
    .fix(Fix::by_hand(format!(
        "put the chat template of the base's own files back into `{}`",
        evidence.settings.model
    )))
    .into()
}
