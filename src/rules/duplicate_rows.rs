use super::rule::declare_rule;
use super::wording::{out_of, percentage};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::{DUPLICATE_SHARE, FEWEST_DUPLICATES};

declare_rule! {
    /// ## What it finds
    ///
    /// Rows that are copies of earlier rows.
    ///
    /// ## Why it matters
    ///
    /// Copies count several times in every epoch: the model learns them by heart and the rest less, and where copies
    /// fall into the validation rows the validation loss looks too good.
    ///
    /// ## Evidence
    ///
    /// Rows equal to an earlier row token for token, before any cut. A warning above a share of `DUPLICATE_SHARE`, if
    /// there are at least `FEWEST_DUPLICATES` of them.
    ///
    /// ## How to fix
    ///
    /// Remove the copies before the data is split. Repetition on purpose is better done by more epochs.
    ///
    /// ## References
    ///
    /// - <https://github.com/OpenRLHF/OpenRLHF/issues/1089>
    /// - <https://github.com/huggingface/datasets/issues/4261>
    pub static DUPLICATE_ROWS = {
        name: "duplicate-rows",
        code: "DATA007",
        summary: "rows are copies of earlier rows",
        phase: Baseline,
        severity: Warning,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    let copies = &data.duplicate_rows;
    let share = copies.share_of(data.rows);
    if share <= DUPLICATE_SHARE || copies.total < FEWEST_DUPLICATES {
        return Outcome::Pass;
    }
    Finding::new(
        format!("{} are copies of earlier ones", out_of(copies.total, data.rows, "row")),
        format!("{} of the data repeats, token for token", percentage(share)),
        format!("at most {} copies", percentage(DUPLICATE_SHARE)),
    )
    .at(copies)
    .with("rows", data.rows)
    .with("duplicate_rows", copies)
    .fix(Fix::by_hand(
        "keep each row once, for example with `awk '!seen[$0]++' train.jsonl > unique.jsonl`",
    ))
    .into()
}
