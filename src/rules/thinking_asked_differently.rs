use super::rule::declare_rule;
use super::wording::out_of;
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::ASKED_DIFFERENTLY_ROWS;

declare_rule! {
    /// ## What it finds
    ///
    /// Rows that begin as inference will ask them but for a block of thoughts, which inference opens and they lack.
    ///
    /// ## Why it matters
    ///
    /// A model that reasons is asked with an open or an empty block of thoughts, by its template's setting
    /// `enable_thinking`. If the rows were rendered with the other setting, what was trained stands behind a text that
    /// never comes: the model still thinks, or empty blocks leak into answers.
    ///
    /// ## Evidence
    ///
    /// Identity: the tokens of a row begin with the tokens that inference asks. Here they do only once empty and open
    /// blocks of thoughts are taken out of both. A row that has such a block where inference leaves it to the model is
    /// healthy. Up to a share of `ASKED_DIFFERENTLY_ROWS` it is a warning.
    ///
    /// ## How to fix
    ///
    /// Use the same setting on both sides: put the block that inference opens into the rows, or turn the setting off
    /// where the model is asked.
    ///
    /// ## References
    ///
    /// - <https://github.com/hiyouga/LlamaFactory/issues/7978>
    /// - <https://github.com/hiyouga/LlamaFactory/issues/9765>
    /// - <https://github.com/QwenLM/Qwen3/issues/1575>
    pub static THINKING_ASKED_DIFFERENTLY = {
        name: "thinking-asked-differently",
        code: "DATA003",
        summary: "inference opens a block of thoughts that the rows do not have",
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
    let Some(difference) = &template.thoughts_difference else {
        return Outcome::Pass;
    };
    let rows = &template.asked_with_other_thoughts;
    let finding = Finding::new(
        format!(
            "{} lack the block of thoughts that inference opens",
            out_of(rows.total, template.rows, "row")
        ),
        format!("{} was trained with {:?}", difference.row, difference.trained),
        format!("the text that inference asks with, {:?}", difference.asked),
    )
    .at(rows)
    .with("rows", template.rows)
    .with("asked_with_other_thoughts", rows)
    .with("trained", difference.trained.as_str())
    .with("asked", difference.asked.as_str())
    .fix(Fix::by_hand(
        "put the block of thoughts that inference opens in front of every answer of the data",
    ))
    .fix(Fix::by_hand(
        "or ask without it: `--chat-template-config '{\"enable_thinking\": false}'` of mlx_lm.generate, where the \
         template knows the setting",
    ));
    if rows.share_of(template.rows) > ASKED_DIFFERENTLY_ROWS {
        finding.into()
    } else {
        finding.lowered_to(Severity::Warning).into()
    }
}
