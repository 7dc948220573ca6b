use super::rule::declare_rule;
use super::wording::{counted, out_of};
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::{MOST, REPEATED_END_ROWS};

declare_rule! {
    /// ## What it finds
    ///
    /// Rows whose closing stop token comes again behind itself, as a target.
    ///
    /// ## Why it matters
    ///
    /// Each copy counts in the loss. When rows are padded with the end and the padding is not masked, most targets of
    /// a short row are ends: the loss falls fast, and the model learns to end rather than to answer.
    ///
    /// ## Evidence
    ///
    /// Identity: a stop token closes a row once. One copy per row is information, as an appended end behind a rendered
    /// one does little harm. More are a warning above a share of `REPEATED_END_ROWS` and an error if most rows have
    /// them.
    ///
    /// ## How to fix
    ///
    /// Mask by the row's length. Append no end to rows that the chat template closes, and take ends out of the answers'
    /// own text.
    ///
    /// ## References
    ///
    /// - <https://github.com/unslothai/unsloth/issues/416>
    /// - <https://github.com/ml-explore/mlx-examples/pull/818>
    /// - <https://github.com/ml-explore/mlx-lm/pull/1697>
    pub static END_REPEATED = {
        name: "end-repeated",
        code: "EOS006",
        summary: "the stop token that closes a row comes again as a target",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["end-of-text-spam", "repetition-loop"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    let rows = &data.rows_with_repeated_end;
    if rows.is_empty() {
        return Outcome::Pass;
    }
    let copies = data.repeated_end_tokens;
    let share = rows.share_of(data.rows);
    let mut finding = Finding::new(
        format!("{} end more than once", out_of(rows.total, data.rows, "row")),
        format!(
            "{} behind the token that closes the row, as targets",
            counted(copies, "further stop token")
        ),
        "one end per row",
    )
    .at(rows)
    .with("rows", data.rows)
    .with("rows_with_repeated_end", rows)
    .with("repeated_end_tokens", copies)
    .with("supervised_tokens", data.supervised_tokens)
    .fix(Fix::by_hand(
        "mask what follows the first end of a row, and append none where the chat template or the answer has one",
    ));
    finding.lowered_severity = if copies <= rows.total || share <= REPEATED_END_ROWS {
        Some(Severity::Info)
    } else if share < MOST {
        Some(Severity::Warning)
    } else {
        None
    };
    finding.into()
}
