use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::concatenate;

use crate::model::{CausalModel, KeyValueStore};

/// Keys and values of one layer, growing with every token.
#[derive(Debug, Default)]
pub struct KeyValueCache {
    held: Option<(Array, Array)>,
}

impl KeyValueStore for KeyValueCache {
    fn length(&self) -> i32 {
        self.held.as_ref().map_or(0, |(keys, _)| keys.dim(2))
    }

    fn append(&mut self, keys: Array, values: Array) -> Result<(Array, Array)> {
        let joined = match self.held.take() {
            None => (keys, values),
            Some((held_keys, held_values)) => (
                concatenate(&[held_keys, keys], 2)?,
                concatenate(&[held_values, values], 2)?,
            ),
        };
        self.held = Some(joined.clone());
        Ok(joined)
    }
}

/// An empty cache for each block of `model`.
pub fn caches(model: &CausalModel) -> Vec<Box<dyn KeyValueStore>> {
    model
        .model
        .layers
        .iter()
        .map(|_| Box::<KeyValueCache>::default() as Box<dyn KeyValueStore>)
        .collect()
}
