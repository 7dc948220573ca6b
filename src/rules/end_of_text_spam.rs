use super::pairing::{Pair, pairs, prompts};
use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Answer, Evidence, Slot};
use crate::thresholds::{FILLED_BY_STOP, MOST};

declare_rule! {
    /// ## What it finds
    ///
    /// Answers that begin with a token that ends the text.
    ///
    /// ## Why it matters
    ///
    /// With a full stop set the user sees an empty answer; with one that lacks the token, the token itself, to the
    /// limit. Both are the same fault: the model's first word is the end.
    ///
    /// ## Evidence
    ///
    /// Each prompt is answered once with the stop set and once without it. Spam is an answer whose first token is a
    /// stop token, or a run without the stop set that begins with an end-of-text token: a stop token, or a special
    /// token that ends a text by its name and that the model's files do not declare. The same prompt is compared with
    /// the base: only what training made worse is an error. If the base does it too, its template or stop set is the
    /// matter, and that is a warning.
    ///
    /// ## How to fix
    ///
    /// The cause is in the training: targets of nothing but end-of-text, or a learning rate that destroyed the model;
    /// the findings beside this one tell. If there are none, look at how the last prompt token and the first target
    /// meet: a mask that ends too late leaves only the end-of-text to learn.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/1141>
    /// - <https://github.com/ml-explore/mlx-examples/issues/756>
    pub static END_OF_TEXT_SPAM = {
        name: "end-of-text-spam",
        code: "EOS002",
        summary: "answers begin with a token that ends the text",
        phase: Generation,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["repetition-loop", "never-stops"],
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
    let spam: Vec<&Pair<'_>> = pairs.iter().filter(|pair| is_spam(pair.after)).collect();
    let fresh: Vec<&Pair<'_>> = spam.iter().copied().filter(|pair| !is_spam(pair.before)).collect();
    if !fresh.is_empty() {
        return made_by_training(&pairs, &fresh, evidence).into();
    }
    if spam.len() as f64 >= MOST * pairs.len() as f64 && !spam.is_empty() {
        return in_the_base_too(&pairs, &spam).into();
    }
    Outcome::Pass
}

fn is_spam(answer: &Answer) -> bool {
    answer.starts_with_stop || answer.free_run.leading_end_of_text > 0
}

fn is_collapsed(answer: &Answer) -> bool {
    let run = &answer.free_run;
    run.tokens > 0 && run.leading_end_of_text as f64 >= FILLED_BY_STOP * run.tokens as f64
}

fn made_by_training(pairs: &[Pair<'_>], fresh: &[&Pair<'_>], evidence: &Evidence) -> Finding {
    let most = fresh.len() as f64 >= MOST * pairs.len() as f64;
    let finding = figures(
        Finding::new(
            format!(
                "{} of {} begin with end-of-text since training",
                grouped(fresh.len() as u64),
                counted(pairs.len(), "answer")
            ),
            leading(pairs),
            "no answer that begins with end-of-text",
        ),
        pairs,
    )
    .at(&prompts(fresh))
    .fix(fix(evidence));
    if most || fresh.iter().any(|pair| is_collapsed(pair.after)) {
        finding
    } else {
        finding.lowered_to(Severity::Warning)
    }
}

fn in_the_base_too(pairs: &[Pair<'_>], spam: &[&Pair<'_>]) -> Finding {
    figures(
        Finding::new(
            format!(
                "{} of {} begin with end-of-text, before training as after it",
                grouped(spam.len() as u64),
                counted(pairs.len(), "answer")
            ),
            leading(pairs),
            "a base whose answers begin with words",
        ),
        pairs,
    )
    .at(&prompts(spam))
    .lowered_to(Severity::Warning)
    .predating_training()
    .fix(Fix::by_hand(
        "check the base: that its chat template ends with the answer's opening, and that its stop set holds no token \
         that opens an answer",
    ))
}

fn leading(pairs: &[Pair<'_>]) -> String {
    let sum = |field: fn(&Pair<'_>) -> usize| pairs.iter().map(field).sum::<usize>();
    format!(
        "{} before any content without the stop set, {} before training",
        counted(sum(|pair| pair.after.free_run.leading_end_of_text), "end-of-text token"),
        grouped(sum(|pair| pair.before.free_run.leading_end_of_text) as u64)
    )
}

fn figures(finding: Finding, pairs: &[Pair<'_>]) -> Finding {
    let count = |condition: &dyn Fn(&Pair<'_>) -> bool| pairs.iter().filter(|pair| condition(pair)).count();
    let sum = |field: fn(&Pair<'_>) -> usize| pairs.iter().map(field).sum::<usize>();
    finding
        .with("answers", pairs.len())
        .with("spam_before", count(&|pair| is_spam(pair.before)))
        .with("spam_after", count(&|pair| is_spam(pair.after)))
        .with(
            "leading_end_of_text_before",
            sum(|pair| pair.before.free_run.leading_end_of_text),
        )
        .with(
            "leading_end_of_text_after",
            sum(|pair| pair.after.free_run.leading_end_of_text),
        )
        .with("free_run_tokens", sum(|pair| pair.after.free_run.tokens))
}

fn fix(evidence: &Evidence) -> Fix {
    let text = if evidence.settings.mask_prompt {
        "check where the prompt's mask ends: the answer's first words must be targets too, not only its end"
    } else {
        "check that every training row has words between the prompt and the token that ends it"
    };
    Fix::by_hand(text)
}
