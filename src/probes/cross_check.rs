//! The same logits, loss and gradients by PyTorch: a wrong kernel here or there shows where the two differ.

use std::collections::BTreeMap;
use std::time::Instant;

use mlx_rs::random;
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};
use thiserror::Error;

use super::fit;
use crate::adapter::{AttachError, LoraSettings, attach, check_rank, target_modules};
use crate::data::Batch;
use crate::evidence::{CrossCheckEvidence, CrossCheckWeights, GradientDifference};
use crate::model::CausalModel;
use crate::readback::{scalar, vector};
use crate::torch::{Rows, Worker, WorkerError};
use crate::train::{Lanes, loss_and_gradients};

/// Rank of the adapters, which are as many as there are places for them.
const RANK: usize = 8;
/// Factor on their output; how strong adapters of the run are says nothing about kernels.
const SCALE: f32 = 1.0;
/// Largest value of the second matrix: the adapters move every layer a little, and no logit far.
const SPREAD: f32 = 0.02;

/// Why the two could not be compared.
#[derive(Debug, Error)]
pub enum CrossCheckError {
    /// PyTorch did not do its part.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The adapters do not fit.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// MLX failed.
    #[error("MLX could not compute what PyTorch was to be compared with: {0}")]
    Mlx(#[from] mlx_rs::error::Exception),
    /// The first batch has no target.
    #[error("no token of the first batch is supervised, so there is no loss to compare")]
    NothingSupervised,
    /// The two did not compute the same things.
    #[error("PyTorch computed something else than what it was asked for\n  found: {found}\n  expected: {expected}")]
    OtherShape {
        /// What came.
        found: String,
        /// What was asked for.
        expected: String,
    },
}

/// What is computed twice.
#[derive(Debug)]
pub struct CrossCheckProbe<'run> {
    /// The base as it is held here.
    pub base: &'run CausalModel,
    /// Where PyTorch, which holds the same model, has its weights from.
    pub weights: CrossCheckWeights,
    /// The device that it computes on.
    pub device: &'run str,
    /// The rows of the first step.
    pub batch: &'run Batch,
    /// Where parts of the batch are computed side by side.
    pub lanes: &'run Lanes,
    /// Seed of the adapters.
    pub seed: u64,
}

