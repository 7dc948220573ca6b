use super::rule::declare_rule;
use super::wording::out_of;
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::{MOST, UNANSWERED_SHARE};

declare_rule! {
    /// ## What it finds
    ///
    /// Conversations whose last message is not the assistant's.
    ///
    /// ## Why it matters
    ///
    /// The last message is what is trained on. Without an answer the model learns to write the user's questions, or
    /// what a tool returned.
    ///
    /// ## Evidence
    ///
    /// The role of each conversation's last message. Above a share of `UNANSWERED_SHARE` it is a warning, an error
    /// if most rows are so; single ones are information.
    ///
    /// ## How to fix
    ///
    /// Let every conversation end with an answer: take off what follows it, or leave the row out. Look whether the
    /// answers are under another role or in another field.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/57>
    /// - <https://github.com/unslothai/unsloth/issues/334>
    /// - <https://github.com/ml-explore/mlx-examples/issues/458>
    pub static ROWS_WITHOUT_ANSWER = {
        name: "rows-without-answer",
        code: "DATA009",
        summary: "conversations do not end with an answer",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "nothing-supervised",
            "answers-unpredictable",
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
    if data.format == "text" {
        return Outcome::not_applicable("rows of plain text have no answers");
    }
    let rows = &data.rows_without_answer;
    if rows.is_empty() {
        return Outcome::Pass;
    }
    let share = rows.share_of(data.rows);
    let mut finding = Finding::new(
        format!("{} do not end with an answer", out_of(rows.total, data.rows, "row")),
        "a last message that is not the assistant's",
        "an assistant's message at the end of every conversation",
    )
    .at(rows)
    .with("rows", data.rows)
    .with("rows_without_answer", rows)
    .fix(Fix::by_hand(
        "let the rows that are named end with a message of the role `assistant`, or leave them out",
    ));
    finding.lowered_severity = if share >= MOST {
        None
    } else if share > UNANSWERED_SHARE {
        Some(Severity::Warning)
    } else {
        Some(Severity::Info)
    };
    finding.into()
}
