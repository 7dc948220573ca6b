use std::collections::BTreeSet;

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Parameter;

use super::{Adaptable, AttentionContext, Continued, Decoder, Linear, Segment, SwitchLinear};

/// The path of the output layer.
const OUTPUT: &str = "lm_head";

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
    pub fn hidden_states(&self, tokens: &Array) -> Result<Array> {
        self.pass(tokens, &self.context(tokens, None)?, Vec::new())
    }

    /// The last hidden states `[1, tokens, hidden]` of `tokens` `[1, tokens]` that continue several sequences, one after
    /// the other; none attends to another's.
    pub fn hidden_states_of_sequences(&self, tokens: &Array, sequences: Vec<Continued<'_>>) -> Result<Array> {
        let segments = sequences.iter().map(|sequence| Segment {
            tokens: sequence.tokens,
            offset: sequence.stores.first().map_or(0, |store| store.length()),
        });
        let context = AttentionContext::of_segments(segments.collect(), &self.windows())?;
        self.pass(tokens, &context, sequences)
    }

    /// [`Self::hidden_states`] of rows that several documents share: no token attends to another document's.
    ///
    /// `documents` `[batch, tokens]` holds the same number for all tokens of a document, whose tokens stand together.
    pub fn hidden_states_of_documents(&self, tokens: &Array, documents: &Array) -> Result<Array> {
        self.pass(tokens, &self.context(tokens, Some(documents))?, Vec::new())
    }

    /// What `tokens` `[batch, tokens]` may attend to, by themselves or within their `documents` `[batch, tokens]`.
    pub fn context(&self, tokens: &Array, documents: Option<&Array>) -> Result<AttentionContext> {
        match documents {
            None => AttentionContext::new(tokens.dim(-1), &self.windows()),
            Some(documents) if documents.shape() == tokens.shape() => {
                AttentionContext::within_documents(documents, &self.windows())
            }
            Some(_) => Err(Exception::custom(
                "every token of packed rows has the number of its document",
            )),
        }
    }

    fn pass(&self, tokens: &Array, context: &AttentionContext, sequences: Vec<Continued<'_>>) -> Result<Array> {
        let mut hidden = self.model.embed(tokens, context)?;
        let mut stores: Vec<_> = sequences
            .into_iter()
            .map(|sequence| sequence.stores.into_iter())
            .collect();
        for block in &self.model.layers {
            let of_block: Option<Vec<_>> = stores.iter_mut().map(Iterator::next).collect();
            let mut of_block = of_block.ok_or_else(|| Exception::custom("a sequence has one store for each block"))?;
            hidden = block.forward(&hidden, context, &mut of_block)?;
        }
        self.model.norm.forward(&hidden)
    }

    /// The experts that each of `tokens` `[batch, tokens]` is sent to, `[batch, tokens, chosen]` for each block that has
    /// experts, with the number of the block.
    pub fn chosen_experts(&self, tokens: &Array) -> Result<Vec<(usize, Array)>> {
        let context = self.context(tokens, None)?;
        let mut hidden = self.model.embed(tokens, &context)?;
        let mut chosen = Vec::new();
        for (index, block) in self.model.layers.iter().enumerate() {
            let (output, experts) = block.forward_with_experts(&hidden, &context, &mut [])?;
            hidden = output;
            chosen.extend(experts.map(|experts| (index, experts)));
        }
        Ok(chosen)
    }

    /// Tokens that a row can have at most, where positions are learned; `None` where they are rotary.
    pub fn learned_positions(&self) -> Option<usize> {
        let table = self.model.embed_positions.as_ref()?;
        Some(table.vocabulary_size() as usize)
    }

    /// The windows of the blocks.
    fn windows(&self) -> BTreeSet<Option<i32>> {
        self.model.layers.iter().map(|block| block.window()).collect()
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
        self.output(&self.hidden_states(tokens)?)
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
            (&table.weight, table.packing.is_none() && table.low_rank.is_none())
        };
        (plain && weight.is_frozen() == Some(true)).then_some(&weight.value)
    }

    /// Whether some weights are packed.
    pub fn is_packed(&self) -> bool {
        self.model.embed_tokens.packing.is_some()
            || self.linears().iter().any(|(_, linear)| linear.packing.is_some())
            || self.switch_linears().iter().any(|(_, layer)| layer.packing.is_some())
    }

    /// Turns dropout on or off in every adapter.
    pub fn set_training(&mut self, training: bool) {
        for (_, layer) in self.adaptable_mut() {
            if let Some(settings) = layer.low_rank_mut() {
                settings.training = training;
            }
        }
    }

    /// The logits `[batch, tokens, vocabulary]` of `tokens` `[batch, tokens]`, giving each block up when it was passed.
    ///
    /// `passed` is shown every layer that can carry an adapter, but for the embedding, with its path after its use.
    /// Weights that are still pending work, as those of a model whose adapters were just fused, are so in memory for
    /// one block at a time.
    pub fn into_logits(
        mut self,
        tokens: &Array,
        mut passed: impl FnMut(&str, &dyn Adaptable) -> Result<()>,
    ) -> Result<Array> {
        let context = AttentionContext::new(tokens.dim(-1), &self.windows())?;
        let prefix = self.block_prefix();
        let mut hidden = self.model.embed(tokens, &context)?;
        for (index, block) in std::mem::take(&mut self.model.layers).into_iter().enumerate() {
            hidden = block.forward(&hidden, &context, &mut [])?;
            hidden.eval()?;
            for (path, linear) in block.linears() {
                passed(&format!("{prefix}{index}.{path}"), linear)?;
            }
            for (path, experts) in block.switch_linears() {
                passed(&format!("{prefix}{index}.{path}"), experts)?;
            }
        }
        let logits = self.output(&self.model.norm.forward(&hidden)?)?;
        if let Some(head) = &self.lm_head {
            logits.eval()?;
            passed(OUTPUT, head)?;
        }
        Ok(logits)
    }

    /// What the path of every block begins with, up to its number, for example `model.layers.`.
    pub fn block_prefix(&self) -> String {
        self.model.names.block_prefix()
    }

    /// Every linear layer with its path, block by block, the output layer last.
    pub fn linears(&self) -> Vec<(String, &Linear)> {
        let prefix = self.block_prefix();
        let mut linears = Vec::new();
        for (index, block) in self.model.layers.iter().enumerate() {
            let of_block = block.linears().into_iter();
            linears.extend(of_block.map(|(path, linear)| (format!("{prefix}{index}.{path}"), linear)));
        }
        linears.extend(self.lm_head.iter().map(|head| (OUTPUT.to_owned(), head)));
        linears
    }

    /// [`Self::linears`], mutable.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let prefix = self.block_prefix();
        let mut linears = Vec::new();
        for (index, block) in self.model.layers.iter_mut().enumerate() {
            let of_block = block.linears_mut().into_iter();
            linears.extend(of_block.map(|(path, linear)| (format!("{prefix}{index}.{path}"), linear)));
        }
        linears.extend(self.lm_head.iter_mut().map(|head| (OUTPUT.to_owned(), head)));
        linears
    }

    /// The linear layer at `path`, for example `model.layers.0.self_attn.q_proj`; `None` when there is none.
    pub fn linear(&self, path: &str) -> Option<&Linear> {
        self.linears()
            .into_iter()
            .find(|(own, _)| own == path)
            .map(|(_, linear)| linear)
    }

    /// Every layer of experts with its path, block by block.
    pub fn switch_linears(&self) -> Vec<(String, &SwitchLinear)> {
        let prefix = self.block_prefix();
        let mut layers = Vec::new();
        for (index, block) in self.model.layers.iter().enumerate() {
            let of_block = block.switch_linears().into_iter();
            layers.extend(of_block.map(|(path, layer)| (format!("{prefix}{index}.{path}"), layer)));
        }
        layers
    }

    /// Every layer that can carry an adapter with its path: the embedding, block by block the linear layers and those
    /// of experts, the output layer last.
    pub fn adaptable(&self) -> Vec<(String, &dyn Adaptable)> {
        let prefix = self.block_prefix();
        let embedding: &dyn Adaptable = &self.model.embed_tokens;
        let mut layers = vec![(self.model.names.embedding_path(), embedding)];
        for (index, block) in self.model.layers.iter().enumerate() {
            let path = |path: &str| format!("{prefix}{index}.{path}");
            for (name, linear) in block.linears() {
                layers.push((path(name), linear));
            }
            for (name, experts) in block.switch_linears() {
                layers.push((path(name), experts));
            }
        }
        if let Some(head) = &self.lm_head {
            layers.push((OUTPUT.to_owned(), head));
        }
        layers
    }

    /// [`Self::adaptable`], mutable, in the same order.
    pub fn adaptable_mut(&mut self) -> Vec<(String, &mut dyn Adaptable)> {
        let prefix = self.block_prefix();
        let path = self.model.names.embedding_path();
        let embedding: &mut dyn Adaptable = &mut self.model.embed_tokens;
        let mut layers = vec![(path, embedding)];
        for (index, block) in self.model.layers.iter_mut().enumerate() {
            for (name, layer) in block.adaptable_mut() {
                layers.push((format!("{prefix}{index}.{name}"), layer));
            }
        }
        if let Some(head) = &mut self.lm_head {
            layers.push((OUTPUT.to_owned(), head));
        }
        layers
    }
}
