use super::foreign_architecture::not_seen;
use super::row_fit::fit_before;
use super::rule::declare_rule;
use super::wording::counted;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Slot};
use crate::thresholds::{ANSWER_TOKENS, EXCHANGED_ROWS, KNOWS_ANSWERS, PROMPT_GAIN};

declare_rule! {
    /// ## What it finds
    ///
    /// Answers that stand behind the wrong prompts: the base finds each no likelier behind its own prompt than behind
    /// another one.
    ///
    /// ## Why it matters
    ///
    /// A column that was sorted alone, or an offset by one row, leaves every prompt and every answer intact. The model
    /// learns to answer something else than it was asked, and every count of rows and tokens is right.
    ///
    /// ## Evidence
    ///
    /// Before training the answers of the first rows are scored behind their own prompts and behind those of other rows.
    /// The own prompts save less than `PROMPT_GAIN` per token, and the standard error is below that. At least
    /// `EXCHANGED_ROWS` rows with answers of at least `ANSWER_TOKENS` tokens are needed, and a base whose loss on them is
    /// below `KNOWS_ANSWERS` of a uniform guess's: short labels and unknown topics say nothing.
    ///
    /// ## How to fix
    ///
    /// Read some rows. If the answers do not fit, join prompts and answers again by a key. If they do, for instance
    /// because every answer is of the same kind whatever the prompt, leave it.
    ///
    /// ## References
    ///
    /// - <https://github.com/allenai/open-instruct/pull/1484>
    /// - <https://arxiv.org/abs/2604.28118>
    pub static ANSWERS_NOT_TO_THEIR_PROMPTS = {
        name: "answers-not-to-their-prompts",
        code: "DATA021",
        summary: "answers are no likelier behind their own prompts than behind others",
        phase: Baseline,
        severity: Warning,
        status: Stable,
        since: "0.1.0",
        explains: &["overfit", "loss-not-decreasing"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let fit = match fit_before(evidence) {
        Ok(fit) => fit,
        Err(outcome) => return outcome,
    };
    let Slot::Ran(model) = &evidence.model else {
        return Outcome::not_measured("the model", &evidence.model);
    };
    if let Some(outcome) = not_seen(evidence, "the answers of its rows were not exchanged") {
        return outcome;
    }
    let Some(pairing) = &fit.pairing else {
        return Outcome::not_applicable("there are no two rows with prompts that differ");
    };
    if pairing.rows < EXCHANGED_ROWS || pairing.tokens < ANSWER_TOKENS * pairing.rows {
        return Outcome::not_applicable("the rows that could be exchanged are too few or too short");
    }
    if pairing.own >= KNOWS_ANSWERS * model.uniform_loss() {
        return Outcome::not_applicable("the base cannot predict the answers behind any prompt");
    }
    if pairing.standard_error >= PROMPT_GAIN {
        return Outcome::not_applicable("the rows differ too much to tell");
    }
    let gain = pairing.other - pairing.own;
    if gain >= PROMPT_GAIN {
        return Outcome::Pass;
    }
    let mut finding = Finding::new(
        "the answers do not belong to their prompts: other rows' prompts predict them as well",
        format!(
            "{:.3} nats per token behind their own prompts and {:.3} behind those of other rows, over {}",
            pairing.own,
            pairing.other,
            counted(pairing.rows, "row")
        ),
        "answers that are clearly likelier behind their own prompts",
    )
    .with("own_prompts", pairing.own)
    .with("other_prompts", pairing.other)
    .with("standard_error", pairing.standard_error)
    .with("rows", pairing.rows)
    .with("tokens", pairing.tokens)
    .fix(Fix::by_hand(
        "read some rows: if the answers do not fit, join prompts and answers again by a key, not by position",
    ));
    finding.predates_training = true;
    finding.into()
}
