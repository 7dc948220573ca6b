use super::Outcome;
use super::rule::declare_rule;
use super::unusable::Unusable;
use crate::evidence::{Evidence, RefusalKind};

declare_rule! {
    /// ## What it finds
    ///
    /// The configuration ties the output layer to the embedding and the files hold `lm_head.weight`, or the
    /// configuration does not and the files lack it.
    ///
    /// ## Why it matters
    ///
    /// A loader that takes what it knows either drops a trained output layer, so that the model answers with the
    /// transpose of its embedding, or leaves a random one in its place. Both answer nonsense, and a converter or a
    /// fusing script that forgot the flag is enough.
    ///
    /// ## Evidence
    ///
    /// Identity: `tie_word_embeddings` is false exactly when `lm_head.weight` is in the files. The rule fires only when
    /// this is the whole difference between files and configuration.
    ///
    /// ## How to fix
    ///
    /// Make `tie_word_embeddings` say what the files hold. The files decide: with `lm_head.weight` it is false, without
    /// it true. Adapt the embedding only on one side when the layers are tied.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-examples/issues/564>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1298>
    /// - <https://github.com/ml-explore/mlx-lm/issues/648>
    /// - <https://github.com/ml-explore/mlx-lm/issues/764>
    /// - <https://github.com/hiyouga/LlamaFactory/issues/6446>
    pub static TIED_OUTPUT_MISMATCH = {
        name: "tied-output-mismatch",
        code: "MODEL004",
        summary: "files and configuration disagree whether the output layer is the embedding",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    Unusable {
        kind: RefusalKind::TiedOutput,
        expected: "`tie_word_embeddings` false exactly when the files hold `lm_head.weight`",
        fix: "set `tie_word_embeddings` in config.json to false when the files hold `lm_head.weight`, and to true when they do not",
    }
    .in_model(evidence)
}
