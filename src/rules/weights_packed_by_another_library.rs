use super::Outcome;
use super::rule::declare_rule;
use super::unusable::Unusable;
use crate::evidence::{Evidence, RefusalKind};

declare_rule! {
    /// ## What it finds
    ///
    /// A base or an adapter folder whose weights another library packed: bitsandbytes, GPTQ, AWQ, compressed-tensors,
    /// HQQ, FP8 and the other methods that transformers knows.
    ///
    /// ## Why it matters
    ///
    /// Each library lays out its words, scales and zero points in its own way. MLX multiplies with its own layout only,
    /// so that such a checkpoint either fails to load with a long list of unknown parameters, or is read as garbage.
    ///
    /// ## Evidence
    ///
    /// Identity: `quantization_config` in `config.json` names a method that is not MLX's, or the weight files hold tensors
    /// that only such a library writes, for example `.absmax` (bitsandbytes) or `.qweight` (GPTQ and AWQ).
    ///
    /// ## How to fix
    ///
    /// Convert the original model, before it was packed, with `mlx_lm.convert -q`. AWQ with 4 bits and some formats of
    /// compressed-tensors are read by `mlx_lm.convert` itself; weights of bitsandbytes can be dequantised with
    /// transformers first. The finding names the command for the folder. An adapter that was trained on the packed model
    /// belongs to the converted one as well.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/727>
    /// - <https://github.com/ml-explore/mlx-lm/issues/163>
    /// - <https://github.com/ml-explore/mlx-lm/issues/146>
    /// - <https://github.com/unslothai/unsloth-zoo/pull/848>
    pub static WEIGHTS_PACKED_BY_ANOTHER_LIBRARY = {
        name: "weights-packed-by-another-library",
        code: "MODEL014",
        summary: "the weights are packed by a library whose layout MLX does not have",
        phase: Baseline,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    Unusable {
        kind: RefusalKind::ForeignPacking,
        expected: "plain weights, or MLX's own packing",
        fix: "do not rename the tensors or delete `quantization_config`: the words would be read as garbage",
    }
    .in_model(evidence)
}
