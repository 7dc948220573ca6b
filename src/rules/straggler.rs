use super::rule::declare_rule;
use super::wording::{factor, out_of, percentage};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Listing, RankUpdate, RanksUpdate, Slot};
use crate::thresholds::{FEWEST_TIMED_UPDATES, SLOW_UPDATES, SLOWER_RANK};

declare_rule! {
    /// ## What it finds
    ///
    /// One process for which all others wait in every update.
    ///
    /// ## Why it matters
    ///
    /// An update takes as long as its slowest process. One machine that is hot, busy, swapping or reads its data from a
    /// slow disk makes all of them slow.
    ///
    /// ## Evidence
    ///
    /// The seconds that each process computes before it is ready for the others. The same one takes `SLOWER_RANK` times
    /// as long as every other, for all of its rows and for each position of them, in at least `SLOW_UPDATES` of the
    /// updates after the first, of which there are at least `FEWEST_TIMED_UPDATES`.
    ///
    /// ## How to fix
    ///
    /// Look at the machine: other work, memory pressure, heat, power mode, the disk and network that it reads from. A
    /// machine that is slower by build needs fewer rows, or is better left out.
    ///
    /// ## References
    ///
    /// - <https://arxiv.org/abs/2505.05713>
    /// - <https://github.com/intelligent-machine-learning/dlrover/issues/678>
    /// - <https://github.com/deepspeedai/DeepSpeed/issues/1617>
    pub static STRAGGLER = {
        name: "straggler",
        code: "RANK006",
        summary: "one rank is much slower than all others",
        phase: Training,
        severity: Warning,
        status: Preview,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(ranks) = &evidence.ranks else {
        return Outcome::not_measured("training by several ranks", &evidence.ranks);
    };
    // The first update compiles and reads weights in.
    let timed: Vec<&RanksUpdate> = ranks.updates.iter().skip(1).filter(|update| is_timed(update)).collect();
    if timed.len() < FEWEST_TIMED_UPDATES {
        return Outcome::not_applicable(format!(
            "fewer than {FEWEST_TIMED_UPDATES} updates after the first in which every rank had rows"
        ));
    }
    let slow_in = |rank: usize| timed.iter().filter(|update| is_slow(update, rank)).count();
    let Some(rank) = (0..ranks.size).find(|&rank| slow_in(rank) as f64 >= SLOW_UPDATES * timed.len() as f64) else {
        return Outcome::Pass;
    };
    let own = sum(&timed, |update| update.ranks[rank].own_seconds);
    let of_slowest_other = sum(&timed, |update| {
        let others = update.ranks.iter().enumerate().filter(|(other, _)| *other != rank);
        others.map(|(_, other)| other.own_seconds).fold(0.0, f64::max)
    });
    let waited = 1.0 - of_slowest_other / own;
    Finding::new(
        format!("all others wait for rank {rank}"),
        format!(
            "{} times the seconds of the next slowest rank, slowest in {}; the others wait for {} of that time",
            factor(own / of_slowest_other),
            out_of(slow_in(rank), timed.len(), "update"),
            percentage(waited)
        ),
        "about the same seconds on every rank",
    )
    .at(&Listing::numbered("rank", std::iter::once(rank)))
    .with("rank", rank)
    .with("factor", own / of_slowest_other)
    .with("waited_share", waited)
    .with("slow_updates", slow_in(rank))
    .with("updates", timed.len())
    .fix(Fix::by_hand(format!(
        "look at the machine of rank {rank}: other work, memory pressure, heat, power mode, and where it reads its data from; give \
         a machine that is slower by build fewer rows, or leave it out"
    )))
    .into()
}

fn is_timed(update: &RanksUpdate) -> bool {
    update.ranks.len() > 1
        && update
            .ranks
            .iter()
            .all(|rank| rank.positions > 0 && rank.own_seconds > 0.0)
}

/// Whether a rank took longer than every other, and not because it had more to do.
fn is_slow(update: &RanksUpdate, rank: usize) -> bool {
    let slower = |measure: fn(&RankUpdate) -> f64| {
        let own = measure(&update.ranks[rank]);
        let others = update.ranks.iter().enumerate().filter(|(other, _)| *other != rank);
        others
            .map(|(_, other)| measure(other))
            .all(|other| own >= SLOWER_RANK * other)
    };
    slower(|rank| rank.own_seconds) && slower(|rank| rank.own_seconds / rank.positions as f64)
}

fn sum(updates: &[&RanksUpdate], seconds: impl Fn(&RanksUpdate) -> f64) -> f64 {
    updates.iter().map(|update| seconds(update)).sum()
}
