use std::rc::Rc;

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::module::{ModuleParamMut, ModuleParamRef, ModuleParameters, Parameter};
use mlx_rs::nested::NestedHashMap;
use mlx_rs::ops::multiply;

use super::linear::scalar;
use super::{AttentionContext, Block, Embedding, Norm};

/// What mlx-lm calls the parts of a decoder; the first part of every path below `model`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderNames {
    /// The table of token vectors.
    pub embedding: &'static str,
    /// The table of position vectors; `None` where positions are rotary.
    pub positions: Option<&'static str>,
    /// The list of blocks.
    pub blocks: &'static str,
    /// The norm after the last block.
    pub norm: &'static str,
}

impl DecoderNames {
    /// The names in llama and most others.
    pub const USUAL: Self = Self {
        embedding: "embed_tokens",
        positions: None,
        blocks: "layers",
        norm: "norm",
    };

    /// The path of the embedding in the whole model.
    pub fn embedding_path(self) -> String {
        format!("model.{}", self.embedding)
    }

    /// What the path of every block begins with, up to its number.
    pub fn block_prefix(self) -> String {
        format!("model.{}.", self.blocks)
    }
}

/// Embedding, blocks and the last norm.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Token vectors.
    pub embed_tokens: Embedding,
    /// Position vectors that are added to them; `None` where positions are rotary.
    pub embed_positions: Option<Embedding>,
    /// Factor on the token vectors; `None` for 1.
    pub embedding_scale: Option<f32>,
    /// The blocks, from the input to the output.
    pub layers: Vec<Box<dyn Block>>,
    /// Norm after the last block.
    pub norm: Norm,
    /// What the parts are called.
    pub names: DecoderNames,
}

impl Decoder {
    /// The input `[batch, tokens, hidden]` of the first block.
    ///
    /// # Errors
    /// `tokens` reach beyond the table of positions, or MLX fails.
    pub fn embed(&self, tokens: &Array, context: &AttentionContext) -> Result<Array> {
        let mut hidden = self.embed_tokens.forward(tokens)?;
        if let Some(scale) = self.embedding_scale {
            hidden = multiply(&hidden, scalar(scale, hidden.dtype())?)?;
        }
        let Some(table) = &self.embed_positions else {
            return Ok(hidden);
        };
        let positions = table.vocabulary_size();
        if context.end() > positions {
            return Err(Exception::custom(format!(
                "{} tokens are more than the {positions} positions that the model has learned",
                context.end()
            )));
        }
        hidden.add(table.forward(&context.positions()?)?)
    }

    fn parts(&self) -> Vec<(&'static str, &dyn Parameter)> {
        let mut parts: Vec<(&'static str, &dyn Parameter)> = vec![(self.names.embedding, &self.embed_tokens)];
        if let (Some(name), Some(table)) = (self.names.positions, &self.embed_positions) {
            parts.push((name, table));
        }
        parts.push((self.names.blocks, &self.layers));
        parts.push((self.names.norm, &self.norm));
        parts
    }

    fn parts_mut(&mut self) -> Vec<(&'static str, &mut dyn Parameter)> {
        let mut parts: Vec<(&'static str, &mut dyn Parameter)> = vec![(self.names.embedding, &mut self.embed_tokens)];
        if let (Some(name), Some(table)) = (self.names.positions, &mut self.embed_positions) {
            parts.push((name, table));
        }
        parts.push((self.names.blocks, &mut self.layers));
        parts.push((self.names.norm, &mut self.norm));
        parts
    }
}

/// As the derive macro has it, but for the names, which differ between architectures.
impl ModuleParameters for Decoder {
    fn num_parameters(&self) -> usize {
        self.parts().into_iter().map(|(_, part)| part.count()).sum()
    }

    fn parameters(&self) -> ModuleParamRef<'_> {
        let mut parameters = NestedHashMap::new();
        for (name, part) in self.parts() {
            parameters.insert(Rc::from(name), part.as_nested_value());
        }
        parameters
    }

    fn parameters_mut(&mut self) -> ModuleParamMut<'_> {
        let mut parameters = NestedHashMap::new();
        for (name, part) in self.parts_mut() {
            parameters.insert(Rc::from(name), part.as_nested_value_mut());
        }
        parameters
    }

    fn trainable_parameters(&self) -> ModuleParamRef<'_> {
        let mut parameters = NestedHashMap::new();
        for (name, part) in self.parts() {
            if let Some(trainable) = part.as_trainable_nested_value() {
                parameters.insert(Rc::from(name), trainable);
            }
        }
        parameters
    }

    fn freeze_parameters(&mut self, recursive: bool) {
        for (_, part) in self.parts_mut() {
            part.freeze(recursive);
        }
    }

    fn unfreeze_parameters(&mut self, recursive: bool) {
        for (_, part) in self.parts_mut() {
            part.unfreeze(recursive);
        }
    }

    fn all_frozen(&self) -> Option<bool> {
        self.parts()
            .into_iter()
            .filter_map(|(_, part)| part.is_frozen())
            .reduce(|all, one| all && one)
    }

    fn any_frozen(&self) -> Option<bool> {
        self.parts()
            .into_iter()
            .filter_map(|(_, part)| part.is_frozen())
            .reduce(|any, one| any || one)
    }
}
