use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::fast::{ScaledDotProductAttentionMask, rms_norm, scaled_dot_product_attention};
use mlx_rs::macros::ModuleParameters;
use mlx_rs::nn::RmsNorm;

use super::{KeyValueStore, Linear, RotaryEmbedding};

/// Grouped-query attention with rotary positions.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Attention {
    /// `[heads * head_dimensions, hidden]`.
    #[param]
    pub q_proj: Linear,
    /// `[key_value_heads * head_dimensions, hidden]`.
    #[param]
    pub k_proj: Linear,
    /// `[key_value_heads * head_dimensions, hidden]`.
    #[param]
    pub v_proj: Linear,
    /// `[hidden, heads * head_dimensions]`.
    #[param]
    pub o_proj: Linear,
    /// Norm over each query head; qwen3 has one.
    #[param]
    pub q_norm: Option<RmsNorm>,
    /// Norm over each key head; qwen3 has one.
    #[param]
    pub k_norm: Option<RmsNorm>,
    /// Number of query heads.
    pub heads: i32,
    /// Number of key and value heads; divides `heads`.
    pub key_value_heads: i32,
    /// Values per head.
    pub head_dimensions: i32,
    /// Position encoding of queries and keys.
    pub rotary: RotaryEmbedding,
}

impl Attention {
    /// Attends over `input` `[batch, tokens, hidden]`, every position to itself and those before it.
    ///
    /// With a store, earlier positions are those the store holds, and the new ones are appended to it.
    pub fn forward(&self, input: &Array, store: Option<&mut dyn KeyValueStore>) -> Result<Array> {
        let (batch, tokens) = (input.dim(0), input.dim(1));
        let split = |projected: Array, heads: i32| -> Result<Array> {
            projected.reshape(&[batch, tokens, heads, self.head_dimensions])
        };
        let mut queries = split(self.q_proj.forward(input)?, self.heads)?;
        let mut keys = split(self.k_proj.forward(input)?, self.key_value_heads)?;
        let values = split(self.v_proj.forward(input)?, self.key_value_heads)?;
        if let Some(norm) = &self.q_norm {
            queries = rms_norm(queries, Some(&norm.weight.value), norm.eps)?;
        }
        if let Some(norm) = &self.k_norm {
            keys = rms_norm(keys, Some(&norm.weight.value), norm.eps)?;
        }
        let heads_first = |array: Array| array.transpose_axes(&[0, 2, 1, 3]);
        let offset = store.as_ref().map_or(0, |store| store.length());
        let queries = self.rotary.forward(&heads_first(queries)?, offset)?;
        let mut keys = self.rotary.forward(&heads_first(keys)?, offset)?;
        let mut values = heads_first(values)?;
        if let Some(store) = store {
            (keys, values) = store.append(keys, values)?;
        }
        let mask = (tokens > 1).then_some(ScaledDotProductAttentionMask::Causal);
        let scale = (self.head_dimensions as f32).powf(-0.5);
        let attended = scaled_dot_product_attention(queries, keys, values, scale, mask, None)?;
        let merged =
            attended
                .transpose_axes(&[0, 2, 1, 3])?
                .reshape(&[batch, tokens, self.heads * self.head_dimensions])?;
        self.o_proj.forward(&merged)
    }
}
