//! Faults in the loss and its gradients.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use mlx_rs::error::{Exception, Result};
use mlx_rs::module::update_parameters;
use mlx_rs::ops::indexing::take_along_axis;
use mlx_rs::ops::{add, divide, multiply, square, subtract, zeros_like};
use mlx_rs::transforms::keyed_value_and_grad;
use mlx_rs::{Array, Dtype, random};

use super::{Family, Fault, Needs, Operator};
use crate::data::Batch;
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::train::{Lanes, LossAndGradients, loss_and_gradients};
use crate::workflow::Workflow;

/// A loss that something computes in another way.
struct Computed<F>(F);

impl<F: Fn(&CausalModel, &Batch, &Lanes) -> Result<LossAndGradients>> Workflow for Computed<F> {
    fn loss_and_gradients(&self, model: &CausalModel, batch: &Batch, lanes: &Lanes) -> Result<LossAndGradients> {
        (self.0)(model, batch, lanes)
    }
}

impl<F: Fn(&CausalModel, &Batch, &Lanes) -> Result<LossAndGradients>> Fault for Computed<F> {}

/// Computes as it should be and then changes loss and gradients; `change` is given the step, counted from 1.
fn computed_then(change: impl Fn(usize, &mut LossAndGradients) -> Result<()> + 'static) -> Box<dyn Fault> {
    let step = Cell::new(0);
    Box::new(Computed(move |model: &CausalModel, batch: &Batch, lanes: &Lanes| {
        step.set(step.get() + 1);
        let mut pass = loss_and_gradients(model, batch, lanes)?;
        change(step.get(), &mut pass)?;
        Ok(pass)
    }))
}

fn scale_by(gradients: &mut BTreeMap<String, Array>, factor: f64) -> Result<()> {
    for gradient in gradients.values_mut() {
        *gradient = multiply(&*gradient, Array::from_f32(factor as f32).as_dtype(gradient.dtype())?)?;
    }
    Ok(())
}

pub static CAPTURED_CONSTANTS: Operator = Operator {
    name: "captured-constants",
    family: Family::Loss,
    summary: "the model's forward pass lies outside the differentiated function, so that all gradients are zero",
    citation: "https://github.com/Goekdeniz-Guelmez/mlx-lm-lora/issues/25",
    severities: &[1.0],
    make: |_| computed_then(|_, pass| scale_by(&mut pass.gradients, 0.0)),
    needs: Needs::Adapters,
};

pub static GRADIENTS_MISSING: Operator = Operator {
    name: "gradients-missing",
    family: Family::Loss,
    summary: "this share of the tensors gets a gradient of zero",
    citation: "https://github.com/unslothai/unsloth/issues/5230",
    severities: &[0.1, 0.5],
    make: |share| {
        computed_then(move |_, pass| {
            let reached = |count: usize| (count as f64 * share).floor();
            for (index, gradient) in pass.gradients.values_mut().enumerate() {
                if reached(index + 1) > reached(index) {
                    *gradient = zeros_like(&*gradient)?;
                }
            }
            Ok(())
        })
    },
    needs: Needs::Adapters,
};

pub static GRADIENTS_NOISY: Operator = Operator {
    name: "gradients-noisy",
    family: Family::Loss,
    summary: "a kernel returns gradients with noise of this many times their own size",
    citation: "https://github.com/unslothai/unsloth-zoo/pull/754",
    severities: &[1.0, 3.0],
    make: |strength| {
        computed_then(move |step, pass| {
            let mut key = random::key(step as u64)?;
            for gradient in pass.gradients.values_mut() {
                let (next, this) = random::split(&key, 2)?;
                key = next;
                let size = square(gradient.as_dtype(Dtype::Float32)?)?.mean(None)?.sqrt()?;
                let noise = random::normal::<f32>(gradient.shape(), None, None, &this)?;
                let noise = multiply(multiply(noise, size)?, Array::from_f32(strength as f32))?;
                *gradient = add(&*gradient, noise.as_dtype(gradient.dtype())?)?;
            }
            Ok(())
        })
    },
    needs: Needs::Adapters,
};

pub static GRADIENTS_NOT_CLEARED: Operator = Operator {
    name: "gradients-not-cleared",
    family: Family::Loss,
    summary: "each step's gradients are added to those of the steps before",
    citation: "https://github.com/ml-explore/mlx-lm/issues/1413",
    severities: &[1.0],
    make: |_| {
        let sums: RefCell<BTreeMap<String, Array>> = RefCell::default();
        computed_then(move |_, pass| {
            let mut sums = sums.borrow_mut();
            for (name, gradient) in &mut pass.gradients {
                if let Some(sum) = sums.get(name) {
                    *gradient = add(&*gradient, sum)?;
                }
                sums.insert(name.clone(), gradient.clone());
            }
            Ok(())
        })
    },
    needs: Needs::Adapters,
};

