use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{Answer, Evidence, Listing, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// Answers in which a token that ends a turn came, and the answer went on; or a generator that would go on.
    ///
    /// ## Why it matters
    ///
    /// The model ends its turn as it should. The program that generates does not know the token as an end, prints it, and
    /// lets the model play both sides of a conversation until the limit.
    ///
    /// ## Evidence
    ///
    /// Identity: no answer holds a token of the stop set. The stop set is the union of every id that the tokenizer, the
    /// configuration and the generation configuration name and of the token that the chat template puts behind an
    /// answer; the generator may know fewer. A token that it lacks is a warning as long as none came in an answer.
    ///
    /// ## How to fix
    ///
    /// Give the generator the whole union, for example with `--extra-eos-token` in mlx-lm, or list all ids under
    /// `eos_token_id` in `generation_config.json`.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/737>
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/309>
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/1496>
    /// - <https://github.com/ml-explore/mlx-examples/issues/1141>
    pub static STOP_TOKEN_IGNORED = {
        name: "stop-token-ignored",
        code: "GEN003",
        summary: "a token that ends a turn does not end the answer",
        phase: Generation,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &["repetition-loop", "never-stops"],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(generation) = &evidence.generation else {
        return Outcome::not_measured("generation after training", &evidence.generation);
    };
    let ignoring: Vec<(&Answer, &String)> = generation
        .answers
        .iter()
        .filter_map(|answer| Some((answer, answer.ignored_stop.as_ref()?)))
        .collect();
    let Some((_, first)) = ignoring.first() else {
        return generation.missing_stops.as_deref().map_or(Outcome::Pass, missing);
    };
    let tokens: Listing = {
        let mut tokens: Vec<&str> = ignoring.iter().map(|(_, token)| token.as_str()).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens.into_iter().collect()
    };
    let prompts: Listing = ignoring.iter().map(|(answer, _)| answer.prompt.as_str()).collect();
    Finding::new(
        format!("the generator does not stop at `{first}`"),
        format!(
            "{} of {} went on after {tokens}",
            grouped(ignoring.len() as u64),
            counted(generation.answers.len(), "answer")
        ),
        "every answer ends at the first token of the stop set",
    )
    .at(&prompts)
    .with("answers", generation.answers.len())
    .with("answers_that_went_on", ignoring.len())
    .with("ignored_tokens", &tokens)
    .fix(fix(&tokens))
    .into()
}

/// Tokens that the generator lacks, though none of them came.
fn missing(tokens: &[String]) -> Outcome {
    let Some(first) = tokens.first() else {
        return Outcome::Pass;
    };
    let tokens: Listing = tokens.iter().map(String::as_str).collect();
    Finding::new(
        format!("the generator would not stop at `{first}`"),
        format!("{tokens} in the stop set of the model, but not in that of the generator"),
        "a generator that stops at every token of the model's stop set",
    )
    .with("missing_tokens", &tokens)
    .fix(fix(&tokens))
    .lowered_to(Severity::Warning)
    .into()
}

fn fix(tokens: &Listing) -> Fix {
    Fix::by_hand(format!(
        "add {tokens} to the tokens that end an answer where the generator is set up, for example with \
         `--extra-eos-token` in mlx-lm"
    ))
}
