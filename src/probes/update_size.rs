//! How much adapters change their layers, without making the dense product.

use std::collections::BTreeMap;

use mlx_rs::error::Result;
use mlx_rs::ops::{matmul, multiply, square};
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use crate::evidence::ModuleUpdate;
use crate::model::{Adaptable, CausalModel, Packing};
use crate::readback::scalar;

/// Every adapted layer of `model`, sorted by path; `packings` says how each was packed in the files.
pub fn module_updates(model: &CausalModel, packings: &BTreeMap<String, Packing>) -> Result<Vec<ModuleUpdate>> {
    let mut updates = Vec::new();
    for (module, layer) in model.adaptable() {
        let packing = packings.get(&module).copied();
        updates.extend(module_update(module, layer, packing)?);
    }
    updates.sort_by(|left, right| left.module.cmp(&right.module));
    Ok(updates)
}

/// How much the adapter of one layer changes it; `None` when it has none.
pub fn module_update(module: String, layer: &dyn Adaptable, packing: Option<Packing>) -> Result<Option<ModuleUpdate>> {
    let Some(squared) = squared_change(layer)? else {
        return Ok(None);
    };
    let weight = layer.plain_weight()?.as_dtype(Dtype::Float32)?;
    let squared_weight = square(&weight)?.sum(None)?;
    let step = match packing {
        Some(packing) => mean_step(layer, &weight, packing)?,
        None => None,
    };
    eval([&squared, &squared_weight].into_iter().chain(&step))?;
    let change = read(&squared)?.sqrt();
    let values: f64 = layer.place().into_iter().map(f64::from).product();
    let root_mean_square = change / values.sqrt();
    let step = step.as_ref().map(read).transpose()?;
    Ok(Some(ModuleUpdate {
        module,
        relative: finite(change / read(&squared_weight)?.sqrt()),
        quantization_steps: step.and_then(|step| finite(root_mean_square / step)),
    }))
}

/// The squared Frobenius norm of `scale * A B` of a layer's adapter, pending; `None` when it has none.
///
/// `|A B|^2 = tr((A^T A) (B B^T))`, and a trace of two symmetric `[rank, rank]` matrices is the sum of their products.
pub fn squared_change(layer: &dyn Adaptable) -> Result<Option<Array>> {
    let (Some(settings), Some([narrow, wide])) = (layer.low_rank(), input_and_output_matrices(layer)?) else {
        return Ok(None);
    };
    if layer.has_output_factors() {
        // The factors act on the weight too, so the change has no low rank.
        let weight = layer.plain_weight()?.as_dtype(Dtype::Float32)?;
        return square(layer.adapted_weight()?.subtract(weight)?)?.sum(None).map(Some);
    }
    let narrow = multiply(narrow, Array::from_f32(settings.scale))?;
    let transposed = |matrix: &Array| matrix.swap_axes(-1, -2);
    let inner = multiply(
        matmul(transposed(&narrow)?, &narrow)?,
        matmul(transposed(&wide)?, &wide)?,
    )?;
    inner.sum(None).map(Some)
}

/// The matrices of an adapter in f32, `[..., inputs, rank]` and `[..., outputs, rank]`, of every expert where there are
/// some; `None` without an adapter.
pub fn input_and_output_matrices(layer: &dyn Adaptable) -> Result<Option<[Array; 2]>> {
    let [Some(lora_a), Some(lora_b)] = layer.matrices().map(|matrix| matrix.value.as_ref()) else {
        return Ok(None);
    };
    let (lora_a, lora_b) = (lora_a.as_dtype(Dtype::Float32)?, lora_b.as_dtype(Dtype::Float32)?);
    // mlx-lm keeps the matrices of experts the other way round.
    Ok(Some(match layer.place().len() {
        3 => [lora_a.swap_axes(-1, -2)?, lora_b],
        _ => [lora_a, lora_b.t()],
    }))
}

