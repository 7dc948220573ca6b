//! What a model predicts at every position of a batch, read back as plain numbers.

use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis, take_along_axis};
use mlx_rs::ops::{concatenate, gt, subtract};
use mlx_rs::{Array, Dtype};

use crate::data::Batch;
use crate::model::CausalModel;

/// Positions whose logits exist at one time: bounds memory to this many rows of the vocabulary.
const POSITIONS_PER_CHUNK: i32 = 256;

/// How far ahead of its own position a token is looked at: at the position itself, the next one, the one after.
pub const OFFSETS: usize = 3;

/// Log-probability nearest to zero that f32 tells from it.
const CERTAIN: f64 = -1e-7;

/// One position of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Loss in nats of the token at the position itself, of the next one, and of the one after; of padding where the row
    /// has ended, and of token 0 behind the batch.
    pub losses: [f64; OFFSETS],
    /// The likeliest token.
    pub likeliest: i32,
    /// How many tokens are likelier than the next one, plus 1.
    pub rank: f64,
    /// Log-odds in nats of the stop tokens together against all others; `None` without stop tokens.
    pub stop_log_odds: Option<f64>,
}

/// The readings of a whole batch.
#[derive(Debug, Clone, PartialEq)]
pub struct NextTokens {
    columns: usize,
    readings: Vec<Reading>,
    /// Element type of the last hidden states.
    pub activation_dtype: Dtype,
}

impl NextTokens {
    /// Runs `model` once over `batch`; ids of `stop_ids` that the model has no logit for are left out.
    pub fn read(model: &CausalModel, batch: &Batch, stop_ids: &[u32]) -> Result<Self> {
        let [rows, columns] = batch.shape();
        let vocabulary = model.model.embed_tokens.vocabulary_size();
        let stop_ids: Vec<i32> = stop_ids
            .iter()
            .map(|id| id.cast_signed())
            .filter(|&id| (0..vocabulary).contains(&id))
            .collect();
        let tokens = Array::from_slice(&batch.tokens, &[rows as i32, columns as i32]);
        let hidden = model.hidden_states(&tokens, &mut [])?;
        let activation_dtype = hidden.dtype();
        let hidden = hidden.reshape(&[-1, hidden.dim(-1)])?;
        let targets = targets(batch);
        let mut readings = Vec::with_capacity(rows * columns);
        let total = hidden.dim(0);
        let mut start = 0;
        while start < total {
            let end = (start + POSITIONS_PER_CHUNK).min(total);
            let logits = model.output(&hidden.try_index(start..end)?)?.as_dtype(Dtype::Float32)?;
            readings.extend(read(&logits, &targets.try_index(start..end)?, &stop_ids)?);
            start = end;
        }
        Ok(Self {
            columns,
            readings,
            activation_dtype,
        })
    }

    /// The reading at `column` of `row`, both counted from 0 within the batch.
    pub fn at(&self, row: usize, column: usize) -> &Reading {
        &self.readings[row * self.columns + column]
    }

    /// The loss of the token at `column` of `row`, predicted from the tokens before it.
    ///
    /// Nothing predicts the first token: `column` is at least 1.
    pub fn loss(&self, row: usize, column: usize) -> f64 {
        self.at(row, column - 1).losses[1]
    }
}

/// The tokens `[rows * columns, OFFSETS]` at each position and behind it, 0 behind the batch.
fn targets(batch: &Batch) -> Array {
    let mut targets = Vec::with_capacity(batch.tokens.len() * OFFSETS);
    for row in batch.tokens.chunks(batch.columns.max(1)) {
        for column in 0..row.len() {
            targets.extend((0..OFFSETS).map(|offset| row.get(column + offset).copied().unwrap_or(0)));
        }
    }
    Array::from_slice(&targets, &[batch.tokens.len() as i32, OFFSETS as i32])
}

/// The readings of `logits` `[positions, vocabulary]` for `targets` `[positions, OFFSETS]`, from one array read back.
fn read(logits: &Array, targets: &Array, stop_ids: &[i32]) -> Result<Vec<Reading>> {
    let normaliser = logits.logsumexp_axis(-1, true)?;
    let picked = take_along_axis(logits, targets, -1)?;
    let next = picked.try_index((.., 1..2))?;
    let mut columns = vec![
        subtract(&normaliser, &picked)?,
        argmax_axis(logits, -1, true)?.as_dtype(Dtype::Float32)?,
        gt(logits, next)?.as_dtype(Dtype::Float32)?.sum_axis(-1, true)?,
    ];
    if !stop_ids.is_empty() {
        let ids = Array::from_slice(stop_ids, &[stop_ids.len() as i32]);
        let stops = logits.take_axis(ids, -1)?.logsumexp_axis(-1, true)?;
        columns.push(subtract(stops, &normaliser)?);
    }
    let table = concatenate(&columns, -1)?.contiguous()?;
    let values = table
        .to_vec_exact::<f32>()
        .map_err(|error| Exception::custom(error.to_string()))?;
    let width = table.dim(-1) as usize;
    Ok(values
        .chunks(width)
        .map(|row| Reading {
            losses: [0, 1, 2].map(|offset| f64::from(row[offset])),
            likeliest: row[OFFSETS] as i32,
            rank: f64::from(row[OFFSETS + 1]) + 1.0,
            stop_log_odds: row.get(OFFSETS + 2).map(|&value| log_odds(f64::from(value))),
        })
        .collect())
}

/// The log-odds of a log-probability.
fn log_odds(log_probability: f64) -> f64 {
    let log_probability = log_probability.min(CERTAIN);
    log_probability - (-log_probability.exp_m1()).ln()
}

#[cfg(test)]
mod tests {
    use super::log_odds;
    use approx::assert_relative_eq;

    #[test]
    fn the_log_odds_of_three_quarters_are_those_of_three_to_one() {
        assert_relative_eq!(log_odds(0.75_f64.ln()), 3.0_f64.ln(), epsilon = 1e-12);
        assert_relative_eq!(log_odds(0.5_f64.ln()), 0.0, epsilon = 1e-12);
    }

    #[test]
    fn a_certain_token_has_large_and_finite_log_odds() {
        let certain = log_odds(0.0);
        assert!(certain > 16.0 && certain.is_finite(), "{certain}");
    }
}
