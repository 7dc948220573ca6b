//! Which state is live, and whether it survives saving.

use std::collections::BTreeMap;

use mlx_rs::error::Result;
use mlx_rs::ops::ne;
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use crate::evidence::{Evaluation, EvaluationMeans, GenerationBinding};
use crate::model::CausalModel;
use crate::param_diff::{bits, same_buffer};
use crate::param_snapshot::ParameterSnapshot;
use crate::readback::{largest_magnitude, scalar};
use crate::train::Optimizer;

/// Largest absolute difference between two arrays of logits; `None` when it is not finite.
pub fn largest_difference(left: &Array, right: &Array) -> Result<Option<f64>> {
    let left = left.as_dtype(Dtype::Float32)?;
    let difference = largest_magnitude(&left.subtract(right.as_dtype(Dtype::Float32)?)?)?;
    Ok(difference.is_finite().then_some(f64::from(difference)))
}

/// The logits of one row from the base, the model that training left, and the model that generates.
#[derive(Debug)]
pub struct ComparedLogits<'run> {
    /// From the base.
    pub base: &'run Array,
    /// From the model that training left.
    pub trained: &'run Array,
    /// From the model that generates.
    pub generating: &'run Array,
}

/// Compares the model that generates with the one that training left.
pub fn generation_binding(
    generating: &CausalModel,
    trained: &CausalModel,
    logits: &ComparedLogits<'_>,
) -> Result<GenerationBinding> {
    let left = ParameterSnapshot::capture(trained);
    let held = ParameterSnapshot::capture(generating);
    let mut same_object = 0;
    let mut stale = Vec::new();
    for (name, array) in left.parameters() {
        match held.parameters().get(name) {
            Some(counterpart) if same_buffer(counterpart, array)? => same_object += 1,
            Some(counterpart) if same_values(counterpart, array)? => {}
            _ => stale.push(name.clone()),
        }
    }
    Ok(GenerationBinding {
        parameters: held.parameters().len(),
        same_object,
        stale: stale.into_iter().collect(),
        difference_from_trained: largest_difference(logits.generating, logits.trained)?,
        difference_from_base: largest_difference(logits.generating, logits.base)?,
        trained_from_base: largest_difference(logits.trained, logits.base)?,
    })
}

/// Whether two arrays hold the same bits.
pub fn same_values(left: &Array, right: &Array) -> Result<bool> {
    if same_buffer(left, right)? {
        return Ok(true);
    }
    if left.shape() != right.shape() || left.dtype() != right.dtype() {
        return Ok(false);
    }
    scalar::<bool>(&ne(bits(left)?, bits(right)?)?.any(None)?).map(|differs| !differs)
}

/// Forces MLX's pending work by each means in turn and looks whether any trainable parameter differs afterwards.
pub fn evaluations(model: &CausalModel, optimizer: &dyn Optimizer) -> Result<Vec<Evaluation>> {
    let trainable = ParameterSnapshot::capture_trainable(model).into_parameters();
    let mut before = fingerprints(&trainable)?;
    let mut evaluations = Vec::new();
    for means in [
        EvaluationMeans::Parameters,
        EvaluationMeans::OptimizerState,
        EvaluationMeans::Both,
        EvaluationMeans::Synchronize,
    ] {
        match means {
            EvaluationMeans::Parameters => eval(trainable.values())?,
            EvaluationMeans::OptimizerState => eval(optimizer.state())?,
            EvaluationMeans::Both => eval(trainable.values().chain(optimizer.state()))?,
            EvaluationMeans::Synchronize => mlx_sys::backend::synchronize(),
        }
        let after = fingerprints(&trainable)?;
        let changed = after.iter().filter(|(name, sum)| before.get(*name) != Some(sum));
        evaluations.push(Evaluation {
            means,
            changed: changed.map(|(name, _)| name.clone()).collect(),
        });
        before = after;
    }
    Ok(evaluations)
}

/// A sum over each parameter's bits, as MLX sees it at this moment.
fn fingerprints(parameters: &BTreeMap<String, Array>) -> Result<BTreeMap<String, u32>> {
    let sums = parameters
        .iter()
        .map(|(name, array)| Ok((name, bits(array)?.as_dtype(Dtype::Uint32)?.sum(None)?)))
        .collect::<Result<Vec<_>>>()?;
    eval(sums.iter().map(|(_, sum)| sum))?;
    sums.into_iter()
        .map(|(name, sum)| Ok((name.clone(), scalar(&sum)?)))
        .collect()
}
