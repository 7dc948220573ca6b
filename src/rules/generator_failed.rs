use super::rule::declare_rule;
use super::swapped_generator::swap;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, Party, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// A generator that fails, does not come to an end, or cannot be reached.
    ///
    /// ## Why it matters
    ///
    /// Nothing is said about its answers. Where it fails with one adapter and answers with another, the adapter's files
    /// are what it cannot read.
    ///
    /// ## Evidence
    ///
    /// Identity: the command exits with 0 within its time for every prompt, or the server answers as OpenAI's chat API
    /// does.
    ///
    /// ## How to fix
    ///
    /// Read what it says last. The command is run by `sh`; `{model}`, `{adapter}`, `{prompt}` and `{max_tokens}` stand
    /// for what it is given.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/1317>
    /// - <https://github.com/ml-explore/mlx-lm/issues/233>
    pub static GENERATOR_FAILED = {
        name: "generator-failed",
        code: "GEN006",
        summary: "the generator that was called failed or gave no answer",
        phase: Generation,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let swap = match swap(evidence) {
        Ok(swap) => swap,
        Err(outcome) => return outcome,
    };
    let mut failed = swap
        .cells
        .iter()
        .filter(|cell| cell.generator == Party::Theirs)
        .filter_map(|cell| match &cell.answers {
            Slot::Crashed { error } => Some((cell.trainer, error)),
            Slot::Ran(_) | Slot::Skipped { .. } => None,
        });
    let Some((trainer, error)) = failed.next() else {
        return Outcome::Pass;
    };
    let fails_always = failed.next().is_some();
    let answers_another = !fails_always && swap.judged_trainer().is_some();
    let headline = match trainer {
        Party::Theirs if answers_another => "the generator fails with their adapter, and answers with the reference's",
        Party::Reference if answers_another => {
            "the generator fails with the reference's adapter, and answers with theirs"
        }
        Party::Theirs | Party::Reference => "the generator failed",
    };
    Finding::new(
        headline,
        error.lines().map(str::trim).collect::<Vec<_>>().join("; "),
        "an answer to every prompt",
    )
    .with("error", error.as_str())
    .with("adapter", trainer.name())
    .fix(Fix::by_hand(
        "call the generator by hand with the same prompt and adapter, and read what it says",
    ))
    .into()
}
