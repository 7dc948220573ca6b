use std::fmt::Debug;

use mlx_rs::Array;
use mlx_rs::error::Result;

/// Keys and values of one block for the tokens that one sequence has had so far.
pub trait KeyValueStore: Debug {
    /// Tokens so far, whether or not their keys and values are still held.
    fn length(&self) -> i32;

    /// Appends `keys` and `values`, each `[1, heads, tokens, dimensions]`, and returns what the new tokens attend to: as
    /// many positions before them as [`held_positions`](super::held_positions) says for a block of this `window`, and
    /// they themselves.
    fn append(&mut self, keys: Array, values: Array, window: Option<i32>) -> Result<(Array, Array)>;
}

/// Tokens of one sequence in a pass that it shares with others.
#[derive(Debug)]
pub struct Continued<'pass> {
    /// Tokens in this pass.
    pub tokens: i32,
    /// One store for each block.
    pub stores: Vec<&'pass mut dyn KeyValueStore>,
}
