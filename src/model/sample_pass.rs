//! A short forward pass that shows whether a model computes at all.

use std::path::{Path, PathBuf};

use mlx_rs::Array;
use thiserror::Error;

use super::{CausalModel, LoadError, ModelSource, Precision};

/// Tokens of the pass: enough for every position to attend to an earlier one.
const TOKENS: i32 = 8;

/// What a sample pass gave.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplePass {
    /// Tokens that were passed.
    pub tokens: usize,
    /// Logits of each token.
    pub vocabulary: usize,
    /// The logits `[tokens, vocabulary]`, row by row.
    pub logits: Vec<f32>,
}

/// Why a model does not compute.
#[derive(Debug, Error)]
pub enum SamplePassError {
    /// It cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The logits are NaN or infinite.
    #[error("the model in `{}` does not compute\n  found: {bad} of {total} logits that are NaN or infinite\n  expected: finite logits\n  hint: convert with `--dtype float32`, or fetch the model again", path.display())]
    NotFinite {
        /// The folder or file.
        path: PathBuf,
        /// Logits that are not finite.
        bad: usize,
        /// All logits.
        total: usize,
    },
    /// The logits have another shape than the vocabulary calls for.
    #[error("the model in `{}` does not compute\n  found: logits of shape {found:?}\n  expected: {expected:?}\n  hint: fetch the model again", path.display())]
    Shape {
        /// The folder or file.
        path: PathBuf,
        /// Their shape.
        found: Vec<i32>,
        /// What it should be: one row of tokens, the vocabulary.
        expected: Vec<i32>,
    },
    /// MLX failed.
    #[error("the model could not be tried: {0}")]
    Mlx(#[from] mlx_rs::error::Exception),
}

/// Passes a row of tokens, spread over the vocabulary, through `model`; `path` is named in errors.
///
/// # Errors
/// Logits are not finite or of another shape, or MLX failed.
pub fn sample_pass(model: &CausalModel, vocabulary: usize, path: &Path) -> Result<SamplePass, SamplePassError> {
    let step = (vocabulary as i32 / TOKENS).max(1);
    let ids: Vec<i32> = (0..TOKENS).map(|index| (index * step) % vocabulary as i32).collect();
    let logits = model.logits(&Array::from_slice(&ids, &[1, TOKENS]))?;
    let expected = vec![1, TOKENS, vocabulary as i32];
    if logits.shape() != expected {
        return Err(SamplePassError::Shape {
            path: path.to_owned(),
            found: logits.shape().to_vec(),
            expected,
        });
    }
    let logits: Vec<f32> = crate::readback::vector(&logits.as_dtype(mlx_rs::Dtype::Float32)?)?;
    let bad = logits.iter().filter(|logit| !logit.is_finite()).count();
    if bad > 0 {
        return Err(SamplePassError::NotFinite {
            path: path.to_owned(),
            bad,
            total: logits.len(),
        });
    }
    Ok(SamplePass {
        tokens: TOKENS as usize,
        vocabulary,
        logits,
    })
}

/// Loads the model in `folder`, packed weights as they are, and tries it.
///
/// # Errors
/// See [`SamplePassError`].
pub fn try_folder(folder: &Path, dtype: mlx_rs::Dtype) -> Result<SamplePass, SamplePassError> {
    let precision = Precision {
        dtype,
        keep_packed: true,
    };
    let loaded = ModelSource::Folder(folder.to_owned()).load(precision)?;
    sample_pass(&loaded.model, loaded.configuration.vocab_size, folder)
}

impl SamplePass {
    /// The largest difference between logits of two passes over the same vocabulary; infinite where the sizes differ.
    pub fn largest_difference(&self, other: &Self) -> f32 {
        if self.logits.len() != other.logits.len() {
            return f32::INFINITY;
        }
        let differences = self
            .logits
            .iter()
            .zip(&other.logits)
            .map(|(left, right)| (left - right).abs());
        differences.fold(0.0, f32::max)
    }
}