impl CrossCheckProbe<'_> {
    /// Computes everything here and by `worker`, which was started at `started`.
    ///
    /// # Errors
    /// One of the two cannot compute it.
    pub fn measure(&self, worker: &mut Worker, started: Instant) -> Result<CrossCheckEvidence, CrossCheckError> {
        if self.batch.supervised_tokens() == 0 {
            return Err(CrossCheckError::NothingSupervised);
        }
        let model = self.adapted()?;
        worker.attach(&adapters(&model), SCALE, 0.0)?;
        let rows = fit::first_rows(self.batch);
        let (logit_difference, largest_logit, positions) = logits(&model, &rows, worker)?;
        let here = {
            let _shared_cores = self.lanes.share_cores(self.batch);
            let pass = loss_and_gradients(&model, self.batch, self.lanes)?;
            eval(pass.gradients.values().chain([&pass.loss]))?;
            pass
        };
        let (there, gradients_there) = worker.gradients(&Rows::of(self.batch))?;
        let greeting = worker.greeting();
        Ok(CrossCheckEvidence {
            backend: "torch".to_owned(),
            versions: format!(
                "torch {}, transformers {}, python {}",
                greeting.torch, greeting.transformers, greeting.python
            ),
            device: self.device.to_owned(),
            weights: self.weights,
            rows: self.batch.rows.len(),
            tokens: self.batch.token_count(),
            positions,
            logit_difference,
            largest_logit,
            loss_here: finite(f64::from(scalar::<f32>(&here.loss)?)),
            loss_there: there.loss,
            gradients: compare_gradients(&here.gradients, &gradients_there)?,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// The base with an adapter on every linear layer of its blocks, whose second matrix is random too: gradients reach
    /// the first one only through it.
    fn adapted(&self) -> Result<CausalModel, CrossCheckError> {
        let settings = LoraSettings {
            rank: RANK,
            scale: SCALE,
            ..LoraSettings::default()
        };
        let mut model = self.base.clone();
        check_rank(&model, &settings, &target_modules(&model, &settings)?)?;
        attach(&mut model, &settings, self.seed)?;
        let mut key = random::key(self.seed.wrapping_add(1))?;
        for (_, layer) in model.adaptable_mut() {
            let [_, lora_b] = layer.matrices_mut();
            if let Some(lora_b) = &mut lora_b.value {
                let (next, this) = random::split(&key, 2)?;
                *lora_b = random::uniform::<_, f32>(-SPREAD, SPREAD, lora_b.shape(), &this)?;
                key = next;
            }
        }
        Ok(model)
    }
}

/// The adapters' tensors under mlx-lm's names.
fn adapters(model: &CausalModel) -> BTreeMap<String, Array> {
    let mut tensors = BTreeMap::new();
    for (path, layer) in model.adaptable() {
        for (ending, tensor) in ["lora_a", "lora_b"].into_iter().zip(layer.matrices()) {
            if let Some(tensor) = &tensor.value {
                tensors.insert(format!("{path}.{ending}"), tensor.clone());
            }
        }
    }
    tensors
}

/// Largest difference, largest logit and positions: those of tokens, since padding stands for nothing.
fn logits(
    model: &CausalModel,
    rows: &Batch,
    worker: &mut Worker,
) -> Result<(Option<f64>, Option<f64>, usize), CrossCheckError> {
    let ids = Array::from_slice(&rows.tokens, &[rows.rows.len() as i32, rows.columns as i32]);
    let here = model.logits(&ids)?.as_dtype(Dtype::Float32)?;
    let there = worker.logits(&Rows::of(rows).tokens)?;
    if here.shape() != there.shape() {
        return Err(CrossCheckError::OtherShape {
            found: format!("logits {:?}", there.shape()),
            expected: format!("{:?}", here.shape()),
        });
    }
    let vocabulary = here.dim(-1) as usize;
    let (here, there) = (vector::<f32>(&here)?, vector::<f32>(&there)?);
    let (mut difference, mut largest): (f64, f64) = (0.0, 0.0);
    for (row, &length) in rows.lengths.iter().enumerate() {
        let start = row * rows.columns * vocabulary;
        let part = start..start + length * vocabulary;
        for (&here, &there) in here[part.clone()].iter().zip(&there[part]) {
            // A maximum would pass over a NaN.
            difference = larger(difference, (f64::from(here) - f64::from(there)).abs());
            largest = larger(largest, f64::from(here).abs());
        }
    }
    Ok((finite(difference), finite(largest), rows.token_count()))
}

fn larger(left: f64, right: f64) -> f64 {
    if left.is_nan() || right <= left { left } else { right }
}

fn compare_gradients(
    here: &BTreeMap<String, Array>,
    there: &BTreeMap<String, Array>,
) -> Result<GradientDifference, CrossCheckError> {
    if !here.keys().eq(there.keys()) {
        return Err(CrossCheckError::OtherShape {
            found: format!("gradients of {} tensors", there.len()),
            expected: format!("those of {} tensors, named alike", here.len()),
        });
    }
    let mut all = Distance::default();
    let mut worst: Option<(f64, &String)> = None;
    for ((name, here), there) in here.iter().zip(there.values()) {
        let (left, right) = (vector::<f32>(&here.as_dtype(Dtype::Float32)?)?, vector::<f32>(there)?);
        if left.len() != right.len() {
            return Err(CrossCheckError::OtherShape {
                found: format!("a gradient {:?} for {name}", there.shape()),
                expected: format!("{:?}", here.shape()),
            });
        }
        let distance = Distance::between(&left, &right);
        all.add(&distance);
        let relative = distance.relative();
        if worst.is_none_or(|(largest, _)| !largest.is_nan() && (relative.is_nan() || relative > largest)) {
            worst = Some((relative, name));
        }
    }
    Ok(GradientDifference {
        tensors: here.len(),
        largest: worst.and_then(|(largest, _)| finite(largest)),
        worst: worst.map_or_else(String::new, |(_, name)| name.clone()),
        together: finite(all.relative()),
    })
}

/// Squares of the distance of two arrays and of their norms.
#[derive(Debug, Default)]
struct Distance {
    apart: f64,
    left: f64,
    right: f64,
}

impl Distance {
    fn between(left: &[f32], right: &[f32]) -> Self {
        let mut distance = Self::default();
        for (&left, &right) in left.iter().zip(right) {
            let (left, right) = (f64::from(left), f64::from(right));
            distance.apart += (left - right).powi(2);
            distance.left += left.powi(2);
            distance.right += right.powi(2);
        }
        distance
    }

    fn add(&mut self, other: &Self) {
        self.apart += other.apart;
        self.left += other.left;
        self.right += other.right;
    }

    /// 0 when both are zero, NaN when one is not finite.
    fn relative(&self) -> f64 {
        if self.apart == 0.0 {
            0.0
        } else {
            (self.apart / self.left.max(self.right)).sqrt()
        }
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mlx_rs::Array;

    use super::compare_gradients;

    fn gradients(first: [f32; 2], second: [f32; 2]) -> BTreeMap<String, Array> {
        [("a", first), ("b", second)]
            .map(|(name, values)| (name.to_owned(), Array::from_slice(&values, &[2])))
            .into()
    }

    #[test]
    fn the_tensor_that_is_furthest_off_is_named() {
        let difference =
            compare_gradients(&gradients([3.0, 4.0], [0.0, 0.5]), &gradients([3.0, 4.5], [0.0, 0.4])).unwrap();
        assert_eq!((difference.tensors, difference.worst.as_str()), (2, "b"));
        assert!((difference.largest.unwrap() - 0.2).abs() < 1e-6);
        // sqrt(0.25 + 0.01) / sqrt(9 + 20.25 + 0.16)
        assert!((difference.together.unwrap() - 0.094_02).abs() < 1e-4);
    }

    #[test]
    fn what_is_not_finite_is_never_alike() {
        let difference = compare_gradients(
            &gradients([f32::NAN, 1.0], [0.0, 9.0]),
            &gradients([1.0, 1.0], [0.0, 1.0]),
        )
        .unwrap();
        assert_eq!((difference.largest, difference.worst.as_str()), (None, "a"));
        assert_eq!(difference.together, None);
    }

    #[test]
    fn tensors_that_are_not_those_of_the_other_are_refused() {
        let other = BTreeMap::from([("a".to_owned(), Array::from_slice(&[1.0_f32], &[1]))]);
        assert!(compare_gradients(&gradients([1.0, 1.0], [1.0, 1.0]), &other).is_err());
    }
}
