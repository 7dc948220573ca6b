use super::Outcome;
use super::rule::declare_rule;
use super::unusable::Unusable;
use crate::evidence::{Evidence, RefusalKind};

declare_rule! {
    /// ## What it finds
    ///
    /// A model without a `tokenizer.json`, one that is cut or broken, settings that name tokens it does not have, or a
    /// tokenizer whose ids the embedding table does not hold.
    ///
    /// ## Why it matters
    ///
    /// Exports that copy only weights leave the tokenizer behind, and the next program takes one of its own. MLX reads
    /// beyond the embedding table without an error, so a wrong tokenizer gives wrong rows, not a failure.
    ///
    /// ## Evidence
    ///
    /// The files are read as Hugging Face's library reads them. Every special token that the settings name must be in
    /// the vocabulary, and every id of a prompt must be below the rows of the embedding table.
    ///
    /// ## How to fix
    ///
    /// Copy `tokenizer.json`, `tokenizer_config.json` and `generation_config.json` from the model that this one was
    /// made from. An older format is turned into `tokenizer.json` by loading and saving it once with transformers.
    ///
    /// ## References
    ///
    /// - <https://github.com/hiyouga/LlamaFactory/issues/8399>
    /// - <https://github.com/ml-explore/mlx-lm/issues/340>
    /// - <https://github.com/ml-explore/mlx-examples/issues/355>
    pub static TOKENIZER_UNUSABLE = {
        name: "tokenizer-unusable",
        code: "MODEL011",
        summary: "the tokenizer is absent, broken or of another model",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    Unusable {
        kind: RefusalKind::Tokenizer,
        expected: "a tokenizer.json of Hugging Face's library that belongs to the model",
        fix: "copy tokenizer.json, tokenizer_config.json and generation_config.json from the model this one was made from",
    }
    .in_model(evidence)
}
