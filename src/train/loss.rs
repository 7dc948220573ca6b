use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;

use mlx_rs::error::{Exception, Result};
use mlx_rs::module::update_parameters;
use mlx_rs::ops::indexing::{TryIndexOp, take_along_axis};
use mlx_rs::ops::{add, concatenate, divide, exp, matmul, multiply, ones, subtract};
use mlx_rs::transforms::{eval, keyed_value_and_grad};
use mlx_rs::{Array, Dtype, stop_gradient};

use super::Lanes;
use crate::data::Batch;
use crate::model::{AttentionContext, CausalModel};
use crate::param_snapshot::ParameterSnapshot;
use crate::readback::{scalar, vector};

/// Positions whose logits are made together. On a GPU this bounds memory to so many rows of the vocabulary; on a CPU MLX
/// begins with all chunks before it ends one.
pub const POSITIONS_PER_CHUNK: i32 = 256;

/// One backward pass.
#[derive(Debug, Clone)]
pub struct LossAndGradients {
    /// Mean loss per supervised token in nats, a scalar; NaN when nothing is supervised.
    pub loss: Array,
    /// Gradient of every trainable parameter, by name.
    pub gradients: BTreeMap<String, Array>,
}

impl LossAndGradients {
    /// `sum` and `share` of this pass.
    pub(super) fn add_to(self, sum: Option<Self>, share: f32) -> Result<Self> {
        let loss = multiply(self.loss, Array::from_f32(share))?;
        let gradients = scaled(self.gradients, share.into())?;
        let Some(mut sum) = sum else {
            return Ok(Self { loss, gradients });
        };
        sum.loss = sum.loss.add(loss)?;
        for (name, gradient) in gradients {
            let total = match sum.gradients.remove(&name) {
                Some(total) => total.add(gradient)?,
                None => gradient,
            };
            sum.gradients.insert(name, total);
        }
        Ok(sum)
    }
}

/// The mean cross-entropy per supervised token of `batch` and its gradient for every trainable parameter.
pub fn loss_and_gradients(model: &CausalModel, batch: &Batch, lanes: &Lanes) -> Result<LossAndGradients> {
    differentiated(model, batch, lanes, None)
}

/// As [`loss_and_gradients`], with the loss raised by `factor` while it is differentiated, and the gradients divided by it:
/// what is too small for 16 bits on the way is not lost.
pub fn scaled_loss_and_gradients(
    model: &CausalModel,
    batch: &Batch,
    lanes: &Lanes,
    factor: f64,
) -> Result<LossAndGradients> {
    let pass = differentiated(model, batch, lanes, Some(factor))?;
    Ok(LossAndGradients {
        loss: pass.loss,
        gradients: scaled(pass.gradients, 1.0 / factor)?,
    })
}

/// Every array times `factor`.
pub(super) fn scaled(gradients: BTreeMap<String, Array>, factor: f64) -> Result<BTreeMap<String, Array>> {
    if factor == 1.0 {
        return Ok(gradients);
    }
    let gradients = gradients.into_iter();
    gradients
        .map(|(name, gradient)| {
            let factor = Array::from_f32(factor as f32).as_dtype(gradient.dtype())?;
            Ok((name, multiply(gradient, factor)?))
        })
        .collect()
}

