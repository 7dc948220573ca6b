//! The loss and its gradients as one compiled function.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::module::update_parameters;
use mlx_rs::random::{RandomState, key, randint, with_random_state};
use mlx_rs::transforms::compile::compile;
use mlx_rs::transforms::keyed_value_and_grad;

use super::loss::{LossAndGradients, Predictions, loss_of_predictions};
use crate::data::Batch;
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::readback::scalar;

type Compiled = dyn FnMut(&[Array]) -> Result<Vec<Array>>;

/// The loss and gradients of one model, compiled by MLX: element-wise operations that follow each other become one kernel.
///
/// Everything that changes from step to step goes in as an argument: the trained values, the rows, and the key that
/// dropout draws from. What is frozen is part of the function. MLX compiles once for every shape of a batch, and on a CPU
/// calls a C++ compiler for it.
pub struct CompiledLoss {
    /// Names of the trained values, in the order of the arguments.
    names: Vec<String>,
    plain: RefCell<Box<Compiled>>,
    packed: RefCell<Box<Compiled>>,
}

impl CompiledLoss {
    /// Compiles nothing yet; `model` says what is frozen and what is trained.
    pub fn new(model: &CausalModel) -> Self {
        let trainable = ParameterSnapshot::capture_trainable(model).into_parameters();
        let names: Vec<String> = trainable.into_keys().collect();
        let build = |has_documents: bool| -> RefCell<Box<Compiled>> {
            let (model, names) = (model.clone(), names.clone());
            let pass = move |arguments: &[Array]| pass(&model, &names, arguments, has_documents);
            RefCell::new(Box::new(compile(pass, None)))
        };
        Self {
            plain: build(false),
            packed: build(true),
            names,
        }
    }

    /// As [`loss_and_gradients`](super::loss_and_gradients) of `model`, which differs from the one that this was made of in
    /// its trained values only.
    pub fn loss_and_gradients(&self, model: &CausalModel, batch: &Batch) -> Result<LossAndGradients> {
        let trainable = ParameterSnapshot::capture_trainable(model).into_parameters();
        let mut arguments = Vec::with_capacity(self.names.len() + 5);
        for name in &self.names {
            let value = trainable.get(name);
            arguments.push(
                value
                    .cloned()
                    .ok_or_else(|| Exception::custom("another model than was compiled"))?,
            );
        }
        let predictions = Predictions::of(batch);
        arguments.push(Array::from_f32(batch.supervised_tokens() as f32));
        let drawn = randint::<_, i32>(0, i32::MAX, &[1], None)?;
        arguments.push(key(scalar::<i32>(&drawn)?.unsigned_abs().into())?);
        let compiled = if predictions.documents.is_some() {
            &self.packed
        } else {
            &self.plain
        };
        arguments.extend(predictions.into_arrays());
        let mut values = compiled.borrow_mut()(&arguments)?.into_iter();
        let loss = values
            .next()
            .ok_or_else(|| Exception::custom("the loss has no value"))?;
        Ok(LossAndGradients {
            loss,
            gradients: self.names.iter().cloned().zip(values).collect(),
        })
    }
}

/// The loss, and the gradients in the order of `names`.
fn pass(model: &CausalModel, names: &[String], arguments: &[Array], has_documents: bool) -> Result<Vec<Array>> {
    let (parameters, rest) = arguments.split_at(names.len());
    let [supervised, random_key, rows @ ..] = rest else {
        return Err(Exception::custom("the compiled loss lost its arguments"));
    };
    let predictions = Predictions::from_arrays(rows, has_documents)?;
    let parameters: HashMap<Rc<str>, Array> = names
        .iter()
        .zip(parameters)
        .map(|(name, value)| (Rc::from(name.as_str()), value.clone()))
        .collect();
    let loss = |parameters: HashMap<Rc<str>, Array>, (): ()| -> Result<Vec<Array>> {
        let mut traced = model.clone();
        update_parameters(&mut traced, parameters);
        let sum = loss_of_predictions(&traced, &predictions)?;
        Ok(vec![
            sum.differentiable.divide(supervised)?,
            sum.value.divide(supervised)?,
        ])
    };
    let state = RandomState::from_key(random_key.clone());
    let (mut values, gradients) = with_random_state(state, || keyed_value_and_grad(loss)(parameters, ()))?;
    let gradients: BTreeMap<Rc<str>, Array> = gradients.into_iter().collect();
    let value = values.pop().ok_or_else(|| Exception::custom("the loss has no value"))?;
    let mut results = vec![value];
    for name in names {
        let gradient = gradients.get(name.as_str());
        results.push(
            gradient
                .cloned()
                .ok_or_else(|| Exception::custom("a value has no gradient"))?,
        );
    }
    Ok(results)
}
