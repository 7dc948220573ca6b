use super::rule::declare_rule;
use super::wording::counted;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// A process of a training that was lost: it was killed, stopped, cut off, or it failed.
    ///
    /// ## Why it matters
    ///
    /// The others cannot go on without it. MLX's collectives wait for a lost process for ever and say nothing;
    /// processes that do not watch each other stand still until somebody looks.
    ///
    /// ## Evidence
    ///
    /// No sign of the process for ten seconds, where it gives one four times in a second; or its own word that it
    /// failed.
    ///
    /// ## How to fix
    ///
    /// Look at what the lost process printed, at its machine, and at the network between the two. Then go on from the
    /// last checkpoint, on as many processes as there are.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx/issues/3862>
    /// - <https://github.com/ml-explore/mlx/issues/4278>
    /// - <https://github.com/ml-explore/mlx/issues/3910>
    pub static RANK_LOST = {
        name: "rank-lost",
        code: "RANK001",
        summary: "a process of the training was lost",
        phase: Training,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(ranks) = &evidence.ranks else {
        return Outcome::not_measured("training by several ranks", &evidence.ranks);
    };
    let Some(lost) = &ranks.lost else {
        return Outcome::Pass;
    };
    Finding::new(
        format!("rank {} was lost after {}", lost.rank, counted(lost.updates, "update")),
        lost.how.clone(),
        format!("a sign of all {} ranks until the last update", ranks.size),
    )
    .with("rank", lost.rank)
    .with("ranks", ranks.size)
    .with("updates", lost.updates)
    .fix(Fix::by_hand(format!(
        "look at what rank {} printed last, whether its machine is up and had memory left, and whether it can be reached from the \
         others",
        lost.rank
    )))
    .into()
}
