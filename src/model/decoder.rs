use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::fast::rms_norm;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Parameter;
use mlx_rs::nn::{RmsNorm, silu};
use mlx_rs::ops::multiply;

use super::{Attention, Embedding, KeyValueStore, Linear};

/// The gated feed-forward layer: `down(silu(gate(x)) * up(x))`.
#[derive(Debug, Clone, ModuleParameters)]
pub struct FeedForward {
    /// `[intermediate, hidden]`.
    #[param]
    pub gate_proj: Linear,
    /// `[intermediate, hidden]`.
    #[param]
    pub up_proj: Linear,
    /// `[hidden, intermediate]`.
    #[param]
    pub down_proj: Linear,
}

impl FeedForward {
    /// Applies the layer to `input` `[..., hidden]`.
    pub fn forward(&self, input: &Array) -> Result<Array> {
        let gate = silu(self.gate_proj.forward(input)?)?;
        self.down_proj.forward(&multiply(gate, self.up_proj.forward(input)?)?)
    }
}

/// One transformer block with its norms before attention and before the feed-forward layer.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Block {
    /// Attention over earlier positions.
    #[param]
    pub self_attn: Attention,
    /// The feed-forward layer.
    #[param]
    pub mlp: FeedForward,
    /// Norm before attention.
    #[param]
    pub input_layernorm: RmsNorm,
    /// Norm before the feed-forward layer.
    #[param]
    pub post_attention_layernorm: RmsNorm,
}

impl Block {
    /// Applies the block to `input` `[batch, tokens, hidden]`.
    pub fn forward(&self, input: &Array, store: Option<&mut dyn KeyValueStore>) -> Result<Array> {
        let attended = self.self_attn.forward(&norm(&self.input_layernorm, input)?, store)?;
        let middle = input.add(attended)?;
        let fed = self.mlp.forward(&norm(&self.post_attention_layernorm, &middle)?)?;
        middle.add(fed)
    }

    /// The linear layers with their paths, this block being number `index`.
    fn linears(&self, index: usize) -> [(String, &Linear); 7] {
        let path = |name: &str| format!("model.layers.{index}.{name}");
        [
            (path("self_attn.q_proj"), &self.self_attn.q_proj),
            (path("self_attn.k_proj"), &self.self_attn.k_proj),
            (path("self_attn.v_proj"), &self.self_attn.v_proj),
            (path("self_attn.o_proj"), &self.self_attn.o_proj),
            (path("mlp.gate_proj"), &self.mlp.gate_proj),
            (path("mlp.up_proj"), &self.mlp.up_proj),
            (path("mlp.down_proj"), &self.mlp.down_proj),
        ]
    }

    /// [`Self::linears`], mutable.
    fn linears_mut(&mut self, index: usize) -> [(String, &mut Linear); 7] {
        let path = |name: &str| format!("model.layers.{index}.{name}");
        [
            (path("self_attn.q_proj"), &mut self.self_attn.q_proj),
            (path("self_attn.k_proj"), &mut self.self_attn.k_proj),
            (path("self_attn.v_proj"), &mut self.self_attn.v_proj),
            (path("self_attn.o_proj"), &mut self.self_attn.o_proj),
            (path("mlp.gate_proj"), &mut self.mlp.gate_proj),
            (path("mlp.up_proj"), &mut self.mlp.up_proj),
            (path("mlp.down_proj"), &mut self.mlp.down_proj),
        ]
    }
}

/// Embedding, blocks and the last norm.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Decoder {
    /// Token vectors.
    #[param]
    pub embed_tokens: Embedding,
    /// The blocks, first to last.
    #[param]
    pub layers: Vec<Block>,
    /// Norm after the last block.
    #[param]
    pub norm: RmsNorm,
}

/// A decoder with its output layer.
///
/// Cloning copies handles, not values: MLX arrays are immutable.
#[derive(Debug, Clone, ModuleParameters)]
pub struct CausalModel {
    /// The decoder.
    #[param]
    pub model: Decoder,
    /// The output layer `[vocabulary, hidden]`; `None` when the embedding serves.
    #[param]
    pub lm_head: Option<Linear>,
}

