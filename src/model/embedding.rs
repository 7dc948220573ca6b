use mlx_rs::error::Result;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::ops::{matmul, multiply};
use mlx_rs::{Array, Dtype};

use super::linear::scalar;
use super::packed_matrix::PackedParts;
use super::{LowRankSettings, PackedForm, PackedMatrix};

/// A table of token vectors, plain or packed, with room for one low-rank adapter.
///
/// Names and shapes of the adapter are those of mlx-lm's `LoRAEmbedding`.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Embedding {
    /// `[vocabulary, dimensions]`, or `[vocabulary, dimensions * bits / 32]` packed words.
    #[param]
    pub weight: Param<Array>,
    /// `[vocabulary, dimensions / group_size]`; present when packed.
    #[param]
    pub scales: Param<Option<Array>>,
    /// `[vocabulary, dimensions / group_size]`; present when packed in mode `affine`.
    #[param]
    pub biases: Param<Option<Array>>,
    /// `[vocabulary, rank]`.
    #[param]
    pub lora_a: Param<Option<Array>>,
    /// `[rank, dimensions]`.
    #[param]
    pub lora_b: Param<Option<Array>>,
    /// How `weight` is packed; `None` when it is plain.
    pub packing: Option<PackedForm>,
    /// How the adapter acts; `None` when there is none.
    pub low_rank: Option<LowRankSettings>,
}

impl Embedding {
    /// A plain table `[vocabulary, dimensions]`.
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

    /// A packed table.
    pub fn packed(matrix: PackedMatrix) -> Self {
        Self {
            scales: Param::new(Some(matrix.scales)),
            biases: Param::new(matrix.biases),
            packing: Some(matrix.form),
            ..Self::new(matrix.weight)
        }
    }

    /// The packed table; `None` when it is plain.
    fn parts(&self) -> Option<PackedParts<'_>> {
        Some(PackedParts {
            weight: &self.weight.value,
            scales: self.scales.value.as_ref()?,
            biases: self.biases.value.as_ref(),
            form: self.packing?,
        })
    }

    /// Number of tokens.
    pub fn vocabulary_size(&self) -> i32 {
        self.weight.dim(0)
    }

    /// Values of a vector.
    pub fn dimensions(&self) -> i32 {
        let columns = self.weight.dim(1);
        self.packing
            .map_or(columns, |form| form.packing.unpacked_columns(columns))
    }

    /// The vectors `[..., dimensions]` of `tokens` `[...]`.
    ///
    /// MLX does not check ids; callers pass ids below [`Self::vocabulary_size`].
    pub fn forward(&self, tokens: &Array) -> Result<Array> {
        let vectors = self.base_vectors(tokens)?;
        let (Some(settings), Some(lora_a), Some(lora_b)) = (self.low_rank, &self.lora_a.value, &self.lora_b.value)
        else {
            return Ok(vectors);
        };
        let change = settings.drop(&matmul(lora_a.take_axis(tokens, 0)?, lora_b)?)?;
        add_scaled(&vectors, &change, settings.scale)
    }

    /// [`Self::forward`] without the adapter.
    pub fn base_vectors(&self, tokens: &Array) -> Result<Array> {
        match self.parts() {
            Some(parts) => parts.plain_rows(tokens),
            None => self.weight.value.take_axis(tokens, 0),
        }
    }

    /// The weight `[vocabulary, dimensions]` in plain form.
    pub fn plain_weight(&self) -> Result<Array> {
        match self.parts() {
            Some(parts) => parts.plain(),
            None => Ok(self.weight.value.clone()),
        }
    }

    /// The weight with the adapter's change, `[vocabulary, dimensions]` in f32; the plain weight where there is no
    /// adapter.
    pub fn adapted_weight(&self) -> Result<Array> {
        let weight = self.plain_weight()?.as_dtype(Dtype::Float32)?;
        let (Some(settings), Some(lora_a), Some(lora_b)) = (self.low_rank, &self.lora_a.value, &self.lora_b.value)
        else {
            return Ok(weight);
        };
        add_scaled(&weight, &matmul(lora_a, lora_b)?, settings.scale)
    }

    /// The table used as the output layer: `hidden` `[..., dimensions]` to `[..., vocabulary]`.
    pub fn as_linear(&self, hidden: &Array) -> Result<Array> {
        let output = match self.parts() {
            Some(parts) => parts.multiply(hidden)?,
            None => matmul(hidden, self.weight.value.t())?,
        };
        let (Some(settings), Some(lora_a), Some(lora_b)) = (self.low_rank, &self.lora_a.value, &self.lora_b.value)
        else {
            return Ok(output);
        };
        let narrow = matmul(settings.drop(hidden)?, lora_b.t())?;
        add_scaled(&output, &matmul(narrow, lora_a.t())?, settings.scale)
    }
}

/// `output` plus `scale` times `change`, in the element type of `output`.
fn add_scaled(output: &Array, change: &Array, scale: f32) -> Result<Array> {
    let change = multiply(change, scalar(scale, change.dtype())?)?;
    output.add(change.as_dtype(output.dtype())?)
}
