use std::collections::BTreeMap;

use mlx_rs::ops::{ones, zeros};
use mlx_rs::random;
use thiserror::Error;

use super::architectures::{ExpectedTensor, TensorRole};
use super::{BuildError, CausalModel, Checkpoint, ModelConfiguration, StoredTensor, build_model};

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
/// number of blocks (Radford et al. 2019); norms begin with a factor of one, biases with zero.
pub fn initialise(configuration: &ModelConfiguration, seed: u64) -> std::result::Result<CausalModel, InitialiseError> {
    let mut key = random::key(seed)?;
    let mut tensors = BTreeMap::new();
    let residual = STANDARD_DEVIATION / (2.0 * configuration.num_hidden_layers as f32).sqrt();
    for ExpectedTensor { name, shape, role } in configuration.tensors() {
        let shape: Vec<i32> = shape.into_iter().map(|size| size as i32).collect();
        let (next, this) = random::split(&key, 2)?;
        key = next;
        let normal = |deviation: f32| random::normal::<f32>(&shape, None, deviation, &this);
        let tensor = match role {
            TensorRole::Matrix => normal(STANDARD_DEVIATION)?,
            TensorRole::ResidualMatrix => normal(residual)?,
            TensorRole::NormFactor => ones::<f32>(&shape)?,
            TensorRole::NormFactorLessOne | TensorRole::Bias => zeros::<f32>(&shape)?,
        };
        tensors.insert(name, StoredTensor::Plain(tensor));
    }
    let checkpoint = Checkpoint {
        tensors,
        packings: BTreeMap::new(),
        stored_dtype: "float32".to_owned(),
        set_aside: BTreeMap::new(),
        wavelength_factors: None,
    };
    Ok(build_model(configuration, checkpoint)?)
}
