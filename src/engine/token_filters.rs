//! Which tokens may be drawn.

use std::cmp::Ordering;

use super::SamplingSettings;

/// How many of the likeliest tokens are sorted at first in search of those that top-p keeps.
const FIRST_SORTED: usize = 64;

/// A token and its logit less the largest one, so that the likeliest has 0.
pub type Candidate = (u32, f32);

/// The tokens that top-p, min-p and top-k leave, in the order of their ids; the likeliest is always among them.
///
/// mlx-lm applies the three in this order. Each keeps the tokens down to some place in one order of likelihood, so they
/// can be applied in any order as long as top-p counts its share of the whole distribution, whose sum of exponentials is
/// `total`; the cheap ones go first. Equally likely tokens stay or go together, except that top-k has to choose and takes
/// the lower ids.
pub fn survivors(
    logits: &[f32],
    largest: f32,
    total: impl FnOnce() -> f64,
    settings: &SamplingSettings,
) -> Vec<Candidate> {
    let floor = if settings.min_p > 0.0 {
        settings.min_p.ln()
    } else {
        f32::NEG_INFINITY
    };
    let mut candidates: Vec<Candidate> = (0..)
        .zip(logits.iter().map(|logit| logit - largest))
        .filter(|(_, relative)| *relative >= floor)
        .collect();
    let mut is_ordered = true;
    if 0 < settings.top_k && settings.top_k < candidates.len() {
        candidates.select_nth_unstable_by(settings.top_k - 1, likelier_first);
        candidates.truncate(settings.top_k);
        is_ordered = false;
    }
    if 0.0 < settings.top_p && settings.top_p < 1.0 {
        keep_nucleus(&mut candidates, f64::from(settings.top_p) * total());
        is_ordered = false;
    }
    if !is_ordered {
        candidates.sort_unstable_by_key(|(id, _)| *id);
    }
    candidates
}

/// Keeps the likeliest tokens up to the one with which their sum of exponentials reaches `mass`, and those as likely as it.
fn keep_nucleus(candidates: &mut Vec<Candidate>, mass: f64) {
    let mut above = 0.0;
    let mut sorted = 0;
    let mut sort_next = FIRST_SORTED;
    while sorted < candidates.len() {
        let unsorted = &mut candidates[sorted..];
        let count = sort_next.min(unsorted.len());
        if count < unsorted.len() {
            unsorted.select_nth_unstable_by(count - 1, likelier_first);
        }
        unsorted[..count].sort_unstable_by(likelier_first);
        for &(_, relative) in &unsorted[..count] {
            above += f64::from(relative).exp();
            if above >= mass {
                candidates.retain(|(_, other)| *other >= relative);
                return;
            }
        }
        sorted += count;
        // Few flat distributions need much; those pay for one full sort at most.
        sort_next *= 8;
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "sorting compares references")]
fn likelier_first(left: &Candidate, right: &Candidate) -> Ordering {
    right.1.total_cmp(&left.1).then(left.0.cmp(&right.0))
}
