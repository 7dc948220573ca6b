use super::rule::declare_rule;
use super::wording::counted;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::OUTLIER_ROW_LENGTH;

declare_rule! {
    /// ## What it finds
    ///
    /// Data whose longest row is many times as long as the usual one.
    ///
    /// ## Why it matters
    ///
    /// A batch is as long as its longest row, and attention grows with the square of that. A run that is fine for hours
    /// can fail for want of memory in the one batch that holds such a row.
    ///
    /// ## Evidence
    ///
    /// The longest row, as it is trained on, is more than `OUTLIER_ROW_LENGTH` times as long as the median row.
    ///
    /// ## How to fix
    ///
    /// Split the longest rows, drop them, or lower the length limit if their ends may be lost.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/236>
    /// - <https://github.com/ml-explore/mlx-lm/issues/828>
    /// - <https://github.com/ml-explore/mlx-examples/issues/481>
    /// - <https://github.com/ml-explore/mlx-examples/issues/664>
    pub static OUTLIER_ROW = {
        name: "outlier-row",
        code: "MEM003",
        summary: "the longest row is many times as long as the usual one",
        phase: Baseline,
        severity: Info,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    if data.median_row == 0 {
        return Outcome::not_applicable("the median row has no token");
    }
    let longest = data.longest_row.min(evidence.settings.max_sequence_length);
    let ratio = longest as f64 / data.median_row as f64;
    if ratio <= OUTLIER_ROW_LENGTH {
        return Outcome::Pass;
    }
    Finding::new(
        format!("the longest row is {ratio:.0} times as long as the median row"),
        format!(
            "a row of {} where half of the rows have at most {}",
            counted(longest, "token"),
            counted(data.median_row, "token")
        ),
        format!("rows of at most {OUTLIER_ROW_LENGTH} times the median length"),
    )
    .with("longest_row", longest)
    .with("median_row", data.median_row)
    .fix(Fix::by_hand(
        "split or drop the longest rows: the batch that holds one needs far more memory than the others",
    ))
    .into()
}
