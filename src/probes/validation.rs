//! The loss of rows that training does not see.

use mlx_rs::error::Result;

use crate::data::{Batch, Example};
use crate::model::CausalModel;
use crate::train::{Lanes, mean_loss};

/// The mean loss of [`rows`] in nats per supervised token; `None` when there is none or it is not finite.
pub fn loss(model: &CausalModel, examples: &[Example], most: usize, lanes: &Lanes) -> Result<Option<f64>> {
    let rows = rows(examples, most);
    if rows.is_empty() {
        return Ok(None);
    }
    let loss = mean_loss(model, &Batch::new(examples, &rows), lanes)?;
    Ok(loss.is_finite().then_some(loss))
}

/// The first rows with supervised tokens: as many as `most` tokens have room for, and at least one.
pub fn rows(examples: &[Example], most: usize) -> Vec<usize> {
    let mut rows = Vec::new();
    let mut tokens = 0;
    for (row, example) in examples.iter().enumerate() {
        if example.supervised_tokens() == 0 {
            continue;
        }
        tokens += example.tokens.len();
        if !rows.is_empty() && tokens > most {
            break;
        }
        rows.push(row);
    }
    rows
}
