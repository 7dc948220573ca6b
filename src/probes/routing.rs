//! Where a mixture of experts sends its tokens.

use std::collections::BTreeSet;

use mlx_rs::Array;
use mlx_rs::Dtype;
use mlx_rs::error::{Exception, Result};

use crate::model::CausalModel;
use crate::readback::vector;

/// Where the tokens of one block went.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockRouting {
    /// Number of the block.
    pub block: usize,
    /// Tokens that each expert got.
    pub load: Vec<usize>,
    /// Different experts that the tokens of one position took, on average over positions: whose weights a step reads when
    /// the rows are decoded together.
    pub experts_of_a_step: f64,
}

impl BlockRouting {
    /// Entropy of the load in nats; the logarithm of the number of experts where all get equally many tokens.
    pub fn entropy(&self) -> f64 {
        let total = self.total();
        let shares = self.load.iter().filter(|tokens| **tokens > 0);
        shares
            .map(|tokens| {
                let share = *tokens as f64 / total;
                -share * share.ln()
            })
            .sum()
    }

    /// The largest load by the mean one; 1 where all experts get equally many tokens.
    pub fn largest_by_mean(&self) -> f64 {
        let largest = self.load.iter().max().copied().unwrap_or(0);
        largest as f64 / self.mean()
    }

    /// Standard deviation of the load by its mean, the coefficient of variation; 0 where all are equal.
    pub fn variation(&self) -> f64 {
        let mean = self.mean();
        let squares = self.load.iter().map(|tokens| (*tokens as f64 - mean).powi(2));
        (squares.sum::<f64>() / self.load.len() as f64).sqrt() / mean
    }

    fn total(&self) -> f64 {
        self.load.iter().sum::<usize>() as f64
    }

    fn mean(&self) -> f64 {
        self.total() / self.load.len() as f64
    }
}

/// Sends `rows`, each of equally many tokens, through the model and counts the tokens of `experts` experts by block; empty
/// where the model has none.
///
/// # Errors
/// There is no token, rows are not alike, or MLX fails.
pub fn measure(model: &CausalModel, rows: &[Vec<u32>], experts: usize) -> Result<Vec<BlockRouting>> {
    let length = rows.first().map_or(0, Vec::len);
    if length == 0 || rows.iter().any(|row| row.len() != length) {
        return Err(Exception::custom("rows have equally many tokens, and at least one"));
    }
    let flat: Vec<u32> = rows.iter().flatten().copied().collect();
    let tokens = Array::from_slice(&flat, &[rows.len() as i32, length as i32]);
    let chosen = model.chosen_experts(&tokens)?;
    chosen
        .into_iter()
        .map(|(block, indices)| of_block(block, &indices, rows.len(), experts))
        .collect()
}

/// `indices` is `[rows, tokens, chosen]`.
fn of_block(block: usize, indices: &Array, rows: usize, experts: usize) -> Result<BlockRouting> {
    let each = indices.dim(-1) as usize;
    let indices: Vec<u32> = vector(&indices.as_dtype(Dtype::Uint32)?)?;
    let mut load = vec![0; experts];
    for expert in &indices {
        let place = load.get_mut(*expert as usize);
        *place.ok_or_else(|| Exception::custom("a token went to an expert that the model does not have"))? += 1;
    }
    let positions = indices.len() / (rows * each);
    let distinct = (0..positions).map(|position| {
        let of_row = |row: usize| &indices[(row * positions + position) * each..][..each];
        (0..rows).flat_map(of_row).collect::<BTreeSet<_>>().len()
    });
    Ok(BlockRouting {
        block,
        load,
        experts_of_a_step: distinct.sum::<usize>() as f64 / positions as f64,
    })
}
