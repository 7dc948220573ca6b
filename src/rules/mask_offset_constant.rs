use super::rule::declare_rule;
use super::wording::{counted, out_of};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// Masks that end at the same token in every row, whatever the length of its prompt.
    ///
    /// ## Why it matters
    ///
    /// The length of the prompt was taken from the wrong thing: since version 5 of transformers `apply_chat_template`
    /// returns a dictionary of two entries, and its length is 2 for every row. Nearly all of each prompt is trained on,
    /// or answers lose their beginning.
    ///
    /// ## Evidence
    ///
    /// Identity: supervision begins where the prompt ends, so with prompts of different lengths it begins at different
    /// tokens. With prompts of one length only a start behind two tokens can be told from a mask that ends early.
    ///
    /// ## How to fix
    ///
    /// Take the length of the prompt's list of ids: `apply_chat_template(..., return_dict=False)`, or the entry
    /// `input_ids`.
    ///
    /// ## References
    ///
    /// - <https://github.com/huggingface/trl/issues/6105>
    /// - <https://github.com/huggingface/transformers/issues/41626>
    /// - <https://github.com/ml-explore/mlx-lm/issues/897>
    /// - <https://github.com/ml-explore/mlx-lm/issues/691>
    pub static MASK_OFFSET_CONSTANT = {
        name: "mask-offset-constant",
        code: "MASK004",
        summary: "masks end at the same token whatever the prompt",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "mask-boundary-wrong",
            "answers-not-to-their-prompts",
            "end-of-text-spam",
            "repetition-loop",
            "never-stops",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    if !evidence.settings.mask_prompt {
        return Outcome::not_applicable("prompts were not to be masked");
    }
    let boundary = &data.boundary;
    let Some(start) = boundary.constant else {
        return if boundary.rows < 2 {
            Outcome::not_applicable("fewer than two rows have a prompt to compare")
        } else {
            Outcome::Pass
        };
    };
    Finding::new(
        format!("every mask ends after {}, whatever the prompt", counted(start, "token")),
        format!(
            "the first target is token {} in {}, which is the end of no prompt",
            start + 1,
            out_of(boundary.rows, boundary.rows, "row")
        ),
        "a first target behind the end of each row's own prompt",
    )
    .with("rows", boundary.rows)
    .with("constant", start)
    .with("supervised_prompt_tokens", boundary.supervised_prompt_tokens)
    .fix(Fix::by_hand(
        "measure the prompt by its list of ids: `apply_chat_template(..., return_dict=False)`, whose result has one \
         entry per token",
    ))
    .into()
}
