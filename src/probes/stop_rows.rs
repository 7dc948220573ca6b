//! What the output layer knows of the tokens that end an answer.

use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::{matmul, square};
use mlx_rs::{Array, Dtype};

use crate::evidence::StopRow;
use crate::model::{CausalModel, StopSet, Tokenizer};
use crate::quantile::lower_median;

/// Rows of the output layer in plain form at one time.
const ROWS_AT_ONCE: u32 = 4096;

/// Compares the output rows of the stop tokens with those of the other special tokens and with the median row.
///
/// Empty when no stop token has a row, or when most rows of the output layer are zero.
pub fn measure(model: &CausalModel, stop_set: &StopSet, tokenizer: &Tokenizer) -> Result<Vec<StopRow>> {
    let vocabulary = model.model.embed_tokens.vocabulary_size() as u32;
    let typical = lower_median(norms_of_all(model, vocabulary)?.into_iter().map(f64::from)).unwrap_or(0.0);
    let stops: Vec<_> = stop_set.tokens().iter().filter(|token| token.id < vocabulary).collect();
    if stops.is_empty() || typical == 0.0 {
        return Ok(Vec::new());
    }
    let others: Vec<u32> = tokenizer
        .added_ids()
        .into_iter()
        .filter(|&id| id < vocabulary && !stop_set.contains(id))
        .collect();
    let stop_rows = rows(model, stops.iter().map(|token| token.id))?;
    let stop_norms = values(&norms(&stop_rows)?)?;
    let (other_norms, products) = if others.is_empty() {
        (Vec::new(), Vec::new())
    } else {
        let other_rows = rows(model, others.iter().copied())?;
        let products = matmul(&stop_rows, other_rows.t())?.reshape(&[-1])?;
        (values(&norms(&other_rows)?)?, values(&products)?)
    };
    Ok(stops
        .iter()
        .enumerate()
        .map(|(index, token)| {
            let nearest = others
                .iter()
                .enumerate()
                .map(|(column, &other)| {
                    let product = products[index * others.len() + column];
                    (product / (stop_norms[index] * other_norms[column]), other)
                })
                .filter(|(cosine, _)| cosine.is_finite())
                .map(|(cosine, other)| (cosine.clamp(-1.0, 1.0), other))
                .max_by(|(left, left_id), (right, right_id)| left.total_cmp(right).then(right_id.cmp(left_id)));
            StopRow {
                id: token.id,
                text: token.text.clone(),
                norm_ratio: f64::from(stop_norms[index]) / typical,
                nearest: nearest.and_then(|(_, id)| tokenizer.token_text(id)),
                cosine: nearest.map(|(cosine, _)| f64::from(cosine)),
            }
        })
        .collect())
}

/// The rows `[ids, hidden]` of the output layer, in f32.
fn rows(model: &CausalModel, ids: impl Iterator<Item = u32>) -> Result<Array> {
    let ids: Vec<u32> = ids.collect();
    model
        .output_rows(&Array::from_slice(&ids, &[ids.len() as i32]))?
        .as_dtype(Dtype::Float32)
}

fn norms_of_all(model: &CausalModel, vocabulary: u32) -> Result<Vec<f32>> {
    let mut all = Vec::with_capacity(vocabulary as usize);
    for start in (0..vocabulary).step_by(ROWS_AT_ONCE as usize) {
        let end = vocabulary.min(start + ROWS_AT_ONCE);
        all.extend(values(&norms(&rows(model, start..end)?)?)?);
    }
    Ok(all)
}

/// The Euclidean norm `[rows]` of each row of a matrix.
fn norms(matrix: &Array) -> Result<Array> {
    square(matrix)?.sum_axis(-1, false)?.sqrt()
}

fn values(array: &Array) -> Result<Vec<f32>> {
    array
        .to_vec_exact::<f32>()
        .map_err(|error| Exception::custom(error.to_string()))
}
