use mlx_rs::Array;
use mlx_rs::error::Result;

/// Where one attention layer keeps the keys and values of earlier positions.
pub trait KeyValueStore {
    /// Positions held.
    fn length(&self) -> i32;

    /// Appends `keys` and `values` `[batch, heads, tokens, dimensions]` and returns all that are held.
    fn append(&mut self, keys: Array, values: Array) -> Result<(Array, Array)>;
}
