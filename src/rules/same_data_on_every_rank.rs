use std::collections::BTreeSet;

use super::rule::declare_rule;
use super::wording::{counted, out_of};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Listing, RankUpdate, RanksUpdate, Slot};
use crate::thresholds::MOST;

declare_rule! {
    /// ## What it finds
    ///
    /// Processes that compute the same rows.
    ///
    /// ## Why it matters
    ///
    /// The mean of the same gradients is the gradient of one process: the others cost time and add nothing, and the
    /// rows that they should have had are not trained on. The loss falls as it would.
    ///
    /// ## Evidence
    ///
    /// Which rows each process computes, by their places in the data, or by checksums of their tokens where the
    /// trainer does not know these. It counts when in more than `MOST` of the updates more than half of the rows of
    /// one process are among those of another.
    ///
    /// ## How to fix
    ///
    /// Give each process rows of its own: every n-th row from its rank on, or a sampler that knows rank and number of
    /// processes. A loader that shuffles needs the same seed everywhere before it is divided, or another one on each
    /// rank where it is not.
    ///
    /// ## References
    ///
    /// - <https://github.com/k2-fsa/icefall/issues/1616>
    /// - <https://github.com/Shark-NLP/DiffuSeq/issues/37>
    /// - <https://github.com/openspeech-team/openspeech/issues/149>
    /// - <https://github.com/horovod/horovod/issues/173>
    pub static SAME_DATA_ON_EVERY_RANK = {
        name: "same-data-on-every-rank",
        code: "RANK002",
        summary: "several ranks compute the same rows",
        phase: Training,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &["loss-counts-prompts", "loss-counts-padding", "loss-miscomputed"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(ranks) = &evidence.ranks else {
        return Outcome::not_measured("training by several ranks", &evidence.ranks);
    };
    if ranks.updates.iter().any(has_copies) {
        return Outcome::not_applicable("the data has rows that cannot be told apart");
    }
    let judged: Vec<&RanksUpdate> = ranks.updates.iter().filter(|update| with_rows(update) > 1).collect();
    if judged.is_empty() {
        return Outcome::not_applicable("in no update two ranks had rows");
    }
    let shared: Vec<BTreeSet<usize>> = judged
        .iter()
        .map(|update| ranks_that_share(update))
        .filter(|ranks| !ranks.is_empty())
        .collect();
    if shared.len() as f64 <= MOST * judged.len() as f64 {
        return Outcome::Pass;
    }
    let concerned: BTreeSet<usize> = shared.iter().flatten().copied().collect();
    let computed: usize = judged.iter().map(|update| distinct_rows(update)).sum();
    let meant: usize = judged.iter().map(|update| update.rows).sum();
    Finding::new(
        format!("{} of {} ranks compute the same rows", concerned.len(), ranks.size),
        format!(
            "the same rows on several ranks in {}; only {} of these updates were computed by some rank",
            out_of(shared.len(), judged.len(), "update"),
            out_of(computed, meant, "row")
        ),
        "every row of an update on one rank, and no row on two",
    )
    .at(&Listing::numbered("rank", concerned.iter().copied()))
    .with("updates", judged.len())
    .with("updates_with_shared_rows", shared.len())
    .with("rows_computed", computed)
    .with("rows_meant", meant)
    .fix(Fix::by_hand(format!(
        "divide each batch among the {}: to each every n-th row from its own number on, n being {}",
        counted(ranks.size, "rank"),
        ranks.size
    )))
    .into()
}

/// Whether one rank has a row twice in one update.
fn has_copies(update: &RanksUpdate) -> bool {
    let repeats = |rank: &RankUpdate| rank.rows.windows(2).any(|pair| pair[0] == pair[1]);
    update.ranks.iter().any(repeats)
}

fn with_rows(update: &RanksUpdate) -> usize {
    update.ranks.iter().filter(|rank| !rank.rows.is_empty()).count()
}

fn distinct_rows(update: &RanksUpdate) -> usize {
    let rows: BTreeSet<usize> = update.ranks.iter().flat_map(|rank| rank.rows.iter().copied()).collect();
    rows.len()
}

/// The ranks most of whose rows another one has too.
fn ranks_that_share(update: &RanksUpdate) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for (rank, own) in update.ranks.iter().enumerate() {
        for (other, others) in update.ranks.iter().enumerate().filter(|(other, _)| *other != rank) {
            let common = own.rows.iter().filter(|row| others.rows.contains(row)).count();
            if common as f64 > MOST * own.rows.len() as f64 {
                found.extend([rank, other]);
            }
        }
    }
    found
}
