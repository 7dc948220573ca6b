use mlx_rs::Array;

use super::{CachePrecision, LayerCache};
use crate::model::{CausalModel, Continued, KeyValueStore};

/// Keys and values of one sequence, block by block.
///
/// A clone shares the memory until either is continued.
#[derive(Debug, Clone)]
pub struct SequenceCache {
    layers: Vec<LayerCache>,
}

impl SequenceCache {
    /// An empty cache for `model`.
    pub fn new(model: &CausalModel, precision: CachePrecision) -> Self {
        let layers = model.model.layers.iter();
        Self {
            layers: layers.map(|_| LayerCache::new(precision)).collect(),
        }
    }

    /// Tokens so far.
    pub fn length(&self) -> usize {
        let length = self.layers.first().map_or(0, KeyValueStore::length);
        usize::try_from(length).unwrap_or(0)
    }

    /// Bytes in memory, room for later tokens included.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerCache::bytes).sum()
    }

    /// Whether it can go back to fewer tokens: no window has dropped any.
    pub fn can_go_back(&self) -> bool {
        self.layers.iter().all(LayerCache::is_complete)
    }

    /// Goes back to the first `length` tokens. Returns whether it could; if not, nothing has changed.
    #[must_use]
    pub fn go_back_to(&mut self, length: usize) -> bool {
        if length == self.length() {
            return true;
        }
        let Some(length) = i32::try_from(length).ok().filter(|_| self.can_go_back()) else {
            return false;
        };
        for layer in &mut self.layers {
            layer.cut_to(length);
        }
        true
    }

    /// The sequence in a pass that has `tokens` more of it.
    pub fn continued(&mut self, tokens: i32) -> Continued<'_> {
        let layers = self.layers.iter_mut();
        Continued {
            tokens,
            stores: layers.map(|layer| layer as &mut dyn KeyValueStore).collect(),
        }
    }

    /// What is in memory, to be computed together with others.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flat_map(LayerCache::arrays)
    }
}
