use mlx_rs::error::Result;
use mlx_rs::ops::quantize;
use mlx_rs::{Array, Dtype};

use super::{PackedForm, PackedMatrix, QuantizationMode};

/// MLX's packing: `group_size` weights of `bits` bits share one scale, and in mode `affine` one bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packing {
    /// Weights that share one scale.
    pub group_size: i32,
    /// Bits per weight.
    pub bits: i32,
    /// Meaning of the bits.
    pub mode: QuantizationMode,
}

/// Bits in one packed word.
const WORD_BITS: i32 = 32;

impl Packing {
    /// Integers with a scale and a bias per group.
    pub const fn affine(group_size: i32, bits: i32) -> Self {
        Self {
            group_size,
            bits,
            mode: QuantizationMode::Affine,
        }
    }

    /// The packing of `mode` that mlx-lm takes where group size and bits are not given.
    pub fn of_mode(mode: QuantizationMode) -> Self {
        let (group_size, bits) = mode.defaults();
        Self {
            group_size: group_size as i32,
            bits: bits as i32,
            mode,
        }
    }

    /// Columns of the plain matrix whose packed form has `words` columns.
    pub fn unpacked_columns(self, words: i32) -> i32 {
        words * WORD_BITS / self.bits
    }

    /// Columns of packed words for a plain matrix of `columns` columns.
    pub fn packed_columns(self, columns: i32) -> i32 {
        columns * self.bits / WORD_BITS
    }

    /// Whether the arrays of a packed matrix `[rows, columns]`, or of one such matrix per expert, agree with each other
    /// and with this packing.
    pub fn fits(self, weight: &Array, scales: &Array, biases: Option<&Array>) -> bool {
        let axes = weight.ndim();
        if !matches!(axes, 2 | 3) || scales.ndim() != axes || !self.has_parts(scales, biases) {
            return false;
        }
        let is_alike = biases.is_none_or(|biases| scales.shape() == biases.shape());
        is_alike
            && weight.shape()[..axes - 1] == scales.shape()[..axes - 1]
            && self.unpacked_columns(weight.dim(-1)) == scales.dim(-1) * self.group_size
    }

    /// Whether the mode has scales of that element type, and biases just where there are some.
    pub fn has_parts(self, scales: &Array, biases: Option<&Array>) -> bool {
        let scales_are_bytes = scales.dtype() == Dtype::Uint8;
        match self.mode {
            QuantizationMode::Affine => !scales_are_bytes && biases.is_some(),
            QuantizationMode::Mxfp4 | QuantizationMode::Nvfp4 | QuantizationMode::Mxfp8 => {
                scales_are_bytes && biases.is_none()
            }
        }
    }

    /// Packs the matrix `plain` `[rows, columns]`, or one such matrix per expert, whose columns are whole groups.
    ///
    /// # Errors
    /// MLX has no such packing, or the columns are no whole groups.
    pub fn pack(self, plain: &Array) -> Result<PackedMatrix> {
        let form = PackedForm {
            packing: self,
            dtype: plain.dtype(),
        };
        match self.mode.float() {
            None => {
                let (weight, scales, biases) = quantize(plain, self.group_size, self.bits)?;
                Ok(PackedMatrix {
                    weight,
                    scales,
                    biases: Some(biases),
                    form,
                })
            }
            Some(mode) => {
                let [weight, scales] = mlx_float_packing::quantize(plain, mode)?;
                Ok(PackedMatrix {
                    weight,
                    scales,
                    biases: None,
                    form,
                })
            }
        }
    }
}
