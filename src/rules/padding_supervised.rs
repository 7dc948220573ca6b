use super::rule::declare_rule;
use super::wording::{counted, out_of};
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// Targets behind the end of a row's own text: padding that the loss counts.
    ///
    /// ## Why it matters
    ///
    /// The model learns that padding follows an answer. Where the answer's end is not in the stop set, a run of token 0
    /// comes out, which is `!` in many vocabularies; and the loss is too low, as padding is easy to learn.
    ///
    /// ## Evidence
    ///
    /// Identity: no target lies behind the tokens that the row's own messages make. A second copy of the closing token
    /// is another rule's. At most one such target per row is information: stock mlx-lm has it, by one comparison that
    /// includes the length.
    ///
    /// ## How to fix
    ///
    /// Mask by the row's length, not by the id of the padding: a target counts while its position is below the length.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/pull/1697>
    /// - <https://github.com/unslothai/unsloth-zoo/issues/684>
    /// - <https://github.com/ml-explore/mlx-examples/issues/448>
    pub static PADDING_SUPERVISED = {
        name: "padding-supervised",
        code: "MASK005",
        summary: "the loss counts padding behind the rows",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "answers-unpredictable",
            "answers-not-to-their-prompts",
            "end-expected-everywhere",
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
    let rows = &data.rows_with_supervised_padding;
    if rows.is_empty() {
        return Outcome::Pass;
    }
    let targets = data.supervised_padding_tokens;
    let finding = Finding::new(
        format!(
            "{} have padding behind their end that the loss counts",
            out_of(rows.total, data.rows, "row")
        ),
        format!("{} behind the ends of rows", counted(targets, "target")),
        "no target behind a row's own last token",
    )
    .at(rows)
    .with("rows", data.rows)
    .with("rows_with_supervised_padding", rows)
    .with("supervised_padding_tokens", targets)
    .fix(Fix::by_hand(
        "mask by length: count a target only while its position is below the row's own length",
    ));
    if targets > rows.total {
        finding.into()
    } else {
        finding.lowered_to(Severity::Info).into()
    }
}
