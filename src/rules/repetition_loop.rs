use super::pairing::{Pair, pairs, prompts};
use super::rule::declare_rule;
use super::still_learning::{CONTINUE, is_still_learning};
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Answer, Evidence, Slot};
use crate::thresholds::{AGREEING_PROMPTS, MOST};

declare_rule! {
    /// ## What it finds
    ///
    /// Answers that repeat one span of tokens to their end, where the base did not.
    ///
    /// ## Why it matters
    ///
    /// A model whose distribution has collapsed repeats itself for ever. It is the usual sign of a learning rate or a
    /// scale that is too high.
    ///
    /// ## Evidence
    ///
    /// Greedy answers with the stop set. A loop is one span of 1 to 32 tokens that covers at least `LOOPED_SHARE` of
    /// the answer's tail and comes three times or more; an answer of whose runs of four tokens fewer than
    /// `DISTINCT_RUNS` are distinct goes in circles without repeating exactly. Each prompt is compared with the base,
    /// so that a base that loops by itself is not blamed on training. It is an error if most answers loop since
    /// training and at least `AGREEING_PROMPTS` agree; single new loops are information, since greedy answers of small
    /// models flip easily. So are all of them while the model is still learning: the losses of training and of any
    /// validation rows fell, those of the last third of the steps by more than `STILL_FALLING`.
    ///
    /// ## How to fix
    ///
    /// If another finding names the cause, fix that. Otherwise train with a lower learning rate or scale, or with
    /// fewer passes over few rows. Sampling with a temperature hides loops, it does not cure them.
    ///
    /// ## References
    ///
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/841>
    /// - <https://github.com/ml-explore/mlx-examples/issues/620>
    pub static REPETITION_LOOP = {
        name: "repetition-loop",
        code: "GEN002",
        summary: "answers repeat themselves to their end, where the base did not",
        phase: Generation,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["never-stops"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(before) = &evidence.baseline else {
        return Outcome::not_measured("the baseline", &evidence.baseline);
    };
    let Slot::Ran(after) = &evidence.generation else {
        return Outcome::not_measured("generation after training", &evidence.generation);
    };
    let pairs = pairs(before, after);
    if pairs.is_empty() {
        return Outcome::not_applicable("no prompt has an answer before and after with finite logits");
    }
    let fresh: Vec<&Pair<'_>> = pairs
        .iter()
        .filter(|pair| pair.after.is_looping() && !pair.before.is_looping())
        .collect();
    let Some(first) = fresh.first() else {
        return Outcome::Pass;
    };
    let looping_before = pairs.iter().filter(|pair| pair.before.is_looping()).count();
    let looping_after = pairs.iter().filter(|pair| pair.after.is_looping()).count();
    let finding = Finding::new(
        format!(
            "{} of {} go in circles since training",
            grouped(fresh.len() as u64),
            counted(pairs.len(), "answer")
        ),
        format!(
            "{looping_after} looping after training and {looping_before} before it, for example {}",
            circle(first.after)
        ),
        "no more loops than in the base's answers",
    )
    .at(&prompts(&fresh))
    .with("answers", pairs.len())
    .with("looping_before", looping_before)
    .with("looping_after", looping_after)
    .with("looped_span", first.after.repetition.looped_span.clone())
    .with("looped_share", first.after.repetition.looped_share)
    .with("distinct_4", first.after.repetition.distinct_4);
    if is_still_learning(evidence) {
        return finding.fix(Fix::by_hand(CONTINUE)).lowered_to(Severity::Info).into();
    }
    let finding = finding.fix(Fix::by_hand(
        "train with a lower learning rate or scale, or make fewer passes over the same rows",
    ));
    let net = looping_after.saturating_sub(looping_before);
    if net >= AGREEING_PROMPTS && net as f64 >= MOST * pairs.len() as f64 {
        finding.into()
    } else {
        finding.lowered_to(Severity::Info).into()
    }
}

/// What comes over and over, in words.
fn circle(answer: &Answer) -> String {
    let repetition = &answer.repetition;
    if repetition.looped_span.is_empty() {
        format!("a share of {:.2} distinct runs of four tokens", repetition.distinct_4)
    } else {
        format!("{:?} over and over", repetition.looped_span)
    }
}
