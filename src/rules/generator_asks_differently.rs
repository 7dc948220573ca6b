use super::Outcome;
use super::rule::declare_rule;
use super::swapped_generator::outcome;
use crate::evidence::{Evidence, GeneratorReading};

declare_rule! {
    /// ## What it finds
    ///
    /// A generator that gives the model another text than training did: the prompt without the chat template, or
    /// without the header that opens the answer.
    ///
    /// ## Why it matters
    ///
    /// The model was taught to answer behind one text and is asked with another. It continues the question, writes the
    /// header itself, or falls back to what the base says.
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
    /// Ask through the chat template of the model that was trained, with `add_generation_prompt`; for a server, use its
    /// chat API and not its completion API.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/849>
    /// - <https://github.com/ml-explore/mlx-examples/issues/761>
    pub static GENERATOR_ASKS_DIFFERENTLY = {
        name: "generator-asks-differently",
        code: "GEN009",
        summary: "another generator asks without the chat template, or without the header of the answer",
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
        &[
            GeneratorReading::WithoutTemplate,
            GeneratorReading::WithoutEither,
            GeneratorReading::WithoutHeader,
        ],
        "the generator asks with another text than the chat template's",
        "the answers that the reference engine gives through the chat template",
        "ask through the model's own chat template, the header of the answer included (`add_generation_prompt`)",
    )
}
