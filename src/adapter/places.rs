//! Where a base has room for adapters: its layers by path and shape, without their values.

use std::collections::{BTreeMap, BTreeSet};

use mlx_rs::module::ModuleParameters;

use crate::model::CausalModel;

/// What the paths of the blocks begin with where no weight is numbered.
const BLOCK_PREFIX: &str = "model.layers.";
/// Parts of the names of matrices that are no linear layers.
const NOT_LINEAR: [&str; 4] = ["embed", "wte", "wpe", "conv"];

/// The layers of a base that can carry an adapter, and every weight that an adapter of whole weights can replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// What the path of every block begins with, up to its number.
    pub block_prefix: String,
    /// Blocks.
    pub blocks: usize,
    /// Layers that can carry an adapter in the model's order, each with its `[outputs, inputs]`, or `[experts, outputs,
    /// inputs]`; of a table of vectors `[dimensions, vocabulary]`.
    pub linears: Vec<(String, Vec<i32>)>,
    /// Every weight with its shape.
    pub weights: BTreeMap<String, Vec<i32>>,
}

impl Places {
    /// The places of a model in memory.
    pub fn of(model: &CausalModel) -> Self {
        let weights = model.parameters().flatten().into_iter();
        Self {
            block_prefix: model.block_prefix(),
            blocks: model.model.layers.len(),
            linears: model
                .adaptable()
                .into_iter()
                .map(|(path, layer)| (path, layer.place()))
                .collect(),
            weights: weights
                .map(|(name, array)| (name.to_string(), array.shape().to_vec()))
                .collect(),
        }
    }

    /// The places that the names and shapes of `weights` suggest, where nothing else is known of the architecture: each
    /// matrix named `<path>.weight` is a linear layer, and what is numbered most often is a block.
    pub fn suggested_by(weights: BTreeMap<String, Vec<i32>>) -> Self {
        let linears: Vec<(String, Vec<i32>)> = weights
            .iter()
            .filter(|(_, shape)| matches!(shape.len(), 2 | 3))
            .filter_map(|(name, shape)| Some((name.strip_suffix(".weight")?.to_owned(), shape.clone())))
            .filter(|(path, _)| !NOT_LINEAR.iter().any(|part| path.contains(part)))
            .collect();
        let mut numbered: BTreeMap<&str, (usize, BTreeSet<usize>)> = BTreeMap::new();
        for (path, _) in &linears {
            if let Some((prefix, block)) = first_number(path) {
                let (layers, blocks) = numbered.entry(prefix).or_default();
                *layers += 1;
                blocks.insert(block);
            }
        }
        let most = numbered.into_iter().max_by_key(|(_, (layers, _))| *layers);
        let (block_prefix, blocks) = match most {
            Some((prefix, (_, blocks))) => (prefix.to_owned(), blocks.last().map_or(0, |last| last + 1)),
            None => (BLOCK_PREFIX.to_owned(), 0),
        };
        Self {
            block_prefix,
            blocks,
            linears,
            weights,
        }
    }

    /// The block number and the rest of a path such as `model.layers.3.self_attn.q_proj`; `None` outside the blocks.
    pub fn within_block<'path>(&self, path: &'path str) -> Option<(usize, &'path str)> {
        let (number, relative) = path.strip_prefix(self.block_prefix.as_str())?.split_once('.')?;
        Some((number.parse().ok()?, relative))
    }
}

/// What comes before the first number in a path, and the number.
fn first_number(path: &str) -> Option<(&str, usize)> {
    let mut start = 0;
    for part in path.split('.') {
        if let Ok(number) = part.parse() {
            return Some((&path[..start], number));
        }
        start += part.len() + 1;
    }
    None
}
