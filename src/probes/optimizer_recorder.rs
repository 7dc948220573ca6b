//! What an optimizer is given and what it makes of it, on a few coordinates.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mlx_rs::error::{Exception, Result};
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use crate::train::Optimizer;

/// Steps that are followed: later ones tell nothing new, and the moments of 16-bit runs drift from any replay.
const FOLLOWED_STEPS: usize = 32;
/// Tensors followed of each kind: adapters' `lora_a`, their `lora_b`, and all others.
const TENSORS_OF_A_KIND: usize = 4;
/// Coordinates followed in each tensor.
const COORDINATES: usize = 8;

/// One coordinate in one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coordinate {
    /// The parameter before the update.
    pub before: f64,
    /// The gradient that the optimizer was given.
    pub gradient: f64,
    /// The parameter after the update.
    pub after: f64,
    /// Distance from 1 to the next number of the parameter's type.
    pub epsilon: f64,
}

/// One update.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedUpdate {
    /// The learning rate that the optimizer was given.
    pub learning_rate: f64,
    /// The followed coordinates, the same ones in every update.
    pub coordinates: Vec<Coordinate>,
}

/// Passes every update on to the optimizer of a run and reads a sample of it.
pub struct OptimizerRecorder<'run> {
    optimizer: &'run mut dyn Optimizer,
    samples: Option<Vec<Sample>>,
    updates: Vec<RecordedUpdate>,
    following: bool,
    spent: Duration,
}

/// The coordinates that are followed in one tensor.
struct Sample {
    tensor: String,
    indices: Array,
}

impl Sample {
    fn is_in(&self, parameters: &BTreeMap<String, Array>, gradients: &BTreeMap<String, Array>) -> bool {
        parameters.contains_key(&self.tensor) && gradients.contains_key(&self.tensor)
    }
}

/// What a recorder saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// The tensors that were sampled.
    pub tensors: Vec<String>,
    /// The updates that were followed, from the first on.
    pub updates: Vec<RecordedUpdate>,
    /// Seconds that reading took.
    pub seconds: f64,
}

impl<'run> OptimizerRecorder<'run> {
    /// Records what `optimizer` does.
    pub fn new(optimizer: &'run mut dyn Optimizer) -> Self {
        Self {
            optimizer,
            samples: None,
            updates: Vec::new(),
            following: true,
            spent: Duration::ZERO,
        }
    }

    /// What was seen.
    pub fn finish(self) -> Recording {
        Recording {
            tensors: self.samples.into_iter().flatten().map(|sample| sample.tensor).collect(),
            updates: self.updates,
            seconds: self.spent.as_secs_f64(),
        }
    }
}

impl Optimizer for OptimizerRecorder<'_> {
    fn name(&self) -> &'static str {
        self.optimizer.name()
    }

    fn update(
        &mut self,
        parameters: &mut BTreeMap<String, Array>,
        gradients: &BTreeMap<String, Array>,
        learning_rate: f64,
    ) -> Result<()> {
        let started = Instant::now();
        let samples = self.samples.get_or_insert_with(|| samples(gradients));
        // A tensor that comes and goes has no history that could be replayed.
        self.following &=
            self.updates.len() < FOLLOWED_STEPS && samples.iter().all(|sample| sample.is_in(parameters, gradients));
        if !self.following {
            return self.optimizer.update(parameters, gradients, learning_rate);
        }
        let before = sampled(samples, parameters)?;
        let given = sampled(samples, gradients)?;
        self.spent += started.elapsed();
        self.optimizer.update(parameters, gradients, learning_rate)?;
        let started = Instant::now();
        let after = sampled(samples, parameters)?;
        eval(before.iter().chain(&given).chain(&after))?;
        let mut coordinates = Vec::new();
        for (sample, ((before, given), after)) in samples.iter().zip(before.iter().zip(&given).zip(&after)) {
            let epsilon = parameters
                .get(&sample.tensor)
                .map_or(0.0, |parameter| epsilon(parameter.dtype()));
            let values = [values(before)?, values(given)?, values(after)?];
            for ((before, gradient), after) in values[0].iter().zip(&values[1]).zip(&values[2]) {
                coordinates.push(Coordinate {
                    before: f64::from(*before),
                    gradient: f64::from(*gradient),
                    after: f64::from(*after),
                    epsilon,
                });
            }
        }
        self.updates.push(RecordedUpdate {
            learning_rate,
            coordinates,
        });
        self.spent += started.elapsed();
        Ok(())
    }

    fn step_count(&self) -> u64 {
        self.optimizer.step_count()
    }

    fn state(&self) -> Vec<&Array> {
        self.optimizer.state()
    }
}

/// A few tensors of each kind, evenly among those of their kind in the order of their names.
fn samples(gradients: &BTreeMap<String, Array>) -> Vec<Sample> {
    let kind = |name: &str| match name.rsplit('.').next() {
        Some("lora_a") => 0,
        Some("lora_b") => 1,
        _ => 2,
    };
    let mut samples: Vec<Sample> = (0..3)
        .flat_map(|wanted| {
            let tensors: Vec<_> = gradients.iter().filter(|(name, _)| kind(name) == wanted).collect();
            spread(tensors.len(), TENSORS_OF_A_KIND)
                .map(|index| tensors[index])
                .collect::<Vec<_>>()
        })
        .map(|(name, gradient)| {
            let indices: Vec<i32> = spread(gradient.size(), COORDINATES).map(|index| index as i32).collect();
            Sample {
                tensor: name.clone(),
                indices: Array::from_slice(&indices, &[indices.len() as i32]),
            }
        })
        .collect();
    samples.sort_by(|left, right| left.tensor.cmp(&right.tensor));
    samples
}

/// At most `wanted` indices below `count`, the first and the last among them, evenly apart.
fn spread(count: usize, wanted: usize) -> impl Iterator<Item = usize> {
    let taken = count.min(wanted);
    (0..taken).map(move |position| position * (count - 1) / (taken - 1).max(1))
}

/// The followed coordinates of each sampled tensor, as f32.
fn sampled(samples: &[Sample], arrays: &BTreeMap<String, Array>) -> Result<Vec<Array>> {
    samples
        .iter()
        .filter_map(|sample| arrays.get(&sample.tensor).map(|array| (sample, array)))
        .map(|(sample, array)| array.reshape(&[-1])?.take(&sample.indices)?.as_dtype(Dtype::Float32))
        .collect()
}

fn values(array: &Array) -> Result<Vec<f32>> {
    array
        .to_vec_exact::<f32>()
        .map_err(|error| Exception::custom(error.to_string()))
}

fn epsilon(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Bfloat16 => 1.0 / 128.0,
        Dtype::Float16 => 1.0 / 1024.0,
        _ => f64::from(f32::EPSILON),
    }
}

#[cfg(test)]
mod tests {
    use super::spread;
    use rstest::rstest;

    #[rstest]
    #[case(0, 4, &[])]
    #[case(1, 4, &[0])]
    #[case(3, 4, &[0, 1, 2])]
    #[case(4, 4, &[0, 1, 2, 3])]
    #[case(10, 4, &[0, 3, 6, 9])]
    #[case(1_000_000, 3, &[0, 499_999, 999_999])]
    fn a_sample_reaches_from_the_first_to_the_last(
        #[case] count: usize,
        #[case] wanted: usize,
        #[case] expected: &[usize],
    ) {
        assert_eq!(spread(count, wanted).collect::<Vec<_>>(), expected);
    }
}
