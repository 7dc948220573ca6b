use super::Outcome;
use super::rule::declare_rule;
use super::swapped_generator::outcome;
use crate::evidence::{Evidence, GeneratorReading};

declare_rule! {
    /// ## What it finds
    ///
    /// A generator that does not know the token that ends an answer.
    ///
    /// ## Why it matters
    ///
    /// The answer is right, and the model goes on with end tokens, a next turn or nonsense until the limit.
    ///
    /// ## Evidence
    ///
    /// The same weights, prompts and greedy decoding give the reference engine's answers. When those of the generator
    /// begin otherwise in most prompts, the engine is asked in each way in which generators are known to go wrong; an
    /// answer is of a way when it begins like it for `SAME_ANSWER` of its length, and nearer than like the right one.
    /// The finding is there when most of the answers that tell the two apart are of this way, more than of any other.
    ///
    /// ## How to fix
    ///
    /// Give the generator every token that ends a turn: `eos_token_id` in `generation_config.json` as a list,
    /// `--extra-eos-token` for mlx-lm, `stop` for a server.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/737>
    /// - <https://github.com/ml-explore/mlx-examples/issues/1141>
    pub static GENERATOR_DOES_NOT_STOP = {
        name: "generator-does-not-stop",
        code: "GEN010",
        summary: "another generator goes on behind the token that ends an answer",
        phase: Generation,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    outcome(
        evidence,
        &[GeneratorReading::StopsIgnored],
        "the generator goes on behind the token that ends an answer",
        "answers that end where the reference engine's end",
        "give the generator every token that ends a turn (`--extra-eos-token` for mlx-lm, `stop` for a server)",
    )
}
