use super::rule::declare_rule;
use super::wording::counted;
use super::{Applicability, Finding, Fix, Outcome, Rerun};
use crate::evidence::{Evidence, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// Data with fewer rows than a step takes.
    ///
    /// ## Why it matters
    ///
    /// This program trains on all rows in every step then. mlx-lm refuses the data, with a message that names the
    /// batch size and not the rows, so the run cannot be repeated there as it is.
    ///
    /// ## Evidence
    ///
    /// The rows of the data against the batch size.
    ///
    /// ## How to fix
    ///
    /// Lower the batch size to the number of rows, or add rows.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/458>
    /// - <https://github.com/ml-explore/mlx-lm/issues/57>
    pub static FEWER_ROWS_THAN_A_BATCH = {
        name: "fewer-rows-than-a-batch",
        code: "DATA011",
        summary: "the data has fewer rows than a step takes",
        phase: Baseline,
        severity: Info,
        status: Stable,
        since: "0.1.0",
        explains: &[],
        offers_command: true,
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(data) = &evidence.data else {
        return Outcome::not_measured("the data", &evidence.data);
    };
    let batch_size = evidence.settings.batch_size;
    if data.rows >= batch_size {
        return Outcome::Pass;
    }
    Finding::new(
        "the data has fewer rows than a step takes",
        format!("{} for steps of {batch_size}", counted(data.rows, "row")),
        format!("at least {}", counted(batch_size, "row")),
    )
    .with("rows", data.rows)
    .with("batch_size", batch_size)
    .fix(Fix::command(
        "take as many rows per step as there are",
        Rerun::of(&evidence.settings).batch_size(data.rows),
        Applicability::MachineApplicable,
    ))
    .into()
}
