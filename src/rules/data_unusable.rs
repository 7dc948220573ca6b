use super::Outcome;
use super::rule::declare_rule;
use super::unusable::Unusable;
use crate::evidence::{Evidence, RefusalKind};

declare_rule! {
    /// ## What it finds
    ///
    /// Training data that is not there, is empty, has lines that are not JSON or lack the keys of every known format,
    /// or mixes formats.
    ///
    /// ## Why it matters
    ///
    /// mlx-lm takes the format from the first row and fails at the first other row in the middle of training, or reads
    /// a file that was printed over several lines as nothing. A program that passes over broken lines trains on less
    /// than it says.
    ///
    /// ## Evidence
    ///
    /// Every line of every file is parsed before anything else is done, and every line that cannot be used is named
    /// with its number.
    ///
    /// ## How to fix
    ///
    /// Write one whole JSON object on each line, all of one format: `messages`, `prompt` and `completion`, or `text`. A
    /// file printed over several lines becomes such a file with `jq -c .`
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/458>
    /// - <https://github.com/ml-explore/mlx-lm/issues/57>
    /// - <https://github.com/unslothai/unsloth/issues/334>
    pub static DATA_UNUSABLE = {
        name: "data-unusable",
        code: "DATA012",
        summary: "lines of the training data cannot be used",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    Unusable {
        kind: RefusalKind::DataFormat,
        expected: "one JSON object on each line, all of one format",
        fix: "write one object with `messages`, with `prompt` and `completion`, or with `text` on each line; `jq -c .` joins printed objects",
    }
    .in_data(evidence)
}