pub static LOSS_NEGATED: Operator = Operator {
    name: "loss-negated",
    family: Family::Loss,
    summary: "gradients are those of the negated loss",
    citation: "https://github.com/open-unlearning/open-unlearning/issues/178",
    severities: &[1.0],
    make: |_| computed_then(|_, pass| scale_by(&mut pass.gradients, -1.0)),
    needs: Needs::Adapters,
};

pub static GRADIENT_NOT_A_NUMBER: Operator = Operator {
    name: "gradient-not-a-number",
    family: Family::Numeric,
    summary: "one tensor's gradient is NaN from this step on",
    citation: "https://github.com/ml-explore/mlx-lm/issues/1658",
    severities: &[3.0],
    make: |first| {
        computed_then(move |step, pass| {
            if step >= first as usize
                && let Some(gradient) = pass.gradients.values_mut().next()
            {
                *gradient = multiply(&*gradient, Array::from_f32(f32::NAN).as_dtype(gradient.dtype())?)?;
            }
            Ok(())
        })
    },
    needs: Needs::Adapters,
};

pub static GRADIENT_SPIKE: Operator = Operator {
    name: "gradient-spike",
    family: Family::Numeric,
    summary: "the gradients of one step are this many times too large",
    citation: "https://github.com/ml-explore/mlx-lm/issues/1659",
    severities: &[30.0, 1000.0],
    make: |factor| {
        computed_then(move |step, pass| {
            const SPIKE_STEP: usize = 4;
            if step == SPIKE_STEP {
                scale_by(&mut pass.gradients, factor)?;
            }
            Ok(())
        })
    },
    needs: Needs::Adapters,
};

/// How a faulty loss reads a batch.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// How far the target lies behind the position that predicts it; 1 is right.
    offset: usize,
    /// Whether prompts count.
    prompts: bool,
    /// Padding targets that count behind each shorter row.
    padding: usize,
    /// What the sum is divided by.
    divisor: Divisor,
}

#[derive(Debug, Clone, Copy)]
enum Divisor {
    Targets,
    Rows,
    Positions,
}

const RIGHT: Reading = Reading {
    offset: 1,
    prompts: false,
    padding: 0,
    divisor: Divisor::Targets,
};

impl Reading {
    fn fault(self) -> Box<dyn Fault> {
        Box::new(Computed(move |model: &CausalModel, batch: &Batch, _: &Lanes| {
            self.loss_and_gradients(model, batch)
        }))
    }

    fn counts(self, batch: &Batch, row: usize, column: usize) -> bool {
        let length = batch.lengths[row];
        let padding = column >= length && column < length + self.padding;
        let prompt = self.prompts && column > 0 && column < length;
        padding || prompt || batch.mask[row * batch.columns + column] > 0.0
    }

    /// Weights `[rows, columns]` of the positions that predict, and the targets at them.
    fn weights(self, batch: &Batch) -> (Array, Array) {
        let shape = [batch.rows.len() as i32, batch.columns as i32];
        let mut weights = vec![0.0; batch.tokens.len()];
        let mut targets = vec![0; batch.tokens.len()];
        for row in 0..batch.rows.len() {
            let counted: Vec<usize> = (self.offset..batch.columns)
                .filter(|&column| self.counts(batch, row, column))
                .collect();
            for &column in &counted {
                let position = row * batch.columns + column - self.offset;
                targets[position] = batch.tokens[row * batch.columns + column];
                weights[position] = match self.divisor {
                    Divisor::Rows => 1.0 / counted.len() as f32,
                    Divisor::Targets | Divisor::Positions => 1.0,
                };
            }
        }
        let total: f32 = match self.divisor {
            Divisor::Positions => batch.tokens.len() as f32,
            Divisor::Targets | Divisor::Rows => weights.iter().sum(),
        };
        for weight in &mut weights {
            *weight /= total;
        }
        (Array::from_slice(&weights, &shape), Array::from_slice(&targets, &shape))
    }

