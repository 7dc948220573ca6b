use mlx_rs::ops::ones;
use mlx_rs::random;
use std::collections::BTreeMap;

use super::{BuildError, CausalModel, Checkpoint, ModelConfiguration, StoredTensor, build_model};
use thiserror::Error;

/// Spread of fresh weights, as GPT-2 and llama start.
const STANDARD_DEVIATION: f32 = 0.02;

/// Why a fresh model could not be made.
#[derive(Debug, Error)]
pub enum InitialiseError {
    /// MLX failed.
    #[error("failed to make fresh weights: {0}")]
    Mlx(#[from] mlx_rs::error::Exception),
    /// The model could not be put together.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// A model with fresh f32 weights, all trainable, decided by `seed` alone.
///
/// Matrices are normal with deviation 0.02, those that write into the residual stream divided by the root of twice the
/// number of blocks (Radford et al. 2019); norms are one and biases zero.
pub fn initialise(configuration: &ModelConfiguration, seed: u64) -> std::result::Result<CausalModel, InitialiseError> {
    let mut key = random::key(seed)?;
    let mut tensors = BTreeMap::new();
    let residual = STANDARD_DEVIATION / (2.0 * configuration.num_hidden_layers as f32).sqrt();
    for (name, shape) in configuration.expected_tensors() {
        let shape: Vec<i32> = shape.into_iter().map(|size| size as i32).collect();
        let (next, this) = random::split(&key, 2)?;
        key = next;
        let deviation = if name.contains("o_proj") || name.contains("down_proj") {
            residual
        } else {
            STANDARD_DEVIATION
        };
        let tensor = if name.ends_with("norm.weight") {
            ones::<f32>(&shape)?
        } else if shape.len() == 1 {
            mlx_rs::ops::zeros::<f32>(&shape)?
        } else {
            random::normal::<f32>(&shape, None, deviation, &this)?
        };
        tensors.insert(name, StoredTensor::Plain(tensor));
    }
    let checkpoint = Checkpoint {
        tensors,
        packings: BTreeMap::new(),
        stored_dtype: "float32".to_owned(),
        wavelength_factors: None,
    };
    Ok(build_model(configuration, checkpoint)?)
}
