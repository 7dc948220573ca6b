//! The loss of rows that training does not see.

use mlx_rs::error::Result;

use crate::data::{Batch, Example};
use crate::model::CausalModel;
use crate::train::{Lanes, mean_loss};

/// Most tokens that are measured, beyond the first row: it is done at least twice in a run.
const TOKENS: usize = 192;

/// The mean loss of the first rows with supervised tokens, in nats per supervised token; `None` when there is none or it
/// is not finite.
pub fn loss(model: &CausalModel, examples: &[Example], lanes: &Lanes) -> Result<Option<f64>> {
    let mut rows = Vec::new();
    let mut tokens = 0;
    for (row, example) in examples.iter().enumerate() {
        if example.supervised_tokens() == 0 {
            continue;
        }
        tokens += example.tokens.len();
        if !rows.is_empty() && tokens > TOKENS {
            break;
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let loss = mean_loss(model, &Batch::new(examples, &rows), lanes)?;
    Ok(loss.is_finite().then_some(loss))
}
