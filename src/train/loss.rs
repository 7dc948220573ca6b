use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use mlx_rs::error::{Exception, Result};
use mlx_rs::module::update_parameters;
use mlx_rs::ops::indexing::take_along_axis;
use mlx_rs::ops::{add, divide, exp, matmul, multiply, subtract};
use mlx_rs::transforms::keyed_value_and_grad;
use mlx_rs::{Array, Dtype, stop_gradient};

use super::Lanes;
use crate::data::Batch;
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::readback::scalar;

/// Positions whose logits exist at one time: bounds memory to this many rows of the vocabulary.
pub const POSITIONS_PER_CHUNK: i32 = 256;

/// One backward pass.
#[derive(Debug)]
pub struct LossAndGradients {
    /// Mean loss per supervised token in nats, a scalar; NaN when nothing is supervised.
    pub loss: Array,
    /// Gradient of every trainable parameter, by name.
    pub gradients: BTreeMap<String, Array>,
}

/// The mean cross-entropy per supervised token of `batch` and its gradient for every trainable parameter.
pub fn loss_and_gradients(model: &CausalModel, batch: &Batch, lanes: &Lanes) -> Result<LossAndGradients> {
    let trainable: HashMap<Rc<str>, Array> = ParameterSnapshot::capture_trainable(model)
        .into_parameters()
        .into_iter()
        .map(|(name, array)| (Rc::from(name), array))
        .collect();
    let supervised = Array::from_f32(batch.supervised_tokens() as f32);
    let loss = |parameters: HashMap<Rc<str>, Array>, (): ()| -> Result<Vec<Array>> {
        let mut traced = model.clone();
        update_parameters(&mut traced, parameters);
        let mut sums = lanes.run(batch, |part| summed_loss(&traced, part))?.into_iter();
        let mut total = sums.next().ok_or_else(|| Exception::custom("a batch without rows"))?;
        for sum in sums {
            total = SummedLoss {
                differentiable: total.differentiable.add(sum.differentiable)?,
                value: total.value.add(sum.value)?,
            };
        }
        // MLX differentiates the first output and hands the others through.
        Ok(vec![
            divide(total.differentiable, &supervised)?,
            divide(total.value, &supervised)?,
        ])
    };
    let (mut values, gradients) = keyed_value_and_grad(loss)(trainable, ())?;
    let loss = values.pop().ok_or_else(|| Exception::custom("the loss has no value"))?;
    let gradients = gradients
        .into_iter()
        .map(|(name, gradient)| (name.to_string(), gradient))
        .collect();
    Ok(LossAndGradients { loss, gradients })
}

/// The mean cross-entropy per supervised token of `batch`, in nats; NaN when nothing is supervised.
pub fn mean_loss(model: &CausalModel, batch: &Batch) -> Result<f64> {
    let sum = summed_loss(model, batch)?.value;
    sum.eval()?;
    Ok(f64::from(scalar::<f32>(&sum)?) / batch.supervised_tokens() as f64)
}

/// The loss summed over supervised tokens, twice: as the graph to differentiate, and as its value.
///
/// The two are one array unless the output layer is frozen.
struct SummedLoss {
    differentiable: Array,
    value: Array,
}

fn summed_loss(model: &CausalModel, batch: &Batch) -> Result<SummedLoss> {
    let Predictions {
        tokens,
        positions,
        targets,
    } = Predictions::of(batch);
    let hidden = model.hidden_states(&tokens, &mut [])?;
    let width = hidden.dim(-1);
    // Logits are made only where there is something to learn.
    let hidden = hidden.reshape(&[-1, width])?.take_axis(&positions, 0)?;
    let mut differentiable = Array::from_f32(0.0);
    let mut value = Array::from_f32(0.0);
    let frozen_output = model.frozen_output_weight();
    let total = positions.dim(0);
    let mut start = 0;
    while start < total {
        let end = (start + POSITIONS_PER_CHUNK).min(total);
        let chunk = rows(&hidden, start, end)?;
        let chunk_targets = rows(&targets, start, end)?;
        let sum = match frozen_output {
            Some(weight) => frozen_output_loss(&chunk, &chunk_targets, weight)?,
            None => plain_loss(&model.output(&chunk)?.as_dtype(Dtype::Float32)?, &chunk_targets)?,
        };
        differentiable = differentiable.add(sum.differentiable)?;
        value = value.add(sum.value)?;
        start = end;
    }
    Ok(SummedLoss { differentiable, value })
}

