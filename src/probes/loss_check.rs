//! The loss of a batch recomputed from the logits, in every way in which it is known to be read.
//!
//! Nothing here is shared with the loss that training uses.

use mlx_rs::error::Result;

use super::next_token::NextTokens;
use crate::data::Batch;
use crate::evidence::{LossReading, ReadLoss};
use crate::model::CausalModel;
use crate::readback::largest_magnitude;

/// Whether dropout changes what `model` computes in training: it does not while every `lora_b` it acts through is zero.
pub fn dropout_acts(model: &CausalModel) -> Result<bool> {
    for (_, layer) in model.adaptable() {
        let drops = layer.low_rank().is_some_and(|settings| settings.dropout > 0.0);
        let [_, lora_b] = layer.matrices();
        if let Some(lora_b) = lora_b.value.as_ref().filter(|_| drops)
            && largest_magnitude(lora_b)? != 0.0
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The loss of `batch` by every reading, from what `tokens` says of it.
pub fn readings(tokens: &NextTokens, batch: &Batch) -> Vec<ReadLoss> {
    let supervised = |row: usize, column: usize| batch.mask[row * batch.columns + column] > 0.0;
    let mut sums = Sums::default();
    for (row, &length) in batch.lengths.iter().enumerate() {
        let mut of_row = Sum::default();
        for column in 1..length {
            let loss = tokens.loss(row, column);
            sums.prompts_too.add(loss);
            if supervised(row, column) {
                of_row.add(loss);
                sums.not_shifted.add(tokens.at(row, column).losses[0]);
                if column >= 2 {
                    sums.shifted_twice.add(tokens.at(row, column - 2).losses[2]);
                }
            }
        }
        let mut padding = (length.max(1)..batch.columns).map(|column| tokens.loss(row, column));
        if let Some(first) = padding.next() {
            sums.first_padding.add(first);
            sums.later_padding.total += padding.clone().sum::<f64>();
            sums.later_padding.count += padding.count();
        }
        sums.definition.join(&of_row);
        if let Some(mean) = of_row.mean() {
            sums.row_means.add(mean);
        }
    }
    let definition = &sums.definition;
    let one_padding = definition.with(&sums.first_padding);
    let by_all_tokens = Sum {
        total: definition.total,
        count: batch.tokens.len(),
    };
    [
        (LossReading::Definition, definition.mean()),
        (LossReading::NotShifted, sums.not_shifted.mean()),
        (LossReading::ShiftedTwice, sums.shifted_twice.mean()),
        (LossReading::PromptsToo, sums.prompts_too.mean()),
        (LossReading::PaddingToo, one_padding.with(&sums.later_padding).mean()),
        (LossReading::OnePaddingToo, one_padding.mean()),
        (LossReading::MeanOfRowMeans, sums.row_means.mean()),
        (
            LossReading::DividedByAllTokens,
            definition.mean().and_then(|_| by_all_tokens.mean()),
        ),
    ]
    .map(|(reading, loss)| ReadLoss { reading, loss })
    .into()
}

#[derive(Debug, Default)]
struct Sums {
    definition: Sum,
    not_shifted: Sum,
    shifted_twice: Sum,
    prompts_too: Sum,
    first_padding: Sum,
    later_padding: Sum,
    row_means: Sum,
}

#[derive(Debug, Default, Clone)]
struct Sum {
    total: f64,
    count: usize,
}

impl Sum {
    fn add(&mut self, loss: f64) {
        self.total += loss;
        self.count += 1;
    }

    fn join(&mut self, other: &Self) {
        self.total += other.total;
        self.count += other.count;
    }

    fn with(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.join(other);
        both
    }

    /// `None` when nothing was added or the mean is not finite.
    fn mean(&self) -> Option<f64> {
        let mean = self.total / self.count as f64;
        mean.is_finite().then_some(mean)
    }
}
