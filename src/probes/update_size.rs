//! How much adapters change their layers, without making the dense product.

use std::collections::BTreeMap;

use mlx_rs::error::Result;
use mlx_rs::ops::{ceil, matmul, maximum, multiply, select, square, subtract};
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use crate::evidence::ModuleUpdate;
use crate::model::{Adaptable, CausalModel, Packing, QuantizationMode};
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
fn mean_step(layer: &dyn Adaptable, weight: &Array, packing: Packing) -> Result<Option<Array>> {
    let columns = weight.dim(-1);
    if packing.group_size <= 0 || columns % packing.group_size != 0 {
        return Ok(None);
    }
    let groups = || weight.reshape(&[-1, columns / packing.group_size, packing.group_size]);
    match (FloatGrid::of(packing.mode), layer.packing(), layer.scales()) {
        (Some(grid), _, _) => grid.mean_step(&groups()?).map(Some),
        (None, Some(_), Some(scales)) => scales.as_dtype(Dtype::Float32)?.abs()?.mean(None).map(Some),
        (None, _, _) => mean_affine_step(&groups()?, packing.bits).map(Some),
    }
}

/// The mean step of groups `[..., groups, group_size]` in plain form.
///
/// Affine packing spreads `2^bits` values over the range of each group, and in plain form that range is still there but
/// for the few hundredths by which packing moves it so that zero is one of the values.
fn mean_affine_step(groups: &Array, bits: i32) -> Result<Array> {
    let ranges = groups.max_axis(-1, false)?.subtract(groups.min_axis(-1, false)?)?;
    let steps = 2.0_f32.powi(bits) - 1.0;
    ranges.mean(None)?.divide(Array::from_f32(steps))
}

/// The floating-point numbers that the weights of a group are, times its scale.
#[derive(Debug, Clone, Copy)]
struct FloatGrid {
    /// The largest of them.
    largest: f32,
    /// Bits of the mantissa.
    mantissa: f32,
    /// Exponent of the smallest normal number; below it the steps stay the same.
    least_exponent: f32,
    /// Whether scales are powers of two, the least that lets no weight overflow.
    powers_of_two: bool,
}

impl FloatGrid {
    /// E2M1 and E4M3 of the OCP formats; `None` for integers.
    fn of(mode: QuantizationMode) -> Option<Self> {
        let e2m1 = |powers_of_two| Self {
            largest: 6.0,
            mantissa: 1.0,
            least_exponent: 0.0,
            powers_of_two,
        };
        match mode {
            QuantizationMode::Affine => None,
            QuantizationMode::Mxfp4 => Some(e2m1(true)),
            QuantizationMode::Nvfp4 => Some(e2m1(false)),
            QuantizationMode::Mxfp8 => Some(Self {
                largest: 448.0,
                mantissa: 3.0,
                least_exponent: -6.0,
                powers_of_two: true,
            }),
        }
    }

    /// The mean distance between neighbours at the weights of groups `[..., groups, group_size]`, if they are packed
    /// anew. A group of zeros has none.
    fn mean_step(self, groups: &Array) -> Result<Array> {
        let two = Array::from_f32(2.0);
        let magnitudes = groups.abs()?;
        let scales = magnitudes.max_axis(-1, true)?.divide(Array::from_f32(self.largest))?;
        let scales = if self.powers_of_two {
            two.power(ceil(scales.log2()?)?)?
        } else {
            scales
        };
        // Zeros have the exponent of the smallest numbers; in a group of zeros it is not even that.
        let exponents = magnitudes.divide(&scales)?.log2()?.floor()?;
        let exponents = maximum(exponents, Array::from_f32(self.least_exponent))?;
        let steps = multiply(
            two.power(subtract(exponents, Array::from_f32(self.mantissa))?)?,
            &scales,
        )?;
        let is_empty = scales.eq(Array::from_f32(0.0))?;
        select(&is_empty, Array::from_f32(0.0), steps)?.mean(None)
    }
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
    use mlx_rs::ops::{matmul, multiply};
    use mlx_rs::{Array, random};

    use super::{mean_step, squared_change};
    use crate::model::{Linear, LowRankSettings, Packing, QuantizationMode};
    use crate::readback::scalar;

    const PACKING: Packing = Packing::affine(32, 4);

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
        let packed = Linear::packed(PACKING.pack(&normal(16, 128, 5)).unwrap(), None);
        let plain = packed.plain_weight().unwrap();
        let step = |linear: &Linear| -> f32 { scalar(&mean_step(linear, &plain, PACKING).unwrap().unwrap()).unwrap() };
        assert_relative_eq!(
            step(&Linear::new(plain.clone(), None)),
            step(&packed),
            max_relative = 2e-2
        );
    }

    /// The mean over `weights` of the distance to the next larger number of `grid` times `scale`.
    fn step_by_table(weights: &[f32], grid: &[f32], scale: f32) -> f32 {
        let step = |weight: &f32| {
            let above = grid.iter().position(|number| number * scale > weight.abs());
            let above = above.unwrap_or(grid.len() - 1);
            (grid[above] - grid[above - 1]) * scale
        };
        weights.iter().map(step).sum::<f32>() / weights.len() as f32
    }

    #[test]
    fn the_step_of_floating_point_weights_is_the_distance_of_their_neighbours() {
        let e2m1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        // All 127 numbers of E4M3 up to 448, by their definition.
        let e4m3: Vec<f32> = (0..127_i32)
            .map(|code| match (code >> 3, code & 7) {
                (0, mantissa) => mantissa as f32 / 8.0 * 2.0_f32.powi(-6),
                (exponent, mantissa) => (1.0 + mantissa as f32 / 8.0) * 2.0_f32.powi(exponent - 7),
            })
            .collect();
        // One group for mxfp4 and mxfp8, two alike for nvfp4; the largest is 6 * 0.25 and 448 / 2^8 at most.
        let half = [
            1.5, -0.1, 0.3, 0.0, -0.7, 0.02, 1.1, -1.2, 0.4, 0.26, -0.9, 0.6, 0.001, 0.8, -0.5, 0.35,
        ];
        let weights = [half, half].concat();
        let array = Array::from_slice(&weights, &[1, 32]);
        for (mode, grid, scale) in [
            (QuantizationMode::Mxfp4, &e2m1[..], 0.25),
            (QuantizationMode::Nvfp4, &e2m1[..], 0.25),
            (QuantizationMode::Mxfp8, &e4m3[..], 2.0_f32.powi(-8)),
        ] {
            let packing = Packing::of_mode(mode);
            let step = mean_step(&Linear::new(array.clone(), None), &array, packing).unwrap();
            let expected = step_by_table(&weights, grid, scale);
            assert_relative_eq!(scalar::<f32>(&step.unwrap()).unwrap(), expected, max_relative = 1e-5);
        }
        let zeros = Array::zeros::<f32>(&[1, 32]).unwrap();
        let step = mean_step(
            &Linear::new(zeros.clone(), None),
            &zeros,
            Packing::of_mode(QuantizationMode::Mxfp4),
        );
        assert_eq!(scalar::<f32>(&step.unwrap().unwrap()).unwrap(), 0.0);
    }

    #[test]
    fn groups_that_do_not_divide_the_inputs_have_no_step() {
        let weight = normal(4, 40, 0);
        let linear = Linear::new(weight.clone(), None);
        assert!(mean_step(&linear, &weight, PACKING).unwrap().is_none());
    }
}
