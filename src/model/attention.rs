use mlx_cpu_kernels::Reach;
use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::macros::ModuleParameters;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;

use super::{AttentionContext, KeyValueStore, Linear, Norm, RotaryEmbedding, Run};

/// Queries that attend at one time; a fused kernel loses nothing by it.
const QUERY_BLOCK: i32 = 128;

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
    /// With stores, one for each sequence of the context, `batch` is 1 and every sequence attends to its own tokens: those
    /// its store holds, and the new ones, which are appended.
    pub fn attend(
        &self,
        parts: &[Array; 3],
        rotary: Option<&RotaryEmbedding>,
        context: &AttentionContext,
        stores: &mut [&mut dyn KeyValueStore],
    ) -> Result<Array> {
        let (batch, tokens) = (parts[0].dim(0), parts[0].dim(1));
        let mut attended = Vec::with_capacity(context.runs().len());
        for run in context.runs() {
            let sequences = if stores.is_empty() {
                batch
            } else {
                run.segments.len() as i32
            };
            let [queries, keys, values] = parts.each_ref().map(|part| self.of_run(part, run, sequences));
            let plain = |part: Array| part.transpose_axes(&[0, 2, 1, 3]);
            let turned = |part: Array| match rotary {
                Some(rotary) => rotary.forward(&part, &run.offsets),
                None => plain(part),
            };
            let parts = [turned(queries?)?, turned(keys?)?, plain(values?)?];
            let of_sequences = if stores.is_empty() {
                self.attend_to(parts.each_ref(), context, run.segments.start)?
            } else {
                let stores = stores
                    .get_mut(run.segments.clone())
                    .ok_or_else(|| Exception::custom("every sequence of a pass has a store, or none has"))?;
                self.attend_each(parts, run, context, stores)?
            };
            attended.push(of_sequences.reshape(&[
                batch,
                sequences * run.tokens / batch,
                self.queries * self.dimensions,
            ])?);
        }
        let attended = joined(attended, 1)?;
        if attended.dim(1) != tokens {
            return Err(Exception::custom(format!(
                "the sequences of a pass have {} tokens, its row has {tokens}",
                attended.dim(1)
            )));
        }
        Ok(attended)
    }

    /// The tokens of `run` in `part` `[batch, tokens, heads, dimensions]` as `[sequences, tokens, heads, dimensions]`.
    fn of_run(&self, part: &Array, run: &Run, sequences: i32) -> Result<Array> {
        let heads = part.dim(2);
        let taken = run.tokens * run.segments.len() as i32;
        let part = if taken == part.dim(1) {
            part.clone()
        } else {
            part.try_index((.., run.start..run.start + taken))?
        };
        part.reshape(&[sequences, run.tokens, heads, self.dimensions])
    }

    /// Lets queries `[sequences, heads, tokens, dimensions]` of a segment attend to keys and values alike; returns
    /// `[sequences, tokens, heads * dimensions]`.
    fn attend_to(
        &self,
        [queries, keys, values]: [&Array; 3],
        context: &AttentionContext,
        segment: usize,
    ) -> Result<Array> {
        if mlx_cpu_kernels::serve([queries, keys, values]) {
            let reach = Reach {
                window: self.window,
                scale: self.scale,
            };
            return mlx_cpu_kernels::attention([queries, keys, values], reach, context.documents());
        }
        let mask = context.mask(segment, self.window)?;
        let heads = self.attend_in_blocks(queries, keys, values, mask)?;
        heads
            .transpose_axes(&[0, 2, 1, 3])?
            .reshape(&[queries.dim(0), queries.dim(2), self.queries * self.dimensions])
    }

    /// Lets each sequence of `run` attend to what its store holds; parts are `[sequences, heads, tokens, dimensions]`, and
    /// the result `[sequences, tokens, heads * dimensions]`.
    fn attend_each(
        &self,
        [queries, keys, values]: [Array; 3],
        run: &Run,
        context: &AttentionContext,
        stores: &mut [&mut dyn KeyValueStore],
    ) -> Result<Array> {
        let mut attended = Vec::with_capacity(stores.len());
        for (index, (segment, store)) in (0..).zip(run.segments.clone().zip(stores)) {
            let own = |part: &Array| match run.segments.len() {
                1 => Ok(part.clone()),
                _ => part.try_index(index..index + 1),
            };
            let (keys, values) = store.append(own(&keys)?, own(&values)?, self.window)?;
            attended.push(self.attend_to([&own(&queries)?, &keys, &values], context, segment)?);
        }
        joined(attended, 0)
    }

    /// Lets the `queries` of one sequence attend block by block, so that the first ones are not multiplied with the keys
    /// of the last ones: on a CPU, MLX computes those products and then hides them.
    fn attend_in_blocks(
        &self,
        queries: &Array,
        keys: &Array,
        values: &Array,
        mask: Option<ScaledDotProductAttentionMask<'_>>,
    ) -> Result<Array> {
        let (tokens, held) = (queries.dim(2), keys.dim(2));
        let is_causal = matches!(mask, Some(ScaledDotProductAttentionMask::Causal));
        if !is_causal || tokens <= QUERY_BLOCK {
            return scaled_dot_product_attention(queries, keys, values, self.scale, mask, None);
        }
        let mut blocks = Vec::new();
        for start in (0..tokens).step_by(QUERY_BLOCK as usize) {
            let end = tokens.min(start + QUERY_BLOCK);
            let seen = held - tokens + end;
            blocks.push(scaled_dot_product_attention(
                queries.try_index((.., .., start..end))?,
                keys.try_index((.., .., ..seen))?,
                values.try_index((.., .., ..seen))?,
                self.scale,
                (end - start > 1).then_some(ScaledDotProductAttentionMask::Causal),
                None,
            )?);
        }
        joined(blocks, 2)
    }
}

fn joined(mut parts: Vec<Array>, axis: i32) -> Result<Array> {
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => concatenate(&parts, axis),
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
        stores: &mut [&mut dyn KeyValueStore],
    ) -> Result<Array> {
        let heads = &self.heads;
        let [queries, keys, values] = Linear::forward_each([&self.q_proj, &self.k_proj, &self.v_proj], input)?;
        let mut queries = heads.split(&queries, heads.queries)?;
        let mut keys = heads.split(&keys, heads.keys)?;
        let values = heads.split(&values, heads.keys)?;
        if let Some(norm) = &self.q_norm {
            queries = norm.forward(&queries)?;
        }
        if let Some(norm) = &self.k_norm {
            keys = norm.forward(&keys)?;
        }
        let merged = heads.attend(&[queries, keys, values], Some(&self.rotary), context, stores)?;
        self.o_proj.forward(&merged)
    }
}