fn differentiated(model: &CausalModel, batch: &Batch, lanes: &Lanes, factor: Option<f64>) -> Result<LossAndGradients> {
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
        let mean = divide(total.differentiable, &supervised)?;
        // MLX differentiates the first output and hands the others through.
        Ok(vec![
            match factor {
                None => mean,
                Some(factor) => multiply(mean, Array::from_f32(factor as f32))?,
            },
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
pub fn mean_loss(model: &CausalModel, batch: &Batch, lanes: &Lanes) -> Result<f64> {
    let _cores = lanes.share_cores(batch);
    let sums = lanes.run(batch, |part| summed_value(model, part))?;
    eval(&sums)?;
    let mut total = 0.0;
    for sum in &sums {
        total += f64::from(scalar::<f32>(sum)?);
    }
    Ok(total / batch.supervised_tokens() as f64)
}

/// The cross-entropy of each row of `batch`, summed over its supervised tokens, in nats.
pub fn row_losses(model: &CausalModel, batch: &Batch, lanes: &Lanes) -> Result<Vec<f64>> {
    let _cores = lanes.share_cores(batch);
    // The lanes take rows in an order of their own, and these numbers bring them back.
    let numbered = Batch {
        rows: (0..batch.rows.len()).collect(),
        ..batch.clone()
    };
    let parts = lanes.run(&numbered, |part| {
        let supervised = |row: &usize| {
            let mask = &part.mask[row * part.columns..(row + 1) * part.columns];
            mask.iter().skip(1).filter(|&&weight| weight > 0.0).count()
        };
        let counts: Vec<usize> = (0..part.rows.len()).map(|row| supervised(&row)).collect();
        Ok((part.rows.clone(), counts, position_losses(model, part)?))
    })?;
    eval(parts.iter().map(|(_, _, losses)| losses))?;
    let mut sums = vec![0.0; batch.rows.len()];
    for (rows, counts, losses) in parts {
        let values = vector::<f32>(&losses)?;
        let mut rest = values.as_slice();
        for (row, count) in rows.into_iter().zip(counts) {
            let (own, others) = rest.split_at(count);
            sums[row] = own.iter().copied().map(f64::from).sum();
            rest = others;
        }
    }
    Ok(sums)
}

/// The cross-entropy of each supervised token, `[supervised]`, row by row.
fn position_losses(model: &CausalModel, batch: &Batch) -> Result<Array> {
    let predictions = Predictions::of(batch);
    let hidden = predictions.hidden(model)?;
    let losses = chunks(predictions.positions.dim(0))
        .map(|chunk| {
            let logits = model.output(&rows(&hidden, &chunk)?)?.as_dtype(Dtype::Float32)?;
            token_losses(&logits, &rows(&predictions.targets, &chunk)?)?.reshape(&[-1])
        })
        .collect::<Result<Vec<_>>>()?;
    if losses.is_empty() {
        return Ok(Array::from_slice::<f32>(&[], &[0]));
    }
    concatenate(&losses, 0)
}

/// The loss summed over supervised tokens, twice: as the graph to differentiate, and as its value.
///
/// The two are one array unless the output layer is frozen.
pub(super) struct SummedLoss {
    pub(super) differentiable: Array,
    pub(super) value: Array,
}

fn summed_loss(model: &CausalModel, batch: &Batch) -> Result<SummedLoss> {
    loss_of_predictions(model, &Predictions::of(batch))
}

/// The value of [`summed_loss`], for which no gradient is made.
fn summed_value(model: &CausalModel, batch: &Batch) -> Result<Array> {
    let predictions = Predictions::of(batch);
    let hidden = predictions.hidden(model)?;
    match model.frozen_output_weight() {
        Some(weight) if mlx_cpu_kernels::serve([&hidden, weight]) => {
            mlx_cpu_kernels::output_loss(&hidden, weight, &predictions.targets)
        }
        _ => Ok(loss_of_hidden(model, &hidden, &predictions)?.value),
    }
}

/// The loss of rows that are arrays already.
pub(super) fn loss_of_predictions(model: &CausalModel, predictions: &Predictions) -> Result<SummedLoss> {
    loss_of_hidden(model, &predictions.hidden(model)?, predictions)
}

/// The loss through the output layer of the last hidden states `[supervised, width]`.
pub(super) fn loss_of_hidden(model: &CausalModel, hidden: &Array, predictions: &Predictions) -> Result<SummedLoss> {
    let Predictions { positions, targets, .. } = predictions;
    let mut differentiable = Array::from_f32(0.0);
    let mut value = Array::from_f32(0.0);
    let frozen_output = model.frozen_output_weight();
    if let Some(weight) = frozen_output.filter(|weight| mlx_cpu_kernels::serve([hidden, weight])) {
        let loss = mlx_cpu_kernels::output_loss_and_gradient(&stop_gradient(hidden)?, weight, targets)?;
        return Ok(SummedLoss {
            differentiable: multiply(hidden, stop_gradient(&loss.gradient)?)?.sum(None)?,
            value: loss.sum,
        });
    }
    for chunk in chunks(positions.dim(0)) {
        let hidden = rows(hidden, &chunk)?;
        let targets = rows(targets, &chunk)?;
        let sum = match frozen_output {
            Some(weight) => frozen_output_loss(&hidden, &targets, weight)?,
            None => plain_loss(&model.output(&hidden)?.as_dtype(Dtype::Float32)?, &targets)?,
        };
        differentiable = differentiable.add(sum.differentiable)?;
        value = value.add(sum.value)?;
    }
    Ok(SummedLoss { differentiable, value })
}

fn plain_loss(logits: &Array, targets: &Array) -> Result<SummedLoss> {
    let sum = token_losses(logits, targets)?.sum(None)?;
    Ok(SummedLoss {
        differentiable: sum.clone(),
        value: sum,
    })
}

/// The cross-entropy `[positions, 1]` of each target.
fn token_losses(logits: &Array, targets: &Array) -> Result<Array> {
    subtract(logits.logsumexp_axis(-1, true)?, picked(logits, targets)?)
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
    // MLX's CPU sums add one after the other, which costs four digits over a vocabulary; a product adds in blocks.
    let sums = matmul(&exponentials, ones::<f32>(&[exponentials.dim(-1), 1])?)?;
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

/// Ranges of at most [`POSITIONS_PER_CHUNK`] positions that make up `total` of them.
fn chunks(total: i32) -> impl Iterator<Item = Range<i32>> {
    (0..total)
        .step_by(POSITIONS_PER_CHUNK as usize)
        .map(move |start| start..(start + POSITIONS_PER_CHUNK).min(total))
}

fn rows(array: &Array, range: &Range<i32>) -> Result<Array> {
    array.try_index(range.clone())
}

/// A part of a batch as arrays.
pub(super) struct Predictions {
    /// Token ids `[rows, longest]`, padded on the right.
    pub(super) tokens: Array,
    /// The document of each, where several share a row.
    pub(super) documents: Option<Array>,
    /// Index of each supervised prediction among the `rows * longest` positions.
    positions: Array,
    /// The token to predict at each of these positions.
    targets: Array,
}

impl Predictions {
    /// The last hidden states `[supervised, width]`: logits are made only where there is something to learn.
    fn hidden(&self, model: &CausalModel) -> Result<Array> {
        self.picked(&match &self.documents {
            None => model.hidden_states(&self.tokens)?,
            Some(documents) => model.hidden_states_of_documents(&self.tokens, documents)?,
        })
    }

    /// Of hidden states `[rows, longest, width]` those that predict something, `[supervised, width]`.
    pub(super) fn picked(&self, hidden: &Array) -> Result<Array> {
        let width = hidden.dim(-1);
        hidden.reshape(&[-1, width])?.take_axis(&self.positions, 0)
    }

    /// Tokens, positions, targets and, where there are any, documents.
    pub(super) fn into_arrays(self) -> Vec<Array> {
        let arrays = [self.tokens, self.positions, self.targets];
        arrays.into_iter().chain(self.documents).collect()
    }

    /// What [`Self::into_arrays`] gave.
    pub(super) fn from_arrays(arrays: &[Array], has_documents: bool) -> Result<Self> {
        match arrays {
            [tokens, positions, targets, documents @ ..] if documents.len() == usize::from(has_documents) => Ok(Self {
                tokens: tokens.clone(),
                documents: documents.first().cloned(),
                positions: positions.clone(),
                targets: targets.clone(),
            }),
            _ => Err(Exception::custom("rows are three arrays, and four with documents")),
        }
    }

    /// What the tokens may attend to.
    pub(super) fn context(&self, model: &CausalModel) -> Result<AttentionContext> {
        model.context(&self.tokens, self.documents.as_ref())
    }

    pub(super) fn of(batch: &Batch) -> Self {
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
        let shape = [batch.rows.len() as i32, fed as i32];
        let documents = batch.documents.as_ref().map(|documents| {
            let of_rows = documents.of_tokens.chunks(batch.columns.max(1));
            let fed: Vec<i32> = of_rows.flat_map(|row| &row[..fed]).copied().collect();
            Array::from_slice(&fed, &shape)
        });
        Self {
            tokens: Array::from_slice(&tokens, &shape),
            documents,
            positions: vector(&positions),
            targets: vector(&targets),
        }
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::Array;

    use super::Predictions;

    #[test]
    fn rows_are_read_back_only_from_as_many_arrays_as_they_were_given_as() {
        let arrays: Vec<Array> = (0..4).map(|value| Array::from_slice(&[value], &[1])).collect();
        let documents = |rows: Predictions| rows.documents.map(|array| array.as_slice::<i32>().to_vec());
        assert_eq!(
            documents(Predictions::from_arrays(&arrays, true).unwrap()),
            Some(vec![3])
        );
        assert_eq!(documents(Predictions::from_arrays(&arrays[..3], false).unwrap()), None);
        assert!(Predictions::from_arrays(&arrays, false).is_err());
        assert!(Predictions::from_arrays(&arrays[..3], true).is_err());
        assert!(Predictions::from_arrays(&arrays[..2], false).is_err());
    }
}
