use super::Outcome;
use super::rule::declare_rule;
use super::swapped_generator::outcome;
use crate::evidence::{Evidence, GeneratorReading};

declare_rule! {
    /// ## What it finds
    ///
    /// A generator that applies an adapter to a base that already has it.
    ///
    /// ## Why it matters
    ///
    /// Answers turn into fragments although training went well: the adapter was fused into the base, and is loaded
    /// beside it once more.
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
    /// Serve the fused model alone, or the plain base with the adapter.
    ///
    /// ## References
    ///
    /// - <https://github.com/unslothai/unsloth/issues/289>
    pub static GENERATOR_COUNTS_ADAPTER_TWICE = {
        name: "generator-counts-adapter-twice",
        code: "GEN008",
        summary: "another generator counts the adapter's change twice",
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
        &[GeneratorReading::AdapterTwice],
        "the generator counts the adapter's change twice",
        "the answers that the reference engine gives with the adapter counted once",
        "serve the fused model alone, or the plain base with the adapter, and not both",
    )
}
