use super::pairing::{Pair, pairs, prompts};
use super::rule::declare_rule;
use super::still_learning::{CONTINUE, expects_ends, is_still_learning};
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{DataEvidence, Evidence, FinishReason, Slot};
use crate::thresholds::{AGREEING_PROMPTS, LONGER_THAN_TAUGHT, MOST};

declare_rule! {
    /// ## What it finds
    ///
    /// Answers that ended by themselves before training and run to the limit since.
    ///
    /// ## Why it matters
    ///
    /// The answer is right, and then the model rambles on or opens a second turn until the limit cuts it.
    ///
    /// ## Evidence
    ///
    /// The same prompts before and after. A prompt counts when the base stopped, the trained model did not, and no stop
    /// token came in the run without the stop set either. The answer must also be more than `LONGER_THAN_TAUGHT` times
    /// as long as the mean supervised row: a model that learnt longer answers may still be about to stop. It is an
    /// error if most answers that stopped no longer do and at least `AGREEING_PROMPTS` agree; single ones are
    /// information. So are all of them while the model is still learning and expects the end where rows end: the losses
    /// of training and of any validation rows fell, those of the last third of the steps by more than `STILL_FALLING`,
    /// and the end token has a mean rank of at most `END_EXPECTED_RANK`. A base that never stops is not held against
    /// the training.
    ///
    /// ## How to fix
    ///
    /// Let the token that ends a turn be the last target of every row: append it, and keep it out of the mask. When
    /// padding and end-of-text are one token, mask by length, not by token. Rows that are cut lose their end.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/756>
    /// - <https://github.com/huggingface/transformers/issues/23530>
    /// - <https://github.com/huggingface/trl/issues/976>
    pub static NEVER_STOPS = {
        name: "never-stops",
        code: "EOS003",
        summary: "answers that ended by themselves before training run to the limit since",
        phase: Generation,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
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
    let stopped: Vec<&Pair<'_>> = pairs
        .iter()
        .filter(|pair| pair.before.finish == FinishReason::Stop && !pair.before.starts_with_stop)
        .collect();
    if stopped.is_empty() {
        return Outcome::not_applicable("no answer of the base ended by itself");
    }
    let taught = evidence.data.ran().map_or(0.0, mean_supervised_tokens);
    let running_on: Vec<&Pair<'_>> = stopped.iter().copied().filter(|pair| runs_on(pair, taught)).collect();
    if running_on.is_empty() {
        return Outcome::Pass;
    }
    let still_learning = is_still_learning(evidence) && expects_ends(evidence);
    let finding = Finding::new(
        format!(
            "{} of {} that ended by themselves no longer do",
            grouped(running_on.len() as u64),
            counted(stopped.len(), "answer")
        ),
        format!(
            "{} of {} ended by themselves before training, {} after it",
            grouped(stopped.len() as u64),
            counted(pairs.len(), "answer"),
            grouped(
                pairs
                    .iter()
                    .filter(|pair| pair.after.finish == FinishReason::Stop)
                    .count() as u64
            )
        ),
        format!(
            "answers that end within the limit of {}",
            counted(evidence.settings.max_tokens, "token")
        ),
    )
    .at(&prompts(&running_on))
    .with("answers", pairs.len())
    .with("stopped_before", stopped.len())
    .with("running_on", running_on.len())
    .with("mean_supervised_tokens", taught)
    .with("rows", evidence.data.ran().map(|data| data.rows))
    .with(
        "rows_ending_in_stop",
        evidence.data.ran().map(|data| data.rows_ending_in_stop),
    )
    .fix(if still_learning {
        Fix::by_hand(CONTINUE)
    } else {
        fix(evidence.data.ran())
    });
    let most = running_on.len() as f64 >= MOST * stopped.len() as f64;
    if most && running_on.len() >= AGREEING_PROMPTS && !still_learning {
        finding.into()
    } else {
        finding.lowered_to(Severity::Info).into()
    }
}

fn runs_on(pair: &Pair<'_>, taught: f64) -> bool {
    pair.after.finish == FinishReason::Length
        && pair.after.free_run.end_of_text == 0
        && pair.after.tokens as f64 > LONGER_THAN_TAUGHT * taught
}

fn mean_supervised_tokens(data: &DataEvidence) -> f64 {
    data.supervised_tokens as f64 / data.rows.max(1) as f64
}

fn fix(data: Option<&DataEvidence>) -> Fix {
    match data {
        Some(data) if data.rows_ending_in_stop < data.rows => Fix::by_hand(format!(
            "end every row with a stop token that is a target: {} of {} do",
            grouped(data.rows_ending_in_stop as u64),
            counted(data.rows, "row")
        )),
        _ => Fix::by_hand(
            "check that the token that ends the training rows is in the stop set used for answers, and that the mask \
             leaves it in",
        ),
    }
}
