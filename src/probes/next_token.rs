//! What a model predicts at every position of a batch, read back as plain numbers.

use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis, take_along_axis};
use mlx_rs::ops::{concatenate, gt, subtract};
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use crate::data::Batch;
use crate::model::CausalModel;
use crate::readback::vector;
use crate::train::{Lanes, POSITIONS_PER_CHUNK};

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
    /// How many tokens are likelier than the next one, plus 1; `None` where the next one is no stop token.
    pub rank: Option<f64>,
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
    pub fn read(model: &CausalModel, batch: &Batch, stop_ids: &[u32], lanes: &Lanes) -> Result<Self> {
        let _cores = lanes.share_cores(batch);
        let [rows, columns] = batch.shape();
        let vocabulary = model.model.embed_tokens.vocabulary_size();
        let stop_ids: Vec<i32> = stop_ids
            .iter()
            .map(|id| id.cast_signed())
            .filter(|&id| (0..vocabulary).contains(&id))
            .collect();
        let per_lane = rows.div_ceil(lanes.count()) * columns;
        let parts: Vec<&[i32]> = batch.tokens.chunks(per_lane.max(1)).collect();
        let parts = lanes.each(&parts, |tokens| {
            let shape = [(tokens.len() / columns) as i32, columns as i32];
            let hidden = model.hidden_states(&Array::from_slice(tokens, &shape))?;
            Ok((hidden.reshape(&[-1, hidden.dim(-1)])?, targets(tokens, columns)))
        })?;
        let activation_dtype = parts
            .first()
            .map(|(hidden, _)| hidden.dtype())
            .ok_or_else(|| Exception::custom("a batch without rows"))?;
        let mut readings = vec![Vec::new(); parts.len()];
        // One chunk of every lane at a time, so that memory stays bounded.
        for start in (0..per_lane as i32).step_by(POSITIONS_PER_CHUNK as usize) {
            let tables = lanes.each(&parts, |(hidden, targets)| {
                let range = start.min(hidden.dim(0))..(start + POSITIONS_PER_CHUNK).min(hidden.dim(0));
                if range.is_empty() {
                    return Ok(None);
                }
                let targets = &targets[range.start as usize..range.end as usize];
                let logits = model.output(&hidden.try_index(range)?)?.as_dtype(Dtype::Float32)?;
                Table::new(&logits, targets, &stop_ids).map(Some)
            })?;
            eval(tables.iter().flatten().flat_map(Table::arrays))?;
            for (readings, table) in readings.iter_mut().zip(tables) {
                if let Some(table) = table {
                    readings.extend(table.readings()?);
                }
            }
        }
        Ok(Self {
            columns,
            readings: readings.into_iter().flatten().collect(),
            activation_dtype,
        })
    }

    /// What another program read of the rows of a batch, one list of readings per row, as many as the row has tokens.
    pub fn of_readings(rows: &[Vec<Reading>], activation_dtype: Dtype) -> Self {
        // Nobody looks behind the end of a row.
        const PADDING: Reading = Reading {
            losses: [f64::NAN; OFFSETS],
            likeliest: 0,
            rank: None,
            stop_log_odds: None,
        };
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let padded = |row: &Vec<Reading>| {
            let padding = std::iter::repeat_n(PADDING, columns - row.len());
            row.iter().copied().chain(padding).collect::<Vec<_>>()
        };
        Self {
            columns,
            readings: rows.iter().flat_map(padded).collect(),
            activation_dtype,
        }
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

/// The token at each position and those behind it, 0 behind the row.
fn targets(tokens: &[i32], columns: usize) -> Vec<[i32; OFFSETS]> {
    let of_row = |row: &[i32], column: usize| {
        let mut at = [0; OFFSETS];
        let found = &row[column..row.len().min(column + OFFSETS)];
        at[..found.len()].copy_from_slice(found);
        at
    };
    tokens
        .chunks(columns.max(1))
        .flat_map(|row| (0..row.len()).map(move |column| of_row(row, column)))
        .collect()
}

/// What is read of the logits of some positions, before it is read.
struct Table {
    /// `[positions, ...]`: losses, the likeliest token and, with stop tokens, their log-probability.
    columns: Array,
    /// The positions whose next token is a stop token, and the number of tokens likelier than it, `[ends, 1]`.
    ends: Option<(Vec<i32>, Array)>,
}

impl Table {
    /// Of `logits` `[positions, vocabulary]` for the tokens `[positions, OFFSETS]` of `targets`.
    fn new(logits: &Array, targets: &[[i32; OFFSETS]], stop_ids: &[i32]) -> Result<Self> {
        let shape = [targets.len() as i32, OFFSETS as i32];
        let normaliser = logits.logsumexp_axis(-1, true)?;
        let picked = take_along_axis(logits, Array::from_slice(targets.as_flattened(), &shape), -1)?;
        let mut columns = vec![
            subtract(&normaliser, &picked)?,
            argmax_axis(logits, -1, true)?.as_dtype(Dtype::Float32)?,
        ];
        if !stop_ids.is_empty() {
            let ids = Array::from_slice(stop_ids, &[stop_ids.len() as i32]);
            let stops = logits.take_axis(ids, -1)?.logsumexp_axis(-1, true)?;
            columns.push(subtract(stops, &normaliser)?);
        }
        // To count likelier tokens takes as long as all else, so that it is done only where somebody asks.
        let ends: Vec<i32> = (0..)
            .zip(targets)
            .filter(|(_, [_, next, _])| stop_ids.contains(next))
            .map(|(position, _)| position)
            .collect();
        let ranks = if ends.is_empty() {
            None
        } else {
            let at = Array::from_slice(&ends, &[ends.len() as i32]);
            let next = picked.take_axis(&at, 0)?.try_index((.., 1..2))?;
            let likelier = gt(logits.take_axis(&at, 0)?, next)?;
            Some((ends, likelier.as_dtype(Dtype::Float32)?.sum_axis(-1, true)?))
        };
        Ok(Self {
            columns: concatenate(&columns, -1)?,
            ends: ranks,
        })
    }

    fn arrays(&self) -> impl Iterator<Item = &Array> {
        std::iter::once(&self.columns).chain(self.ends.as_ref().map(|(_, ranks)| ranks))
    }

    fn readings(&self) -> Result<Vec<Reading>> {
        let values = vector::<f32>(&self.columns)?;
        let width = self.columns.dim(-1) as usize;
        let mut readings: Vec<Reading> = values
            .chunks(width)
            .map(|row| Reading {
                losses: [0, 1, 2].map(|offset| f64::from(row[offset])),
                likeliest: row[OFFSETS] as i32,
                rank: None,
                stop_log_odds: row.get(OFFSETS + 1).map(|&value| log_odds(f64::from(value))),
            })
            .collect();
        if let Some((ends, ranks)) = &self.ends {
            for (&end, likelier) in ends.iter().zip(vector::<f32>(ranks)?) {
                readings[end as usize].rank = Some(f64::from(likelier) + 1.0);
            }
        }
        Ok(readings)
    }
}

/// The log-odds of a log-probability.
pub fn log_odds(log_probability: f64) -> f64 {
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
