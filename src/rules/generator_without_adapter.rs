use super::Outcome;
use super::rule::declare_rule;
use super::swapped_generator::outcome;
use crate::evidence::{Evidence, GeneratorReading};

declare_rule! {
    /// ## What it finds
    ///
    /// A generator that was given an adapter and answers as the base does.
    ///
    /// ## Why it matters
    ///
    /// The training was right, and whoever uses the model sees none of it: the option was left out, the path was wrong,
    /// or the server was started with the base.
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
    /// Give the generator the adapter: `--adapter-path` for mlx-lm's commands and its server, or fuse it into the base.
    /// For a server, start it anew, and look which model it lists.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/1248>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1745>
    /// - <https://github.com/vllm-project/vllm/issues/34186>
    pub static GENERATOR_WITHOUT_ADAPTER = {
        name: "generator-without-adapter",
        code: "GEN007",
        summary: "another generator answers as the base does, without the adapter",
        phase: Generation,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let (headline, fix) = if evidence.settings.trained.is_some() {
        (
            "the generator answers as the base does: it does not use the finished model",
            "start the generator with the finished model's folder",
        )
    } else {
        (
            "the generator answers as the base does: it does not use the adapter",
            "give the generator the adapter (`--adapter-path` for mlx-lm, `{adapter}` in a command), or fuse it first",
        )
    };
    outcome(
        evidence,
        &[GeneratorReading::WithoutAdapter],
        headline,
        "the answers that the reference engine gives with what was trained",
        fix,
    )
}
