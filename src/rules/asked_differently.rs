use super::rule::declare_rule;
use super::wording::out_of;
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::ASKED_DIFFERENTLY_ROWS;

declare_rule! {
    /// ## What it finds
    ///
    /// Rows that do not begin as inference will ask them.
    ///
    /// ## Why it matters
    ///
    /// The model learns its answers behind one text and is asked with another: the header of the answer is missing,
    /// the turn markers are another family's, or control tokens were written as ordinary text. Training looks
    /// perfect, and at inference the answers are the base's, or nonsense.
    ///
    /// ## Evidence
    ///
    /// Identity: the tokens of a row begin with the tokens that the model's own chat template makes of its question,
    /// header of the answer included. Where only the last letters of the question melt into the answer's first token,
    /// the texts are equal and nothing is wrong. A row that differs by a block of thoughts or by a second
    /// beginning-of-text token alone is another rule's. Up to a share of `ASKED_DIFFERENTLY_ROWS` it is a warning.
    ///
    /// ## How to fix
    ///
    /// Make both texts with one and the same call of the chat template. Rows that were written by hand as plain text
    /// have to be asked without the template.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/849>
    /// - <https://github.com/ml-explore/mlx-examples/issues/761>
    /// - <https://github.com/hiyouga/LlamaFactory/issues/6736>
    /// - <https://github.com/mkupermann/souprise/issues/17>
    pub static ASKED_DIFFERENTLY = {
        name: "asked-differently",
        code: "DATA002",
        summary: "rows do not begin as inference will ask them",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "mask-boundary-wrong",
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
    let template = &data.template;
    if template.rows == 0 {
        return Outcome::not_applicable("no row has a question and an answer to compare");
    }
    let Some(difference) = &template.difference else {
        return Outcome::Pass;
    };
    let rows = &template.asked_differently;
    let finding = Finding::new(
        format!(
            "{} do not begin as inference will ask them",
            out_of(rows.total, template.rows, "row")
        ),
        format!("{} was trained with {:?}", difference.row, difference.trained),
        format!("the text that inference asks with, {:?}", difference.asked),
    )
    .at(rows)
    .with("rows", template.rows)
    .with("asked_differently", rows)
    .with("trained", difference.trained.as_str())
    .with("asked", difference.asked.as_str())
    .fix(Fix::by_hand(
        "make the rows with the model's own chat template, the header of the answer included, in the same call that \
         inference uses",
    ));
    if rows.share_of(template.rows) > ASKED_DIFFERENTLY_ROWS {
        finding.into()
    } else {
        finding.lowered_to(Severity::Warning).into()
    }
}
