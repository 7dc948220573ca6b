//! The loss of rows that training does not see.

use mlx_rs::error::Result;

use crate::data::{Batch, Example};
use crate::model::CausalModel;
use crate::train::mean_loss;

/// Most rows that are measured.
const ROWS: usize = 8;
/// Tokens after which no further row is taken: as many as four rows of the usual 128.
const TOKENS: usize = 512;

/// The mean loss of the first rows with supervised tokens, in nats per supervised token; `None` when there is none or it
/// is not finite.
pub fn loss(model: &CausalModel, examples: &[Example]) -> Result<Option<f64>> {
    let mut rows = Vec::new();
    let mut tokens = 0;
    for (row, example) in examples.iter().enumerate() {
        if rows.len() == ROWS || tokens >= TOKENS {
            break;
        }
        if example.supervised_tokens() > 0 {
            rows.push(row);
            tokens += example.tokens.len();
        }
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let loss = mean_loss(model, &Batch::new(examples, &rows))?;
    Ok(loss.is_finite().then_some(loss))
}
