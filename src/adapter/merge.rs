use mlx_rs::error::Result;

use super::fuse;
use crate::model::{CausalModel, Linear, SwitchLinear};

/// The layers of a model as they were before their adapters were merged into them.
///
/// MLX arrays are immutable, so what is kept here shares memory with nothing that changes, and going back is exact.
#[derive(Debug, Clone)]
pub struct Unmerged {
    linears: Vec<(String, Linear)>,
    switch_linears: Vec<(String, SwitchLinear)>,
}

/// Merges every adapter into its layer, as [`fuse`] does, and keeps what is needed to go back.
pub fn merge(model: &mut CausalModel) -> Result<Unmerged> {
    let linears = model.linears().into_iter();
    let switch_linears = model.switch_linears().into_iter();
    let before = Unmerged {
        linears: linears
            .filter(|(_, linear)| linear.low_rank.is_some())
            .map(|(path, linear)| (path, linear.clone()))
            .collect(),
        switch_linears: switch_linears
            .filter(|(_, layer)| layer.low_rank.is_some())
            .map(|(path, layer)| (path, layer.clone()))
            .collect(),
    };
    fuse(model)?;
    Ok(before)
}

impl Unmerged {
    /// Number of layers whose adapters were merged.
    pub fn layers(&self) -> usize {
        self.linears.len() + self.switch_linears.len()
    }

    /// Puts every layer back as it was, bit for bit.
    pub fn unmerge(self, model: &mut CausalModel) {
        let mut linears = model.linears_mut();
        for (path, before) in self.linears {
            if let Some((_, linear)) = linears.iter_mut().find(|(known, _)| *known == path) {
                **linear = before;
            }
        }
        let mut switch_linears = model.switch_linears_mut();
        for (path, before) in self.switch_linears {
            if let Some((_, layer)) = switch_linears.iter_mut().find(|(known, _)| *known == path) {
                **layer = before;
            }
        }
    }
}
