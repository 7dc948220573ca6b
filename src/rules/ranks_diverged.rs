use super::rule::declare_rule;
use super::wording::{difference, out_of};
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Evidence, Listing, RankUpdate, RanksEvidence, RanksUpdate, Slot};
use crate::thresholds::ROUNDED_APART;

declare_rule! {
    /// ## What it finds
    ///
    /// Processes of one training that do not train the same values.
    ///
    /// ## Why it matters
    ///
    /// The gradients of one process are applied to the values of another, for which they are wrong. The loss falls on,
    /// more slowly, and one of several models is saved.
    ///
    /// ## Evidence
    ///
    /// A checksum of the bits of all trained values, of every process before the first update and after each one. How
    /// far apart the values are is estimated by their products with the same random signs: up to `ROUNDED_APART` of
    /// their length it is rounding, as between machines whose kernels add in another order, and a warning.
    ///
    /// ## How to fix
    ///
    /// Where they begin with different values: send those of rank 0 to all before the first update, after adapters are
    /// attached and checkpoints are loaded. Where they drift apart: look for what differs from rank to rank, such as a
    /// learning rate, the optimizer's state after a resume, the order in which gradients are added, or gradients that
    /// arrive damaged.
    ///
    /// ## References
    ///
    /// - <https://github.com/horovod/horovod/issues/672>
    /// - <https://github.com/horovod/horovod/issues/1927>
    /// - <https://github.com/horovod/horovod/issues/1512>
    pub static RANKS_DIVERGED = {
        name: "ranks-diverged",
        code: "RANK005",
        summary: "the trained values are not the same on every rank",
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
    let at_start = others_than_first(&ranks.start);
    if ranks.updates.is_empty() && at_start.is_empty() {
        return Outcome::not_applicable("no update was made by all ranks");
    }
    let first_apart = ranks.updates.iter().find(|update| !apart(update).is_empty());
    let (others, since) = match (at_start.as_slice(), first_apart) {
        ([], None) => return Outcome::Pass,
        ([], Some(update)) => (apart(update), update.update),
        (_, _) => (at_start, 0),
    };
    let distance = largest_distance(ranks);
    let finding = Finding::new(
        match since {
            0 => "the ranks begin with different values".to_owned(),
            update => format!("the trained values differ from rank to rank from update {update} on"),
        },
        format!(
            "other values than on rank 0 on {}{}",
            out_of(others.len(), ranks.size, "rank"),
            match distance {
                Some(_) if ranks.updates.is_empty() => String::new(),
                Some(distance) => format!(", up to {} of their length apart", difference(Some(distance))),
                None => ", some of them not finite".to_owned(),
            }
        ),
        "the same bits on every rank after every update",
    )
    .at(&Listing::numbered("rank", others.iter().copied()))
    .with("first_update", since)
    .with("distance", distance)
    .with("ranks", ranks.size)
    .fix(Fix::by_hand(match since {
        0 => "send the trained values of rank 0 to all ranks once adapters are attached and checkpoints are loaded",
        _ => {
            "compare what the ranks do between gradient and update: learning rates, the state of the optimizer, clipping, and \
             whether all of them receive the same gradients"
        }
    }));
    if !ranks.updates.is_empty() && distance.is_some_and(|distance| distance <= ROUNDED_APART) {
        return finding.lowered_to(Severity::Warning).into();
    }
    finding.into()
}

/// The ranks whose checksum is another than that of the first.
fn others_than_first(checksums: &[u32]) -> Vec<usize> {
    let differs = |rank: &usize| Some(&checksums[*rank]) != checksums.first();
    (0..checksums.len()).filter(differs).collect()
}

fn apart(update: &RanksUpdate) -> Vec<usize> {
    let checksums: Vec<u32> = update.ranks.iter().map(|rank| rank.parameters).collect();
    others_than_first(&checksums)
}

/// How far the values of any rank were from those of the first, as a share of their length; `None` where they are no numbers.
fn largest_distance(ranks: &RanksEvidence) -> Option<f64> {
    let of_update = |update: &RanksUpdate| -> Option<f64> {
        let first = update.ranks.first()?.trained?;
        let distance = |rank: &RankUpdate| Some((rank.trained?.projection - first.projection).abs());
        let distances: Vec<f64> = update.ranks.iter().map(distance).collect::<Option<_>>()?;
        Some(distances.into_iter().fold(0.0, f64::max) / first.norm.max(f64::MIN_POSITIVE))
    };
    let distances: Vec<f64> = ranks.updates.iter().map(of_update).collect::<Option<_>>()?;
    Some(distances.into_iter().fold(0.0, f64::max))
}
