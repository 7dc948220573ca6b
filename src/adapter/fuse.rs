use mlx_rs::error::Result;

use crate::model::CausalModel;

/// Adds every adapter to its layer's weight and removes it; returns the number of layers fused.
///
/// `W' = W + scale * (A B)^T`, each row times its factor where DoRA has one, computed in f32. A packed layer is
/// unpacked, changed, and packed again with its own group size and bits, as mlx-lm does: what lies below one
/// quantisation step is lost there, so compare the fused model's answers with the adapter's.
pub fn fuse(model: &mut CausalModel) -> Result<usize> {
    let mut fused = 0;
    for (_, layer) in model.adaptable_mut() {
        fused += usize::from(layer.fuse()?);
    }
    Ok(fused)
}
