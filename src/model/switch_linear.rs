use mlx_rs::error::Result;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::ops::{gather_mm, matmul, multiply};
use mlx_rs::{Array, Dtype};

use super::packed_matrix::PackedParts;
use super::{LowRankSettings, PackedForm, PackedMatrix};

/// One matrix per expert, of which each token takes some; plain or packed, with room for one low-rank adapter per
/// expert.
///
/// Shapes and names are those of mlx-lm's `SwitchLinear` and `LoRASwitchLinear`.
#[derive(Debug, Clone, ModuleParameters)]
pub struct SwitchLinear {
    /// `[experts, outputs, inputs]`, or `[experts, outputs, inputs * bits / 32]` packed words.
    #[param]
    pub weight: Param<Array>,
    /// `[experts, outputs, inputs / group_size]`; present when packed.
    #[param]
    pub scales: Param<Option<Array>>,
    /// `[experts, outputs, inputs / group_size]`; present when packed in mode `affine`.
    #[param]
    pub biases: Param<Option<Array>>,
    /// `[experts, rank, inputs]`.
    #[param]
    pub lora_a: Param<Option<Array>>,
    /// `[experts, outputs, rank]`.
    #[param]
    pub lora_b: Param<Option<Array>>,
    /// How `weight` is packed; `None` when it is plain.
    pub packing: Option<PackedForm>,
    /// How the adapter acts; `None` when there is none.
    pub low_rank: Option<LowRankSettings>,
}

/// Which expert serves each row of an input.
#[derive(Debug, Clone)]
pub struct ExpertIndices {
    /// Indices of experts; the input's leading axes broadcast with it.
    pub indices: Array,
    /// Whether they ascend, so that each expert's rows lie together.
    pub sorted: bool,
}

impl SwitchLinear {
    /// Plain experts `[experts, outputs, inputs]`.
    pub fn new(weight: Array) -> Self {
        Self {
            weight: Param::new(weight),
            scales: Param::new(None),
            biases: Param::new(None),
            lora_a: Param::new(None),
            lora_b: Param::new(None),
            packing: None,
            low_rank: None,
        }
    }

    /// Packed experts.
    pub fn packed(matrix: PackedMatrix) -> Self {
        Self {
            scales: Param::new(Some(matrix.scales)),
            biases: Param::new(matrix.biases),
            packing: Some(matrix.form),
            ..Self::new(matrix.weight)
        }
    }

    /// The packed weights; `None` when they are plain.
    fn parts(&self) -> Option<PackedParts<'_>> {
        Some(PackedParts {
            weight: &self.weight.value,
            scales: self.scales.value.as_ref()?,
            biases: self.biases.value.as_ref(),
            form: self.packing?,
        })
    }

    /// Number of experts, and outputs and inputs of each unpacked matrix.
    pub fn shape(&self) -> (i32, i32, i32) {
        let columns = self.weight.dim(2);
        let inputs = self
            .packing
            .map_or(columns, |form| form.packing.unpacked_columns(columns));
        (self.weight.dim(0), self.weight.dim(1), inputs)
    }

    /// The weight `[experts, outputs, inputs]` in plain form.
    pub fn plain_weight(&self) -> Result<Array> {
        match self.parts() {
            Some(parts) => parts.plain(),
            None => Ok(self.weight.value.clone()),
        }
    }

    /// The weight with the adapter's change, `[experts, outputs, inputs]` in f32; the plain weight where there is no
    /// adapter.
    pub fn adapted_weight(&self) -> Result<Array> {
        let weight = self.plain_weight()?.as_dtype(Dtype::Float32)?;
        let (Some(settings), Some(lora_a), Some(lora_b)) = (self.low_rank, &self.lora_a.value, &self.lora_b.value)
        else {
            return Ok(weight);
        };
        weight.add(multiply(matmul(lora_b, lora_a)?, Array::from_f32(settings.scale))?)
    }

    /// Applies the experts that `experts` names to `input` `[..., 1, inputs]`, giving `[..., 1, outputs]`.
    pub fn forward(&self, input: &Array, experts: &ExpertIndices) -> Result<Array> {
        let output = match self.parts() {
            Some(parts) => parts.multiply_by_experts(input, experts)?,
            None => gather(input, &self.weight.value, experts)?,
        };
        let (Some(settings), Some(lora_a), Some(lora_b)) = (self.low_rank, &self.lora_a.value, &self.lora_b.value)
        else {
            return Ok(output);
        };
        let hidden = gather(&settings.drop(input)?, lora_a, experts)?;
        let change = gather(&hidden, lora_b, experts)?;
        let scale = Array::from_f32(settings.scale).as_dtype(change.dtype())?;
        output.add(multiply(change, scale)?.as_dtype(output.dtype())?)
    }
}

/// `input` times the transposed matrices `[experts, outputs, inputs]` of its experts.
fn gather(input: &Array, matrices: &Array, experts: &ExpertIndices) -> Result<Array> {
    let transposed = matrices.swap_axes(-1, -2)?;
    gather_mm(input, transposed, None, Some(&experts.indices), experts.sorted)
}
