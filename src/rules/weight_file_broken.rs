use super::Outcome;
use super::rule::declare_rule;
use super::unusable::Unusable;
use crate::evidence::{Evidence, RefusalKind};

declare_rule! {
    /// ## What it finds
    ///
    /// A safetensors or GGUF file that is shorter or longer than its own header says, or has no such header.
    ///
    /// ## Why it matters
    ///
    /// The file looks like a model to a folder listing. MLX reads tensors when they are first used, so a cut file fails
    /// late, and only for the tensors beyond the cut. A program that overwrote the file it still read from leaves such
    /// a file behind.
    ///
    /// ## Evidence
    ///
    /// Identity: eight bytes, the header, and the bytes that the header's offsets call for add up to the file's length.
    /// For GGUF every tensor of the table must lie inside the file.
    ///
    /// ## How to fix
    ///
    /// Fetch or export the file again. If your own code saved it: evaluate the arrays first, write to a temporary name,
    /// rename at the end, and never save over the file that the arrays were read from, since MLX loads lazily.
    ///
    /// ## References
    ///
    /// - <https://github.com/unslothai/unsloth-zoo/issues/1078>
    pub static WEIGHT_FILE_BROKEN = {
        name: "weight-file-broken",
        code: "MODEL003",
        summary: "a weight file ends early, or is no weight file",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    Unusable {
        kind: RefusalKind::WeightFile,
        expected: "a file as long as its own header says",
        fix: "if your own code wrote the file, evaluate the arrays, save under a temporary name and rename",
    }
    .in_model(evidence)
}
