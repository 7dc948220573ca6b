use super::Outcome;
use super::rule::declare_rule;
use super::unusable::Unusable;
use crate::evidence::{Evidence, RefusalKind};

declare_rule! {
    /// ## What it finds
    ///
    /// Rows of conversations or of prompts and completions, and a tokenizer without a chat template.
    ///
    /// ## Why it matters
    ///
    /// Without the model's template there is no right way to write a conversation as text. A program that makes up one
    /// of its own trains on markers that the model never saw, and at inference the next program makes up another:
    /// endless answers, or markers in the text.
    ///
    /// ## Evidence
    ///
    /// Identity: rows that need a template have one. Rows of plain text need none, and a model without a template
    /// passes on them.
    ///
    /// ## How to fix
    ///
    /// Copy `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`, from the model that this one was made
    /// from; exports often lose it. A base model never had one: take its instruct version, or write the rows as plain
    /// text.
    ///
    /// ## References
    ///
    /// - <https://github.com/hiyouga/LlamaFactory/issues/8399>
    /// - <https://github.com/hiyouga/LlamaFactory/issues/5836>
    /// - <https://github.com/ml-explore/mlx-lm/issues/340>
    /// - <https://github.com/ml-explore/mlx-examples/issues/355>
    /// - <https://github.com/huggingface/text-generation-inference/issues/3247>
    pub static CHAT_TEMPLATE_MISSING = {
        name: "chat-template-missing",
        code: "MODEL012",
        summary: "the data holds conversations and the tokenizer has no chat template",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    Unusable {
        kind: RefusalKind::ChatTemplateMissing,
        expected: "a chat template in the tokenizer of a model that is trained on conversations",
        fix: "copy chat_template.jinja, or `chat_template` in tokenizer_config.json, from the model this one was made from",
    }
    .in_data(evidence)
}
