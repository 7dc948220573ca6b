//! Whether fused weights hold what the adapters did.

use std::collections::BTreeMap;

use mlx_rs::error::Result;
use mlx_rs::ops::{matmul, multiply, subtract};
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use super::divergence::{mean_divergence, sampled_log_probabilities};
use super::state::largest_difference;
use super::update_size::{input_and_output_matrices, squared_change};
use crate::evidence::FuseEvidence;
use crate::model::{Adaptable, CausalModel};
use crate::readback::scalar;

/// The model that was fused, and what it is compared on.
#[derive(Debug)]
pub struct FuseProbe<'run> {
    /// With its adapters.
    pub live: &'run CausalModel,
    /// The row that logits are compared on, `[1, tokens]`.
    pub tokens: &'run Array,
    /// The live model's logits of that row.
    pub live_logits: &'run Array,
    /// Their [`sampled_log_probabilities`].
    pub live_log_probabilities: &'run Array,
}

impl FuseProbe<'_> {
    /// Compares with `model`, of which `fused` layers are said to be fused.
    ///
    /// Takes the model to let its weights go block by block.
    pub fn measure(&self, model: CausalModel, fused: usize) -> Result<FuseEvidence> {
        let live: BTreeMap<String, &dyn Adaptable> = self.live.adaptable().into_iter().collect();
        let mut projection = Projection::default();
        let mut bits: Option<u32> = None;
        let logits = model.into_logits(self.tokens, |path, fused| {
            let Some(&adapted) = live.get(path).filter(|layer| layer.low_rank().is_some()) else {
                return Ok(());
            };
            if let Some(packing) = fused.packing() {
                let packed = packing.bits.unsigned_abs();
                bits = Some(bits.map_or(packed, |fewest| fewest.min(packed)));
            }
            projection.add(adapted, fused)
        })?;
        Ok(FuseEvidence {
            fused,
            bits,
            kept: projection.share(),
            difference_from_live: largest_difference(&logits, self.live_logits)?,
            divergence_from_live: mean_divergence(self.live_log_probabilities, &sampled_log_probabilities(&logits)?)?,
        })
    }
}

/// What became of the adapters' change, summed over layers.
#[derive(Debug, Default)]
struct Projection {
    /// Scalar product of the change of the weights with the adapters' change.
    held: f64,
    /// Squared norm of the adapters' change.
    whole: f64,
}

impl Projection {
    /// Adds one layer, with its adapter and fused.
    fn add(&mut self, adapted: &dyn Adaptable, fused: &dyn Adaptable) -> Result<()> {
        let (Some(settings), Some([narrow, wide]), Some(whole)) = (
            adapted.low_rank(),
            input_and_output_matrices(adapted)?,
            squared_change(adapted)?,
        ) else {
            return Ok(());
        };
        let plain = |layer: &dyn Adaptable| layer.plain_weight()?.as_dtype(Dtype::Float32);
        let change = subtract(plain(fused)?, plain(adapted)?)?;
        let held = if adapted.has_output_factors() {
            multiply(change, subtract(adapted.adapted_weight()?, plain(adapted)?)?)?.sum(None)?
        } else {
            // <D, (A B)^T> is the sum over outputs and ranks of (D A) and B^T, which needs no second dense matrix.
            let held = multiply(matmul(change, narrow)?, wide)?.sum(None)?;
            multiply(held, Array::from_f32(settings.scale))?
        };
        eval([&held, &whole])?;
        self.held += f64::from(scalar::<f32>(&held)?);
        self.whole += f64::from(scalar::<f32>(&whole)?);
        Ok(())
    }

    fn share(&self) -> Option<f64> {
        let share = self.held / self.whole;
        share.is_finite().then_some(share)
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;
    use mlx_rs::module::Param;
    use mlx_rs::ops::{add, matmul, multiply};
    use mlx_rs::{Array, random};

    use super::Projection;
    use crate::model::{Linear, LowRankSettings};

    fn normal(rows: i32, columns: i32, seed: u64) -> Array {
        random::normal::<f32>(&[rows, columns], None, None, &random::key(seed).unwrap()).unwrap()
    }

    fn adapted() -> Linear {
        let mut linear = Linear::new(normal(24, 32, 0), None);
        linear.lora_a = Param::new(Some(normal(32, 4, 1)));
        linear.lora_b = Param::new(Some(normal(4, 24, 2)));
        linear.low_rank = Some(LowRankSettings {
            scale: 2.0,
            dropout: 0.0,
            training: false,
        });
        linear
    }

    /// The layer with `times` the adapter's change in its weight.
    fn fused(linear: &Linear, times: f32) -> Linear {
        let product = matmul(
            linear.lora_a.value.as_ref().unwrap(),
            linear.lora_b.value.as_ref().unwrap(),
        )
        .unwrap();
        let change = multiply(product, Array::from_f32(times * 2.0)).unwrap();
        Linear::new(add(&linear.weight.value, change.t()).unwrap(), None)
    }

    fn share(layers: &[(Linear, Linear)]) -> Option<f64> {
        let mut projection = Projection::default();
        for (adapted, fused) in layers {
            projection.add(adapted, fused).unwrap();
        }
        projection.share()
    }

    #[test]
    fn a_layer_fused_by_hand_keeps_the_whole_change() {
        let linear = adapted();
        let fused = fused(&linear, 1.0);
        assert_relative_eq!(share(&[(linear, fused)]).unwrap(), 1.0, max_relative = 1e-5);
    }

    #[test]
    fn a_scale_that_was_left_out_shows_as_its_inverse() {
        let linear = adapted();
        let fused = fused(&linear, 0.5);
        assert_relative_eq!(share(&[(linear, fused)]).unwrap(), 0.5, max_relative = 1e-5);
    }

    #[test]
    fn a_layer_that_was_left_out_counts_with_its_share_of_the_change() {
        let (first, second) = (adapted(), adapted());
        let layers = [(first.clone(), fused(&first, 1.0)), (second.clone(), second)];
        assert_relative_eq!(share(&layers).unwrap(), 0.5, max_relative = 1e-5);
    }

    #[test]
    fn an_adapter_that_changes_nothing_has_no_share() {
        let mut linear = adapted();
        linear.lora_b = Param::new(Some(Array::zeros::<f32>(&[4, 24]).unwrap()));
        let fused = Linear::new(linear.weight.value.clone(), None);
        assert_eq!(share(&[(linear, fused)]), None);
    }
}
