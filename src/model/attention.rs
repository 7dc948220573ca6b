use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::fast::scaled_dot_product_attention;
use mlx_rs::macros::ModuleParameters;

use super::{AttentionContext, KeyValueStore, Linear, Norm, RotaryEmbedding};

/// How the values of a token are cut into heads, and what the heads attend to.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Number of query heads.
    pub queries: i32,
    /// Number of key and value heads; divides `queries`.
    pub keys: i32,
    /// Values per head.
    pub dimensions: i32,
    /// Factor on the products of queries and keys.
    pub scale: f32,
    /// Tokens that one attends to, itself included; `None` for all before it.
    pub window: Option<i32>,
}

impl Heads {
    /// Cuts `projected` `[batch, tokens, heads * dimensions]` into `[batch, tokens, heads, dimensions]`.
    pub fn split(&self, projected: &Array, heads: i32) -> Result<Array> {
        projected.reshape(&[projected.dim(0), projected.dim(1), heads, self.dimensions])
    }

    /// Attends with `queries`, `keys` and `values`, each `[batch, tokens, heads, dimensions]`, turned by `rotary` where
    /// there is one, and returns `[batch, tokens, queries * dimensions]`.
    ///
    /// With a store, earlier positions are those the store holds, and the new ones are appended to it.
    pub fn attend(
        &self,
        [queries, keys, values]: [Array; 3],
        rotary: Option<&RotaryEmbedding>,
        context: &AttentionContext,
        store: Option<&mut dyn KeyValueStore>,
    ) -> Result<Array> {
        let (batch, tokens) = (queries.dim(0), queries.dim(1));
        let heads_first = |array: Array| array.transpose_axes(&[0, 2, 1, 3]);
        let offset = store.as_ref().map_or(0, |store| store.length());
        let turned = |array: Array| -> Result<Array> {
            let array = heads_first(array)?;
            rotary.map_or(Ok(array.clone()), |rotary| rotary.forward(&array, offset))
        };
        let queries = turned(queries)?;
        let mut keys = turned(keys)?;
        let mut values = heads_first(values)?;
        if let Some(store) = store {
            (keys, values) = store.append(keys, values)?;
        }
        let mask = context.mask(self.window)?;
        let attended = scaled_dot_product_attention(queries, keys, values, self.scale, mask, None)?;
        attended
            .transpose_axes(&[0, 2, 1, 3])?
            .reshape(&[batch, tokens, self.queries * self.dimensions])
    }
}

/// Grouped-query attention with rotary positions.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Attention {
    /// `[queries * dimensions, hidden]`.
    #[param]
    pub q_proj: Linear,
    /// `[keys * dimensions, hidden]`.
    #[param]
    pub k_proj: Linear,
    /// `[keys * dimensions, hidden]`.
    #[param]
    pub v_proj: Linear,
    /// `[hidden, queries * dimensions]`.
    #[param]
    pub o_proj: Linear,
    /// Norm over each query head; qwen3 and gemma3 have one.
    #[param]
    pub q_norm: Option<Norm>,
    /// Norm over each key head; qwen3 and gemma3 have one.
    #[param]
    pub k_norm: Option<Norm>,
    /// The heads.
    pub heads: Heads,
    /// Position encoding of queries and keys.
    pub rotary: RotaryEmbedding,
}

impl Attention {
    /// Attends over `input` `[batch, tokens, hidden]`; what to, `context` says.
    pub fn forward(
        &self,
        input: &Array,
        context: &AttentionContext,
        store: Option<&mut dyn KeyValueStore>,
    ) -> Result<Array> {
        let heads = &self.heads;
        let mut queries = heads.split(&self.q_proj.forward(input)?, heads.queries)?;
        let mut keys = heads.split(&self.k_proj.forward(input)?, heads.keys)?;
        let values = heads.split(&self.v_proj.forward(input)?, heads.keys)?;
        if let Some(norm) = &self.q_norm {
            queries = norm.forward(&queries)?;
        }
        if let Some(norm) = &self.k_norm {
            keys = norm.forward(&keys)?;
        }
        let merged = heads.attend([queries, keys, values], Some(&self.rotary), context, store)?;
        self.o_proj.forward(&merged)
    }
}
