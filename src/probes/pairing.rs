//! Whether answers belong to their prompts: the same answers behind the prompts of other rows.

use mlx_rs::error::Result;

use super::next_token::NextTokens;
use crate::data::{Batch, Example};
use crate::evidence::PairingFit;
use crate::model::CausalModel;

/// Rows whose answers are exchanged, at most.
const ROWS: usize = 8;
/// Tokens of a prompt with an answer; what is longer is cut.
const ROW_TOKENS: usize = 96;
/// Tokens after which no further row is taken, so that reading all rows twice costs about one training batch.
const TOKENS: usize = 384;

/// Compares the loss of answers behind their own prompts with that of the same answers behind other rows' prompts.
///
/// Of the first rows that differ in prompt and answer, each answer moves to the prompt of the row before it. `None` with
/// fewer than two such rows, or where a loss is not finite.
pub fn measure(model: &CausalModel, examples: &[Example]) -> Result<Option<PairingFit>> {
    let pairs = distinct_pairs(examples);
    if pairs.len() < 2 {
        return Ok(None);
    }
    let mut rows = Vec::new();
    for (position, pair) in pairs.iter().enumerate() {
        let other = &pairs[(position + pairs.len() - 1) % pairs.len()];
        let longer = pair.prompt.len().max(other.prompt.len());
        let answer = &pair.answer[..pair.answer.len().min(ROW_TOKENS - longer)];
        rows.extend([Row::new(pair.prompt, answer), Row::new(other.prompt, answer)]);
    }
    let batch = batch(&rows);
    let tokens = NextTokens::read(model, &batch, &[])?;
    let losses: Vec<f64> = rows
        .iter()
        .enumerate()
        .map(|(row, Row { begin, tokens: all })| (*begin..all.len()).map(|column| tokens.loss(row, column)).sum())
        .collect();
    let counts: Vec<f64> = rows.iter().map(|row| (row.tokens.len() - row.begin) as f64).collect();
    let count: f64 = counts.iter().step_by(2).sum();
    let own = losses.iter().step_by(2).sum::<f64>() / count;
    let other = losses.iter().skip(1).step_by(2).sum::<f64>() / count;
    // Of a ratio of sums over rows: the rows' own gaps less what the mean gap predicts for their lengths.
    let residuals = losses.chunks(2).zip(counts.chunks(2)).map(|(loss, count)| {
        let residual = loss[1] - loss[0] - (other - own) * count[0];
        residual * residual
    });
    let pairs_counted = pairs.len() as f64;
    let standard_error = (residuals.sum::<f64>() * pairs_counted / (pairs_counted - 1.0)).sqrt() / count;
    let finite = own.is_finite() && other.is_finite() && standard_error.is_finite();
    Ok(finite.then_some(PairingFit {
        rows: pairs.len(),
        tokens: count as usize,
        own,
        other,
        standard_error,
    }))
}

/// What stands before the first supervised token of a row, and what follows to the last one.
#[derive(Debug, PartialEq)]
struct Pair<'a> {
    prompt: &'a [u32],
    answer: &'a [u32],
}

/// The first rows that have a prompt of moderate length, each unlike all others in prompt and answer.
fn distinct_pairs(examples: &[Example]) -> Vec<Pair<'_>> {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut taken = 0;
    for example in examples {
        if pairs.len() == ROWS || taken >= TOKENS {
            break;
        }
        let first = example.supervised.iter().position(|&supervised| supervised);
        let last = example.supervised.iter().rposition(|&supervised| supervised);
        let (Some(first), Some(last)) = (first, last) else {
            continue;
        };
        // A row without a prompt is supervised from its second token on.
        if first < 2 || first >= ROW_TOKENS {
            continue;
        }
        let pair = Pair {
            prompt: &example.tokens[..first],
            answer: &example.tokens[first..=last],
        };
        if pairs
            .iter()
            .all(|other| other.prompt != pair.prompt && other.answer != pair.answer)
        {
            taken += (last + 1).min(ROW_TOKENS);
            pairs.push(pair);
        }
    }
    pairs
}

/// A prompt and an answer, not always its own.
struct Row {
    /// Where the answer begins.
    begin: usize,
    tokens: Vec<i32>,
}

impl Row {
    fn new(prompt: &[u32], answer: &[u32]) -> Self {
        Self {
            begin: prompt.len(),
            tokens: prompt.iter().chain(answer).map(|token| token.cast_signed()).collect(),
        }
    }
}

fn batch(rows: &[Row]) -> Batch {
    let columns = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
    let padded = |row: &Row| {
        let padding = columns - row.tokens.len();
        row.tokens
            .iter()
            .copied()
            .chain(std::iter::repeat_n(0, padding))
            .collect::<Vec<_>>()
    };
    Batch {
        rows: (0..rows.len()).collect(),
        columns,
        tokens: rows.iter().flat_map(padded).collect(),
        mask: vec![0.0; columns * rows.len()],
        lengths: rows.iter().map(|row| row.tokens.len()).collect(),
    }
}