    fn loss_and_gradients(self, model: &CausalModel, batch: &Batch) -> Result<LossAndGradients> {
        let trainable: HashMap<Rc<str>, Array> = ParameterSnapshot::capture_trainable(model)
            .into_parameters()
            .into_iter()
            .map(|(name, array)| (Rc::from(name), array))
            .collect();
        let tokens = Array::from_slice(&batch.tokens, &[batch.rows.len() as i32, batch.columns as i32]);
        let (weights, targets) = self.weights(batch);
        let loss = |parameters: HashMap<Rc<str>, Array>, (): ()| -> Result<Vec<Array>> {
            let mut traced = model.clone();
            update_parameters(&mut traced, parameters);
            let logits = traced.logits(&tokens)?.as_dtype(Dtype::Float32)?;
            let picked = take_along_axis(&logits, targets.expand_dims(-1)?, -1)?.squeeze_axes(&[-1])?;
            let losses = subtract(logits.logsumexp_axis(-1, false)?, picked)?;
            Ok(vec![multiply(losses, &weights)?.sum(None)?])
        };
        let (mut values, gradients) = keyed_value_and_grad(loss)(trainable, ())?;
        Ok(LossAndGradients {
            loss: values.pop().ok_or_else(|| Exception::custom("the loss has no value"))?,
            gradients: gradients
                .into_iter()
                .map(|(name, gradient)| (name.to_string(), gradient))
                .collect(),
        })
    }
}

pub static LABELS_NOT_SHIFTED: Operator = Operator {
    name: "labels-not-shifted",
    family: Family::Loss,
    summary: "each position is trained to predict its own token",
    citation: "https://github.com/macrocosm-os/pretraining/issues/64",
    severities: &[1.0],
    make: |_| Reading { offset: 0, ..RIGHT }.fault(),
    needs: Needs::Adapters,
};

pub static LABELS_SHIFTED_TWICE: Operator = Operator {
    name: "labels-shifted-twice",
    family: Family::Loss,
    summary: "each position is trained to predict the token after the next",
    citation: "https://github.com/huggingface/transformers/issues/44642",
    severities: &[1.0],
    make: |_| Reading { offset: 2, ..RIGHT }.fault(),
    needs: Needs::Adapters,
};

pub static LOSS_COUNTS_PROMPTS: Operator = Operator {
    name: "loss-counts-prompts",
    family: Family::Loss,
    summary: "the loss ignores the mask",
    citation: "https://github.com/ml-explore/mlx-examples/issues/1314",
    severities: &[1.0],
    make: |_| Reading { prompts: true, ..RIGHT }.fault(),
    needs: Needs::Adapters,
};

pub static LOSS_DIVIDED_BY_POSITIONS: Operator = Operator {
    name: "loss-divided-by-positions",
    family: Family::Loss,
    summary: "the loss is divided by all positions of the batch instead of the targets",
    citation: "https://github.com/huggingface/transformers/issues/35203",
    severities: &[1.0],
    make: |_| {
        Reading {
            divisor: Divisor::Positions,
            ..RIGHT
        }
        .fault()
    },
    needs: Needs::Adapters,
};

pub static LOSS_AVERAGED_BY_ROW: Operator = Operator {
    name: "loss-averaged-by-row",
    family: Family::Loss,
    summary: "the loss is the mean of the rows' means, so that short answers weigh more",
    citation: "https://github.com/meta-pytorch/torchtune/issues/1875",
    severities: &[1.0],
    make: |_| {
        Reading {
            divisor: Divisor::Rows,
            ..RIGHT
        }
        .fault()
    },
    needs: Needs::Adapters,
};

pub static ONE_PAD_TARGET: Operator = Operator {
    name: "one-pad-target",
    family: Family::Loss,
    summary: "one padding token behind each shorter row is a target, as stock mlx-lm has it",
    citation: "https://github.com/ml-explore/mlx-lm/pull/1697",
    severities: &[1.0],
    make: |padding| {
        Reading {
            padding: padding as usize,
            ..RIGHT
        }
        .fault()
    },
    needs: Needs::Adapters,
};

pub static GRADIENTS_SHRINKING: Operator = Operator {
    name: "gradients-shrinking",
    family: Family::Loss,
    summary: "gradients are divided by this many times the number of the step",
    citation: "https://github.com/ml-explore/mlx-lm/issues/1413",
    severities: &[1.0],
    make: |factor| {
        computed_then(move |step, pass| {
            let divisor = Array::from_f32((factor * step as f64) as f32);
            for gradient in pass.gradients.values_mut() {
                *gradient = divide(&*gradient, divisor.as_dtype(gradient.dtype())?)?;
            }
            Ok(())
        })
    },
    needs: Needs::Adapters,
};
