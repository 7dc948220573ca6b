use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::dequantize;
use serde::{Deserialize, Serialize};

/// MLX's affine packing: `group_size` weights of `bits` bits share one scale and one bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Packing {
    /// Weights that share one scale.
    pub group_size: i32,
    /// Bits per weight.
    pub bits: i32,
}

/// Bits in one packed word.
const WORD_BITS: i32 = 32;

impl Packing {
    /// Columns of the plain matrix whose packed form has `words` columns.
    pub fn unpacked_columns(self, words: i32) -> i32 {
        words * WORD_BITS / self.bits
    }

    /// Columns of packed words for a plain matrix of `columns` columns.
    pub fn packed_columns(self, columns: i32) -> i32 {
        columns * self.bits / WORD_BITS
    }
}

impl Packing {
    /// Whether the three arrays of a packed matrix `[rows, columns]`, or of one such matrix per expert, agree with each
    /// other and with this packing.
    pub fn fits(self, weight: &Array, scales: &Array, biases: &Array) -> bool {
        let axes = weight.ndim();
        if !matches!(axes, 2 | 3) || scales.ndim() != axes || scales.shape() != biases.shape() {
            return false;
        }
        weight.shape()[..axes - 1] == scales.shape()[..axes - 1]
            && self.unpacked_columns(weight.dim(-1)) == scales.dim(-1) * self.group_size
    }
}

/// The rows `indices` `[...]` of a matrix, plain or packed, in plain form `[..., columns]`.
pub(super) fn plain_rows(
    weight: &Array,
    scales: Option<&Array>,
    biases: Option<&Array>,
    packing: Option<Packing>,
    indices: &Array,
) -> Result<Array> {
    let rows = weight.take_axis(indices, 0)?;
    let (Some(packing), Some(scales)) = (packing, scales) else {
        return Ok(rows);
    };
    let biases = biases.map(|biases| biases.take_axis(indices, 0)).transpose()?;
    let scales = scales.take_axis(indices, 0)?;
    dequantize(rows, scales, biases.as_ref(), packing.group_size, packing.bits)
}
