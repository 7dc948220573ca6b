//! Weights in packed form, and the products with them.

use mlx_float_packing as float_packing;
use mlx_rs::error::Result;
use mlx_rs::ops::{dequantize, gather_qmm, quantized_matmul};
use mlx_rs::{Array, Dtype};

use super::{ExpertIndices, Packing, QuantizationMode};
use crate::readback::scalar;

/// How a layer holds a packed weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedForm {
    /// How it is packed.
    pub packing: Packing,
    /// Element type of the weight in plain form; that of the scales in mode `affine`, whereas those of the other modes
    /// are bytes.
    pub dtype: Dtype,
}

/// A packed matrix `[rows, columns]`, or one such matrix per expert.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    /// `[..., rows, columns * bits / 32]` words.
    pub weight: Array,
    /// `[..., rows, columns / group_size]`.
    pub scales: Array,
    /// Of the shape of the scales; in mode `affine` alone.
    pub biases: Option<Array>,
    /// How they are packed.
    pub form: PackedForm,
}

impl PackedMatrix {
    /// The weights, scales and biases.
    pub fn arrays(&self) -> Vec<&Array> {
        [&self.weight, &self.scales].into_iter().chain(&self.biases).collect()
    }

    /// The arrays with the ends of their names.
    pub fn into_parts(self) -> impl Iterator<Item = (&'static str, Array)> {
        let parts = [("weight", self.weight), ("scales", self.scales)];
        parts.into_iter().chain(self.biases.map(|biases| ("biases", biases)))
    }

    /// The matrix whose arrays are what `change` makes of these.
    pub fn try_map(self, change: impl Fn(&Array) -> Result<Array>) -> Result<Self> {
        Ok(Self {
            weight: change(&self.weight)?,
            scales: change(&self.scales)?,
            biases: self.biases.as_ref().map(change).transpose()?,
            form: self.form,
        })
    }

    /// The matrix with the plain form in `dtype`.
    pub fn as_dtype(self, dtype: Dtype) -> Result<Self> {
        let form = PackedForm { dtype, ..self.form };
        match self.biases {
            None => Ok(Self { form, ..self }),
            Some(biases) => Ok(Self {
                scales: self.scales.as_dtype(dtype)?,
                biases: Some(biases.as_dtype(dtype)?),
                weight: self.weight,
                form,
            }),
        }
    }

    /// Whether a scale or a weight has the code of NaN, which MLX computes with as with a number; none has it in mode
    /// `affine`.
    pub fn has_code_of_nan(&self) -> Result<bool> {
        let is = |codes: &Array, code: u8| codes.eq(Array::from_slice(&[code], &[]));
        let of_e8m0 = |codes: &Array| is(codes, 0xFF);
        // With either sign.
        let of_e4m3 = |codes: &Array| is(codes, 0x7F)?.logical_or(is(codes, 0xFF)?);
        let found = match self.form.packing.mode {
            QuantizationMode::Affine => return Ok(false),
            QuantizationMode::Mxfp4 => of_e8m0(&self.scales)?.any(None)?,
            QuantizationMode::Nvfp4 => of_e4m3(&self.scales)?.any(None)?,
            QuantizationMode::Mxfp8 => {
                let elements = self.weight.contiguous()?.view::<u8>()?;
                let in_scales = of_e8m0(&self.scales)?.any(None)?;
                in_scales.logical_or(of_e4m3(&elements)?.any(None)?)?
            }
        };
        scalar(&found)
    }

    /// The matrix in plain form.
    pub fn plain(&self) -> Result<Array> {
        let parts = PackedParts {
            weight: &self.weight,
            scales: &self.scales,
            biases: self.biases.as_ref(),
            form: self.form,
        };
        parts.plain()
    }
}

/// The arrays of a packed matrix where a layer has them.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedParts<'layer> {
    pub(super) weight: &'layer Array,
    pub(super) scales: &'layer Array,
    pub(super) biases: Option<&'layer Array>,
    pub(super) form: PackedForm,
}

impl PackedParts<'_> {
    /// The matrix in plain form.
    pub(super) fn plain(&self) -> Result<Array> {
        let Packing { group_size, bits, mode } = self.form.packing;
        match mode.float() {
            None => dequantize(self.weight, self.scales, self.biases, group_size, bits),
            Some(mode) => float_packing::dequantize(self.weight, self.scales, mode, self.form.dtype),
        }
    }

    /// The rows `indices` `[...]` in plain form `[..., columns]`.
    pub(super) fn plain_rows(&self, indices: &Array) -> Result<Array> {
        let rows = |array: &Array| array.take_axis(indices, 0);
        let biases = self.biases.map(rows).transpose()?;
        PackedParts {
            weight: &rows(self.weight)?,
            scales: &rows(self.scales)?,
            biases: biases.as_ref(),
            form: self.form,
        }
        .plain()
    }

    /// `input` `[..., columns]` times the transposed matrix: `[..., rows]`.
    pub(super) fn multiply(&self, input: &Array) -> Result<Array> {
        let Packing { group_size, bits, mode } = self.form.packing;
        match mode.float() {
            None => quantized_matmul(input, self.weight, self.scales, self.biases, true, group_size, bits),
            Some(mode) => float_packing::quantized_matmul(input, self.weight, self.scales, mode),
        }
    }

    /// `input` `[..., 1, columns]` times the transposed matrices of its experts: `[..., 1, rows]`.
    pub(super) fn multiply_by_experts(&self, input: &Array, experts: &ExpertIndices) -> Result<Array> {
        let Packing { group_size, bits, mode } = self.form.packing;
        match mode.float() {
            None => gather_qmm(
                input,
                self.weight,
                self.scales,
                self.biases,
                None,
                Some(&experts.indices),
                true,
                group_size,
                bits,
                experts.sorted,
            ),
            Some(mode) => {
                float_packing::gather_qmm(input, self.weight, self.scales, &experts.indices, mode, experts.sorted)
            }
        }
    }
}
