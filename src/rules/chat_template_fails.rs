use super::Outcome;
use super::rule::declare_rule;
use super::unusable::Unusable;
use crate::evidence::{Evidence, RefusalKind};

declare_rule! {
    /// ## What it finds
    ///
    /// A chat template that is not valid, does not come to an end, renders nothing, or raises an error on a row, for
    /// example because roles do not alternate or a system message is not allowed.
    ///
    /// ## Why it matters
    ///
    /// A trainer that passes over such rows trains on fewer than it says, and one that falls back to another template
    /// trains on markers that inference does not use.
    ///
    /// ## Evidence
    ///
    /// Every row of the data is rendered with the model's own template before anything is trained. The first row that
    /// fails is named with its line and the template's own words.
    ///
    /// ## How to fix
    ///
    /// Give the rows the roles and the order that the template asks for: put a system message into the first question,
    /// join two messages of one role, begin with the user. If the template itself is broken, copy it from the model
    /// that this one was made from.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/57>
    /// - <https://github.com/ml-explore/mlx-examples/issues/458>
    /// - <https://github.com/unslothai/unsloth/issues/334>
    pub static CHAT_TEMPLATE_FAILS = {
        name: "chat-template-fails",
        code: "MODEL013",
        summary: "the chat template is broken or refuses the conversations of the data",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    Unusable {
        kind: RefusalKind::ChatTemplateFailed,
        expected: "a template that renders every row of the data",
        fix: "put a system message into the first question, join two messages of one role, and begin with the user",
    }
    .in_data(evidence)
}
