use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::ops::{matmul, quantized_matmul};

use super::Packing;
use super::packing::plain_rows;

/// A table of token vectors, plain or packed.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Embedding {
    /// `[vocabulary, dimensions]`, or `[vocabulary, dimensions * bits / 32]` packed words.
    #[param]
    pub weight: Param<Array>,
    /// `[vocabulary, dimensions / group_size]`; present when packed.
    #[param]
    pub scales: Param<Option<Array>>,
    /// `[vocabulary, dimensions / group_size]`; present when packed.
    #[param]
    pub biases: Param<Option<Array>>,
    /// How `weight` is packed; `None` when it is plain.
    pub packing: Option<Packing>,
}

impl Embedding {
    /// A plain table `[vocabulary, dimensions]`.
    pub fn new(weight: Array) -> Self {
        Self {
            weight: Param::new(weight),
            scales: Param::new(None),
            biases: Param::new(None),
            packing: None,
        }
    }

    /// A packed table.
    pub fn packed(weight: Array, scales: Array, biases: Array, packing: Packing) -> Self {
        Self {
            weight: Param::new(weight),
            scales: Param::new(Some(scales)),
            biases: Param::new(Some(biases)),
            packing: Some(packing),
        }
    }

    /// Number of tokens.
    pub fn vocabulary_size(&self) -> i32 {
        self.weight.dim(0)
    }

    /// The vectors `[..., dimensions]` of `tokens` `[...]`.
    ///
    /// MLX does not check ids; callers pass ids below [`Self::vocabulary_size`].
    pub fn forward(&self, tokens: &Array) -> Result<Array> {
        plain_rows(
            &self.weight,
            self.scales.value.as_ref(),
            self.biases.value.as_ref(),
            self.packing,
            tokens,
        )
    }

    /// The table used as the output layer: `hidden` `[..., dimensions]` to `[..., vocabulary]`.
    pub fn as_linear(&self, hidden: &Array) -> Result<Array> {
        match (self.packing, &self.scales.value) {
            (Some(packing), Some(scales)) => quantized_matmul(
                hidden,
                &self.weight.value,
                scales,
                self.biases.value.as_ref(),
                true,
                packing.group_size,
                packing.bits,
            ),
            _ => matmul(hidden, self.weight.value.t()),
        }
    }
}
