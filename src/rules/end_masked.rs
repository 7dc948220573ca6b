use super::rule::declare_rule;
use super::wording::out_of;
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::MASKED_END_ROWS;

declare_rule! {
    /// ## What it finds
    ///
    /// Rows that end with a stop token which the loss does not count.
    ///
    /// ## Why it matters
    ///
    /// The data looks right, with an end in every row, and the model never learns it. This happens when padding and
    /// end are one token and the mask goes by the token's id: with the padding it takes the true end.
    ///
    /// ## Evidence
    ///
    /// Identity: in a row with targets the stop token that closes its text is a target. Padding behind it may share its
    /// id and is rightly none. Up to a share of `MASKED_END_ROWS` it is a warning.
    ///
    /// ## How to fix
    ///
    /// Mask by the row's length, not by the id of the padding, or pad with a token of its own.
    ///
    /// ## References
    ///
    /// - <https://github.com/huggingface/transformers/issues/23530>
    /// - <https://github.com/huggingface/trl/issues/976>
    /// - <https://github.com/huggingface/transformers/issues/22794>
    /// - <https://github.com/foundation-model-stack/fms-hf-tuning/issues/343>
    /// - <https://github.com/mlabonne/llm-course/issues/33>
    pub static END_MASKED = {
        name: "end-masked",
        code: "EOS005",
        summary: "rows end with a stop token that the loss does not count",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["ends-not-trained", "never-stops", "repetition-loop"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    if data.supervised_tokens == 0 {
        return Outcome::not_applicable("no token is supervised at all");
    }
    let rows = &data.rows_with_masked_end;
    if rows.is_empty() {
        return Outcome::Pass;
    }
    let finding = Finding::new(
        format!("the end of {} is masked", out_of(rows.total, data.rows, "row")),
        "a stop token closes these rows and is no target",
        "the token that ends an answer is a target like its words",
    )
    .at(rows)
    .with("rows", data.rows)
    .with("rows_with_masked_end", rows)
    .with("supervised_stop_tokens", data.supervised_stop_tokens)
    .fix(Fix::by_hand(
        "mask padding by the row's length instead of by its id, or pad with a token that ends nothing",
    ));
    if rows.share_of(data.rows) > MASKED_END_ROWS {
        finding.into()
    } else {
        finding.lowered_to(Severity::Warning).into()
    }
}
