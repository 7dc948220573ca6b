use mlx_rs::error::Result;

use super::fuse;
use crate::model::CausalModel;

/// A model as it was before its adapters were merged into its weights.
///
/// MLX arrays are immutable, so keeping it costs memory for the merged layers' former weights only, and going back is
/// exact.
#[derive(Debug, Clone)]
pub struct Unmerged {
    before: CausalModel,
    layers: usize,
}

/// Merges every adapter into its layer, as [`fuse`] does, and keeps what is needed to go back.
pub fn merge(model: &mut CausalModel) -> Result<Unmerged> {
    let before = model.clone();
    let layers = fuse(model)?;
    Ok(Unmerged { before, layers })
}

impl Unmerged {
    /// Number of layers whose adapters were merged.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// The model with its adapters beside its weights again, bit for bit.
    pub fn unmerge(self) -> CausalModel {
        self.before
    }
}
