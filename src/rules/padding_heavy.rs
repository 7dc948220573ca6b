use super::rule::declare_rule;
use super::wording::{counted, grouped, percentage};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::PADDING_SHARE;

declare_rule! {
    /// ## What it finds
    ///
    /// Batches that are padding to a large part.
    ///
    /// ## Why it matters
    ///
    /// Padding is computed like any token and teaches nothing: time and memory are spent on it. Long and short rows
    /// share batches when rows are not sorted by length, which stock mlx-lm means to do and does not.
    ///
    /// ## Evidence
    ///
    /// Positions of all steps that hold no token, over all positions; information above a share of `PADDING_SHARE`.
    ///
    /// ## How to fix
    ///
    /// Sort the rows of the file by length, so that neighbours are alike, or take fewer rows per step.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/596>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1029>
    pub static PADDING_HEAVY = {
        name: "padding-heavy",
        code: "DATA010",
        summary: "batches are padding to a large part",
        phase: Training,
        severity: Info,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(training) = &evidence.training else {
        return Outcome::not_measured("training", &evidence.training);
    };
    let positions: usize = training.steps.iter().map(|step| step.positions).sum();
    let tokens: usize = training.steps.iter().map(|step| step.tokens).sum();
    if positions == 0 {
        return Outcome::not_applicable("no step was made");
    }
    let padding = positions.saturating_sub(tokens);
    let share = padding as f64 / positions as f64;
    if share <= PADDING_SHARE {
        return Outcome::Pass;
    }
    Finding::new(
        format!("{} of what is computed is padding", percentage(share)),
        format!(
            "{} of {} hold no token",
            grouped(padding as u64),
            counted(positions, "position")
        ),
        format!("at most {}", percentage(PADDING_SHARE)),
    )
    .with("positions", positions)
    .with("tokens", tokens)
    .fix(Fix::by_hand(
        "put rows of like length into one batch: sort the file by length, or take fewer rows per step",
    ))
    .into()
}
