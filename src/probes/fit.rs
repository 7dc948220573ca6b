//! How well a model predicts the first rows of the first batch.

use mlx_rs::Dtype;

use super::next_token::{NextTokens, OFFSETS};
use crate::data::Batch;
use crate::evidence::FitEvidence;

/// Tokens that may stand behind the token that ends a row: a template's newline, for one.
const BEHIND_END: usize = 1;

/// Most tokens that are judged, beyond the first row: two rows of the usual 128.
const TOKENS: usize = 256;

/// The first rows of `batch`, which stand for all of it: the model is run over them once more after training.
///
/// As many as `TOKENS` have room for, and on to the first one that has a target.
pub fn first_rows(batch: &Batch) -> Batch {
    let mut tokens = 0;
    let fitting = batch.lengths.iter().take_while(|&&length| {
        tokens += length;
        tokens <= TOKENS
    });
    let has_target = |row: &usize| (1..batch.lengths[*row]).any(|column| is_supervised(batch, *row, column));
    let to_first_target = (0..batch.lengths.len()).find(has_target).map_or(1, |row| row + 1);
    let rows = fitting.count().max(to_first_target).min(batch.lengths.len());
    batch.select(&(0..rows).collect::<Vec<_>>())
}

/// Judges the readings of `batch`; `stop_ids` are those that end an answer.
pub fn measure(tokens: &NextTokens, batch: &Batch, stop_ids: &[u32]) -> FitEvidence {
    let mut supervised = Mean::default();
    let mut unsupervised = Mean::default();
    let mut at_end = Mean::default();
    let mut elsewhere = Mean::default();
    let mut elsewhere_unsupervised = Mean::default();
    let mut rank = Mean::default();
    for (row, &length) in batch.lengths.iter().enumerate() {
        let end = end_of(batch, row, stop_ids);
        for column in 1..length {
            let counted = is_supervised(batch, row, column);
            let loss = tokens.loss(row, column);
            if counted {
                supervised.add(loss);
            } else {
                unsupervised.add(loss);
            }
            let reading = tokens.at(row, column - 1);
            let Some(log_odds) = reading.stop_log_odds else {
                continue;
            };
            if end == Some(column) {
                at_end.add(log_odds);
                if let Some(of_end) = reading.rank {
                    rank.add(of_end);
                }
            } else if !stop_ids.contains(&token(batch, row, column)) {
                if counted {
                    elsewhere.add(log_odds);
                } else {
                    elsewhere_unsupervised.add(log_odds);
                }
            }
        }
    }
    FitEvidence {
        rows: batch.rows.len(),
        tokens: supervised.count + unsupervised.count,
        supervised: supervised.value(),
        unsupervised: unsupervised.value(),
        pairing: None,
        offset_agreement: offset_agreement(tokens, batch),
        end_log_odds: at_end.value(),
        elsewhere_log_odds: elsewhere.value().or_else(|| elsewhere_unsupervised.value()),
        end_rank: rank.value(),
        activation_dtype: name(tokens.activation_dtype).to_owned(),
    }
}

/// A mean over what was added.
#[derive(Debug, Default)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    /// `None` when nothing was added or the mean is not finite.
    fn value(&self) -> Option<f64> {
        let mean = self.sum / self.count as f64;
        mean.is_finite().then_some(mean)
    }
}

fn token(batch: &Batch, row: usize, column: usize) -> u32 {
    batch.tokens[row * batch.columns + column].cast_unsigned()
}

fn is_supervised(batch: &Batch, row: usize, column: usize) -> bool {
    batch.mask[row * batch.columns + column] > 0.0
}

/// The column of the token that ends the row; `None` when the row does not end with one.
fn end_of(batch: &Batch, row: usize, stop_ids: &[u32]) -> Option<usize> {
    let length = batch.lengths[row];
    (length.saturating_sub(1 + BEHIND_END)..length)
        .rev()
        .find(|&column| column > 0 && stop_ids.contains(&token(batch, row, column)))
}

/// Over the positions of which all looked-at tokens are in the row.
fn offset_agreement(tokens: &NextTokens, batch: &Batch) -> [f64; OFFSETS] {
    let mut agreeing = [0.0; OFFSETS];
    let mut positions = 0.0;
    for (row, &length) in batch.lengths.iter().enumerate() {
        for column in 0..length.saturating_sub(OFFSETS - 1) {
            positions += 1.0;
            let likeliest = tokens.at(row, column).likeliest.cast_unsigned();
            for (offset, count) in agreeing.iter_mut().enumerate() {
                *count += f64::from(u8::from(likeliest == token(batch, row, column + offset)));
            }
        }
    }
    if positions > 0.0 {
        agreeing.map(|count| count / positions)
    } else {
        agreeing
    }
}

fn name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Float16 => "float16",
        Dtype::Bfloat16 => "bfloat16",
        Dtype::Float64 => "float64",
        _ => "float32",
    }
}