fn plain_loss(logits: &Array, targets: &Array) -> Result<SummedLoss> {
    let normaliser = logits.logsumexp_axis(-1, true)?;
    let sum = subtract(normaliser, picked(logits, targets)?)?.sum(None)?;
    Ok(SummedLoss {
        differentiable: sum.clone(),
        value: sum,
    })
}

/// The logit `[positions, 1]` of each target.
fn picked(logits: &Array, targets: &Array) -> Result<Array> {
    take_along_axis(logits, targets.reshape(&[-1, 1])?, -1)
}

/// The same loss through an output layer that is not trained, without a graph over the logits.
///
/// The gradient for the hidden states is known in closed form, `softmax(logits) W - W[target]`, so the logits are made,
/// used and dropped chunk by chunk; `differentiable` is linear in the hidden states and has exactly that gradient. One
/// exponential per logit serves loss and gradient, and the division by its sum is left to the narrow side of `W`.
fn frozen_output_loss(hidden: &Array, targets: &Array, weight: &Array) -> Result<SummedLoss> {
    let logits = matmul(stop_gradient(hidden)?, weight.t())?.as_dtype(Dtype::Float32)?;
    let largest = logits.max_axis(-1, true)?;
    let target_logits = picked(&logits, targets)?;
    let exponentials = exp(subtract(logits, &largest)?)?;
    let sums = exponentials.sum_axis(-1, true)?;
    let value = subtract(add(sums.log()?, largest)?, target_logits)?.sum(None)?;
    let expected = divide(
        matmul(exponentials.as_dtype(weight.dtype())?, weight)?,
        sums.as_dtype(weight.dtype())?,
    )?;
    let gradient = subtract(expected, weight.take_axis(targets, 0)?)?;
    let differentiable = multiply(hidden, stop_gradient(&gradient)?)?
        .as_dtype(Dtype::Float32)?
        .sum(None)?;
    Ok(SummedLoss { differentiable, value })
}

fn rows(array: &Array, start: i32, end: i32) -> Result<Array> {
    use mlx_rs::ops::indexing::TryIndexOp;
    array.try_index(start..end)
}

/// A part of a batch as arrays.
struct Predictions {
    /// Token ids `[rows, longest]`, padded on the right.
    tokens: Array,
    /// Index of each supervised prediction among the `rows * longest` positions.
    positions: Array,
    /// The token to predict at each of these positions.
    targets: Array,
}

impl Predictions {
    fn of(batch: &Batch) -> Self {
        // The last token of a row predicts nothing, so it is not fed.
        let fed = batch.columns.saturating_sub(1);
        let mut tokens = Vec::with_capacity(batch.rows.len() * fed);
        let mut positions = Vec::new();
        let mut targets = Vec::new();
        for row in 0..batch.rows.len() {
            let start = row * batch.columns;
            tokens.extend_from_slice(&batch.tokens[start..start + fed]);
            for column in 1..batch.columns {
                if batch.mask[start + column] > 0.0 {
                    positions.push((row * fed + column - 1) as i32);
                    targets.push(batch.tokens[start + column]);
                }
            }
        }
        let vector = |values: &[i32]| Array::from_slice(values, &[values.len() as i32]);
        Self {
            tokens: Array::from_slice(&tokens, &[batch.rows.len() as i32, fed as i32]),
            positions: vector(&positions),
            targets: vector(&targets),
        }
    }
}