/// The mean quantisation step of a layer that the files hold packed; `None` when its groups do not divide the inputs.
///
/// Affine packing spreads `2^bits` values over the range of each group, and in plain form that range is still there but
/// for the few hundredths by which packing moves it so that zero is one of the values.
fn mean_step(layer: &dyn Adaptable, weight: &Array, packing: Packing) -> Result<Option<Array>> {
    if let (Some(_), Some(scales)) = (layer.packing(), layer.scales()) {
        return scales.as_dtype(Dtype::Float32)?.abs()?.mean(None).map(Some);
    }
    let columns = weight.dim(-1);
    if packing.group_size <= 0 || columns % packing.group_size != 0 {
        return Ok(None);
    }
    let groups = weight.reshape(&[-1, columns / packing.group_size, packing.group_size])?;
    let ranges = groups.max_axis(-1, false)?.subtract(groups.min_axis(-1, false)?)?;
    let steps = 2.0_f32.powi(packing.bits) - 1.0;
    ranges.mean(None)?.divide(Array::from_f32(steps)).map(Some)
}

fn read(number: &Array) -> Result<f64> {
    scalar::<f32>(number).map(f64::from)
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;
    use mlx_rs::module::Param;
    use mlx_rs::ops::{dequantize, matmul, multiply, quantize};
    use mlx_rs::{Array, random};

    use super::{mean_step, squared_change};
    use crate::model::{Linear, LowRankSettings, Packing};
    use crate::readback::scalar;

    const PACKING: Packing = Packing {
        group_size: 32,
        bits: 4,
    };

    fn normal(rows: i32, columns: i32, seed: u64) -> Array {
        random::normal::<f32>(&[rows, columns], None, None, &random::key(seed).unwrap()).unwrap()
    }

    fn adapted(weight: Array) -> Linear {
        let (outputs, inputs) = (weight.dim(0), weight.dim(1));
        let mut linear = Linear::new(weight, None);
        linear.lora_a = Param::new(Some(normal(inputs, 4, 1)));
        linear.lora_b = Param::new(Some(normal(4, outputs, 2)));
        linear.low_rank = Some(LowRankSettings {
            scale: 3.0,
            dropout: 0.0,
            training: false,
        });
        linear
    }

    #[test]
    fn the_norm_of_a_change_is_that_of_the_dense_product() {
        let linear = adapted(normal(24, 64, 0));
        let dense = matmul(
            linear.lora_a.value.as_ref().unwrap(),
            linear.lora_b.value.as_ref().unwrap(),
        )
        .unwrap();
        let dense = multiply(dense, Array::from_f32(3.0)).unwrap();
        let expected: f32 = scalar(&multiply(&dense, &dense).unwrap().sum(None).unwrap()).unwrap();
        let squared: f32 = scalar(&squared_change(&linear).unwrap().unwrap()).unwrap();
        assert_relative_eq!(squared, expected, max_relative = 1e-5);
    }

    #[test]
    fn a_layer_without_an_adapter_has_no_change() {
        assert!(squared_change(&Linear::new(normal(8, 32, 0), None)).unwrap().is_none());
    }

    #[test]
    fn the_step_of_packed_weights_is_the_same_in_plain_form() {
        let (weight, scales, biases) = quantize(normal(16, 128, 5), PACKING.group_size, PACKING.bits).unwrap();
        let plain = dequantize(&weight, &scales, Some(&biases), PACKING.group_size, PACKING.bits).unwrap();
        let packed = Linear::packed(weight, scales, biases, None, PACKING);
        let step = |linear: &Linear| -> f32 { scalar(&mean_step(linear, &plain, PACKING).unwrap().unwrap()).unwrap() };
        assert_relative_eq!(
            step(&Linear::new(plain.clone(), None)),
            step(&packed),
            max_relative = 2e-2
        );
    }

    #[test]
    fn groups_that_do_not_divide_the_inputs_have_no_step() {
        let weight = normal(4, 40, 0);
        let linear = Linear::new(weight.clone(), None);
        assert!(mean_step(&linear, &weight, PACKING).unwrap().is_none());
    }
}
