use super::Outcome;
use super::rule::declare_rule;
use super::unusable::Unusable;
use crate::evidence::{Evidence, RefusalKind};

declare_rule! {
    /// ## What it finds
    ///
    /// Packed tensors whose sizes do not fit the bits and the group size of the configuration, or whose scales and
    /// biases are those of another mode, packed tensors without such a setting, or a packing that cannot be read.
    ///
    /// ## Why it matters
    ///
    /// Only the product of bits and columns is fixed by the file: with the wrong bits the words are cut at the wrong
    /// places, and every weight is garbage. Fused or dequantised models often keep the settings of the model that they
    /// were made from.
    ///
    /// ## Evidence
    ///
    /// Identity, for each packed matrix: the columns of words times 32 over the bits are the layer's inputs, and the
    /// inputs over the group size are the columns of its scales. Mode `affine` has scales in floating-point numbers and
    /// as many biases; `mxfp4`, `nvfp4` and `mxfp8` have scales in bytes and no biases.
    ///
    /// ## How to fix
    ///
    /// Make `quantization` in `config.json` say how the files were packed, with an entry for each module that differs,
    /// or convert the model again with `mlx_lm.convert -q`. For a GGUF file take another packing of the same model.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/1451>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1482>
    /// - <https://github.com/ml-explore/mlx-lm/issues/646>
    /// - <https://github.com/ml-explore/mlx-lm/issues/668>
    /// - <https://github.com/youssofal/MTPLX/issues/182>
    /// - <https://github.com/ml-explore/mlx-swift-examples/issues/178>
    pub static PACKING_MISMATCH = {
        name: "packing-mismatch",
        code: "MODEL005",
        summary: "weights are packed in another way than the configuration says",
        phase: Baseline,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    Unusable {
        kind: RefusalKind::Packing,
        expected: "packed tensors that fit the bits, the group size and the mode of the configuration",
        fix: "copy the `quantization` object from the config.json that the packing program wrote",
    }
    .in_model(evidence)
}
