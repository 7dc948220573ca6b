//! Whether answers belong to their prompts, and whether they have an order: the same answers behind the prompts of other
//! rows, and turned round.

use mlx_rs::error::Result;

use crate::data::{Batch, Example};
use crate::evidence::PairingFit;
use crate::model::CausalModel;
use crate::train::{Lanes, row_losses};

/// Rows whose answers are exchanged, at most.
const ROWS: usize = 8;
/// Tokens of a prompt with an answer; what is longer is cut.
const ROW_TOKENS: usize = 56;
/// Tokens after which no further row is taken, so that reading all rows twice costs about one training batch.
const TOKENS: usize = 280;
/// Rows that are turned round.
const TURNED_ROWS: usize = 2;

/// Compares the loss of answers behind their own prompts with that of the same answers behind other rows' prompts, and, for
/// the first of them, with that of the same tokens in reverse order.
///
/// Of the first rows that differ in prompt and answer, each answer moves to the prompt of the row before it. `None` with
/// fewer than two such rows, or where a loss is not finite.
pub fn measure(model: &CausalModel, examples: &[Example], lanes: &Lanes) -> Result<Option<PairingFit>> {
    let pairs = distinct_pairs(examples);
    if pairs.len() < 2 {
        return Ok(None);
    }
    let (mut own, mut other, mut turned) = (Vec::new(), Vec::new(), Vec::new());
    for (position, pair) in pairs.iter().enumerate() {
        let before = &pairs[(position + pairs.len() - 1) % pairs.len()];
        let longer = pair.prompt.len().max(before.prompt.len());
        let answer = &pair.answer[..pair.answer.len().min(ROW_TOKENS - longer)];
        own.push(Row::new(pair.prompt, answer));
        other.push(Row::new(before.prompt, answer));
        if position < TURNED_ROWS {
            let backwards: Vec<u32> = answer.iter().rev().copied().collect();
            turned.push(Row::new(pair.prompt, &backwards));
        }
    }
    let counts: Vec<f64> = own.iter().map(Row::answer_tokens).collect();
    let rows: Vec<Row> = own.into_iter().chain(other).chain(turned).collect();
    let losses = row_losses(model, &batch(&rows), lanes)?;
    let (own, rest) = losses.split_at(pairs.len());
    let (other, turned) = rest.split_at(pairs.len());
    let count: f64 = counts.iter().sum();
    let mean = |sums: &[f64]| sums.iter().sum::<f64>() / count;
    let gap = mean(other) - mean(own);
    // Of a ratio of sums over rows: the rows' own gaps less what the mean gap predicts for their lengths.
    let residuals = own.iter().zip(other).zip(&counts).map(|((own, other), count)| {
        let residual = other - own - gap * count;
        residual * residual
    });
    let exchanged = pairs.len() as f64;
    let standard_error = (residuals.sum::<f64>() * exchanged / (exchanged - 1.0)).sqrt() / count;
    let forwards: f64 = own.iter().take(TURNED_ROWS).sum();
    let order_gain = (turned.iter().sum::<f64>() - forwards) / counts.iter().take(TURNED_ROWS).sum::<f64>();
    let fit = PairingFit {
        rows: pairs.len(),
        tokens: count as usize,
        own: mean(own),
        other: mean(other),
        standard_error,
        order_gain,
    };
    let finite = [fit.own, fit.other, standard_error, order_gain]
        .iter()
        .all(|value| value.is_finite());
    Ok(finite.then_some(fit))
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
        if !(2..ROW_TOKENS).contains(&first) {
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

    fn answer_tokens(&self) -> f64 {
        (self.tokens.len() - self.begin) as f64
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
    let mask = |row: &Row| {
        let answer = row.begin..row.tokens.len();
        (0..columns).map(move |column| f32::from(u8::from(answer.contains(&column))))
    };
    Batch {
        rows: (0..rows.len()).collect(),
        columns,
        tokens: rows.iter().flat_map(padded).collect(),
        mask: rows.iter().flat_map(mask).collect(),
        lengths: rows.iter().map(|row| row.tokens.len()).collect(),
        documents: None,
    }
}
