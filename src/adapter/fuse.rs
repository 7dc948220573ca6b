use mlx_rs::error::Result;
use mlx_rs::ops::quantize;
use mlx_rs::{Array, Dtype};

use crate::model::{CausalModel, Linear};

/// Adds every adapter to its layer's weight and removes it; returns the number of layers fused.
///
/// `W' = W + scale * (A B)^T`, each row times its factor where DoRA has one, computed in f32. A packed layer is unpacked, changed, and packed again with its own group
/// size and bits, as mlx-lm does: what lies below one quantisation step is lost there, so compare the fused model's
/// answers with the adapter's.
pub fn fuse(model: &mut CausalModel) -> Result<usize> {
    let mut fused = 0;
    for (_, linear) in model.linears_mut() {
        fused += usize::from(fuse_layer(linear)?);
    }
    Ok(fused)
}

fn fuse_layer(linear: &mut Linear) -> Result<bool> {
    if linear.low_rank.is_none() || linear.lora_a.value.is_none() || linear.lora_b.value.is_none() {
        return Ok(false);
    }
    let fused = linear.adapted_weight()?;
    match linear.packing {
        None => linear.weight.value = fused.as_dtype(linear.weight.value.dtype())?,
        Some(packing) => {
            let dtype = linear.scales.value.as_ref().map_or(Dtype::Float32, Array::dtype);
            let (weight, scales, biases) = quantize(fused.as_dtype(dtype)?, packing.group_size, packing.bits)?;
            linear.weight.value = weight;
            linear.scales.value = Some(scales);
            linear.biases.value = Some(biases);
        }
    }
    linear.remove_adapter();
    Ok(true)
}
