use super::Outcome;
use super::rule::declare_rule;
use super::unusable::Unusable;
use crate::evidence::{Evidence, RefusalKind};

declare_rule! {
    /// ## What it finds
    ///
    /// Names or shapes in the weight files that are not those that the configuration predicts.
    ///
    /// ## Why it matters
    ///
    /// A loader that is not strict leaves missing layers at random start values and passes over what it does not know.
    /// One layer under another name is enough to spoil every answer, and nothing fails.
    ///
    /// ## Evidence
    ///
    /// Identity: the names and shapes predicted from the configuration are exactly those in the files. All differences
    /// are listed at once, an unknown name with the predicted one that is nearest to it.
    ///
    /// ## How to fix
    ///
    /// Use the `config.json` that belongs to the weights. A prefix before all names comes from a wrapper, for example
    /// of a vision model or a compiled module: remove it, or convert the model with `mlx_lm.convert`.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/89>
    /// - <https://github.com/ml-explore/mlx-lm/issues/646>
    /// - <https://github.com/ml-explore/mlx-examples/issues/564>
    /// - <https://github.com/Blaizzy/mlx-vlm/issues/1827>
    pub static TENSORS_MISMATCH = {
        name: "tensors-mismatch",
        code: "MODEL007",
        summary: "tensors are missing, unknown or of another shape than the configuration says",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    Unusable {
        kind: RefusalKind::Tensors,
        expected: "exactly the tensors that the configuration predicts",
        fix: "rename tensors that carry a prefix of a wrapper, or convert the model with `mlx_lm.convert`",
    }
    .in_model(evidence)
}