impl CausalModel {
    /// The last hidden states `[batch, tokens, hidden]` of `tokens` `[batch, tokens]`, after the last norm.
    ///
    /// `stores` holds one store per block, or none to attend only within `tokens`.
    pub fn hidden_states(&self, tokens: &Array, stores: &mut [Box<dyn KeyValueStore>]) -> Result<Array> {
        let mut hidden = self.model.embed_tokens.forward(tokens)?;
        let mut stores = stores.iter_mut();
        for block in &self.model.layers {
            let store = stores.next().map(|store| &mut **store as &mut dyn KeyValueStore);
            hidden = block.forward(&hidden, store)?;
        }
        norm(&self.model.norm, &hidden)
    }

    /// The logits `[..., vocabulary]` of `hidden` `[..., hidden]`.
    pub fn output(&self, hidden: &Array) -> Result<Array> {
        match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => self.model.embed_tokens.as_linear(hidden),
        }
    }

    /// The logits `[batch, tokens, vocabulary]` of `tokens` `[batch, tokens]`.
    pub fn logits(&self, tokens: &Array) -> Result<Array> {
        self.output(&self.hidden_states(tokens, &mut [])?)
    }

    /// The rows `[tokens, hidden]` that the output layer has for `tokens` `[tokens]`, in plain form.
    pub fn output_rows(&self, tokens: &Array) -> Result<Array> {
        match &self.lm_head {
            Some(head) => head.plain_rows(tokens),
            None => self.model.embed_tokens.forward(tokens),
        }
    }

    /// The output layer's weight `[vocabulary, hidden]` when training leaves it alone and it is a plain matrix.
    pub fn frozen_output_weight(&self) -> Option<&Array> {
        let (weight, plain) = if let Some(head) = &self.lm_head {
            let bare = head.bias.value.is_none() && head.low_rank.is_none();
            (&head.weight, bare && head.packing.is_none())
        } else {
            let table = &self.model.embed_tokens;
            (&table.weight, table.packing.is_none())
        };
        (plain && weight.is_frozen() == Some(true)).then_some(&weight.value)
    }

    /// Whether some weights are packed.
    pub fn is_packed(&self) -> bool {
        self.model.embed_tokens.packing.is_some() || self.linears().iter().any(|(_, linear)| linear.packing.is_some())
    }

    /// Turns dropout on or off in every adapter.
    pub fn set_training(&mut self, training: bool) {
        for (_, linear) in self.linears_mut() {
            if let Some(settings) = &mut linear.low_rank {
                settings.training = training;
            }
        }
    }

    /// The logits `[batch, tokens, vocabulary]` of `tokens` `[batch, tokens]`, giving each block up when it was passed.
    ///
    /// `passed` is shown every linear layer with its path after its use. Weights that are still pending work, as those of
    /// a model whose adapters were just fused, are so in memory for one block at a time.
    pub fn into_logits(self, tokens: &Array, mut passed: impl FnMut(&str, &Linear) -> Result<()>) -> Result<Array> {
        let Decoder {
            embed_tokens,
            layers,
            norm: last_norm,
        } = self.model;
        let mut hidden = embed_tokens.forward(tokens)?;
        for (index, block) in layers.into_iter().enumerate() {
            hidden = block.forward(&hidden, None)?;
            hidden.eval()?;
            for (path, linear) in block.linears(index) {
                passed(&path, linear)?;
            }
        }
        let hidden = norm(&last_norm, &hidden)?;
        match &self.lm_head {
            Some(head) => {
                let logits = head.forward(&hidden)?;
                logits.eval()?;
                passed("lm_head", head)?;
                Ok(logits)
            }
            None => embed_tokens.as_linear(&hidden),
        }
    }

    /// Every linear layer with its path, block by block, the output layer last.
    pub fn linears(&self) -> Vec<(String, &Linear)> {
        let blocks = self.model.layers.iter().enumerate();
        let mut linears: Vec<_> = blocks.flat_map(|(index, block)| block.linears(index)).collect();
        linears.extend(self.lm_head.iter().map(|head| ("lm_head".to_owned(), head)));
        linears
    }

    /// [`Self::linears`], mutable.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let blocks = self.model.layers.iter_mut().enumerate();
        let mut linears: Vec<_> = blocks.flat_map(|(index, block)| block.linears_mut(index)).collect();
        linears.extend(self.lm_head.iter_mut().map(|head| ("lm_head".to_owned(), head)));
        linears
    }
}

fn norm(norm: &RmsNorm, input: &Array) -> Result<Array> {
    rms_norm(input, Some(&norm.weight.value), norm.eps)
}
