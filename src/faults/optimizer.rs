//! Faults between gradients and parameters.

use std::cell::RefCell;
use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::{add, multiply, subtract};

use super::{Family, Fault, Needs, Operator};
use crate::train::{AdamW, AdamWSettings, Optimizer, Schedule};
use crate::workflow::Workflow;

type Tensors = BTreeMap<String, Array>;

/// An optimizer that something makes.
struct Made<F>(F);

impl<F: Fn(AdamWSettings) -> Box<dyn Optimizer>> Workflow for Made<F> {
    fn optimizer(&self, settings: AdamWSettings) -> Box<dyn Optimizer> {
        (self.0)(settings)
    }
}

impl<F: Fn(AdamWSettings) -> Box<dyn Optimizer>> Fault for Made<F> {}

/// Adam with other settings than were asked for.
fn adam_with(change: impl Fn(&mut AdamWSettings) + 'static) -> Box<dyn Fault> {
    Box::new(Made(move |mut settings: AdamWSettings| {
        change(&mut settings);
        Box::new(AdamW::new(settings)) as Box<dyn Optimizer>
    }))
}

/// Adam whose every update is made by something else.
struct Replaced<F> {
    adam: AdamW,
    settings: AdamWSettings,
    update: F,
    steps: u64,
}

impl<F: FnMut(&mut AdamW, AdamWSettings, &mut Tensors, &Tensors, f64) -> Result<()>> Optimizer for Replaced<F> {
    fn name(&self) -> &'static str {
        self.adam.name()
    }

    fn update(&mut self, parameters: &mut Tensors, gradients: &Tensors, learning_rate: f64) -> Result<()> {
        self.steps += 1;
        (self.update)(&mut self.adam, self.settings, parameters, gradients, learning_rate)
    }

    fn step_count(&self) -> u64 {
        self.steps
    }

    fn state(&self) -> Vec<&Array> {
        self.adam.state()
    }
}

/// A fault whose optimizer makes every update by `update`.
fn updated_by(
    update: impl Fn(&mut AdamW, AdamWSettings, &mut Tensors, &Tensors, f64) -> Result<()> + Clone + 'static,
) -> Box<dyn Fault> {
    Box::new(Made(move |settings: AdamWSettings| {
        Box::new(Replaced {
            adam: AdamW::new(settings),
            settings,
            update: update.clone(),
            steps: 0,
        }) as Box<dyn Optimizer>
    }))
}

fn times(array: &Array, factor: f64) -> Result<Array> {
    multiply(array, Array::from_f32(factor as f32).as_dtype(array.dtype())?)
}

pub static FROZEN_OPTIMIZER: Operator = Operator {
    name: "frozen-optimizer",
    family: Family::Optimizer,
    summary: "the optimizer counts its steps but changes nothing",
    citation: "https://github.com/ml-explore/mlx-examples/issues/869",
    severities: &[1.0],
    make: |_| updated_by(|_, _, _, _, _| Ok(())),
    needs: Needs::Adapters,
};

pub static HIDDEN_FACTOR: Operator = Operator {
    name: "hidden-factor",
    family: Family::Optimizer,
    summary: "updates use this many times the learning rate",
    citation: "https://github.com/hiyouga/LlamaFactory/issues/4014",
    severities: &[2.0, 10.0],
    make: |factor| {
        updated_by(move |adam, _, parameters, gradients, rate| adam.update(parameters, gradients, rate * factor))
    },
    needs: Needs::Adapters,
};

pub static UPHILL: Operator = Operator {
    name: "uphill",
    family: Family::Optimizer,
    summary: "updates are added where they should be subtracted",
    citation: "https://github.com/neobundy/Deep-Dive-Into-AI-With-MLX-PyTorch/issues/7",
    severities: &[1.0],
    make: |_| {
        updated_by(|adam, _, parameters, gradients, rate| {
            let negated = gradients
                .iter()
                .map(|(name, gradient)| Ok((name.clone(), times(gradient, -1.0)?)))
                .collect::<Result<Tensors>>()?;
            adam.update(parameters, &negated, rate)
        })
    },
    needs: Needs::Adapters,
};

pub static EXTRA_DECAY: Operator = Operator {
    name: "extra-decay",
    family: Family::Optimizer,
    summary: "weight decay is this number instead of the one in the settings",
    citation: "https://github.com/ml-explore/mlx-lm/issues/765",
    severities: &[1.0, 10.0],
    make: |decay| adam_with(move |settings| settings.weight_decay = decay as f32),
    needs: Needs::Adapters,
};

pub static LARGE_EPSILON: Operator = Operator {
    name: "large-epsilon",
    family: Family::Numeric,
    summary: "epsilon is this number, so that small gradients hardly move anything",
    citation: "https://github.com/ml-explore/mlx/issues/1542",
    severities: &[1e-3, 1.0],
    make: |epsilon| adam_with(move |settings| settings.epsilon = epsilon as f32),
    needs: Needs::Adapters,
};

pub static MOMENTS_FORGOTTEN: Operator = Operator {
    name: "moments-forgotten",
    family: Family::Optimizer,
    summary: "the optimizer is made anew at every step",
    citation: "https://github.com/ml-explore/mlx/issues/1259",
    severities: &[1.0],
    make: |_| {
        updated_by(|adam, settings, parameters, gradients, rate| {
            *adam = AdamW::new(settings);
            adam.update(parameters, gradients, rate)
        })
    },
    needs: Needs::Adapters,
};

pub static STALE_GRADIENTS: Operator = Operator {
    name: "stale-gradients",
    family: Family::Optimizer,
    summary: "every step applies the gradients of the first one",
    citation: "https://github.com/ml-explore/mlx/issues/653",
    severities: &[1.0],
    make: |_| {
        Box::new(Made(|settings: AdamWSettings| {
            let first: RefCell<Option<Tensors>> = RefCell::default();
            Box::new(Replaced {
                adam: AdamW::new(settings),
                settings,
                update: move |adam: &mut AdamW, _, parameters: &mut Tensors, gradients: &Tensors, rate| {
                    let mut first = first.borrow_mut();
                    adam.update(parameters, first.get_or_insert_with(|| gradients.clone()), rate)
                },
                steps: 0,
            }) as Box<dyn Optimizer>
        }))
    },
    needs: Needs::Adapters,
};

pub static SUMS_KEPT: Operator = Operator {
    name: "sums-kept",
    family: Family::Optimizer,
    summary: "the optimizer adds up the gradients of all steps",
    citation: "https://github.com/ml-explore/mlx-lm/issues/1413",
    severities: &[1.0],
    make: |_| {
        Box::new(Made(|settings: AdamWSettings| {
            let sums: RefCell<Tensors> = RefCell::default();
            Box::new(Replaced {
                adam: AdamW::new(settings),
                settings,
                update: move |adam: &mut AdamW, _, parameters: &mut Tensors, gradients: &Tensors, rate| {
                    let mut sums = sums.borrow_mut();
                    for (name, gradient) in gradients {
                        let sum = match sums.get(name) {
                            Some(sum) => add(sum, gradient)?,
                            None => gradient.clone(),
                        };
                        sums.insert(name.clone(), sum);
                    }
                    adam.update(parameters, &sums, rate)
                },
                steps: 0,
            }) as Box<dyn Optimizer>
        }))
    },
    needs: Needs::Adapters,
};

pub static PLAIN_DESCENT: Operator = Operator {
    name: "plain-descent",
    family: Family::Optimizer,
    summary: "the update is the learning rate times the gradient, without Adam's moments",
    citation: "https://github.com/ml-explore/mlx-examples/issues/1314",
    severities: &[1.0],
    make: |_| {
        updated_by(|_, _, parameters, gradients, rate| {
            for (name, parameter) in parameters {
                if let Some(gradient) = gradients.get(name) {
                    *parameter = subtract(&*parameter, times(gradient, rate)?)?;
                }
            }
            Ok(())
        })
    },
    needs: Needs::Adapters,
};

pub static STEPS_MISCOUNTED: Operator = Operator {
    name: "steps-miscounted",
    family: Family::Optimizer,
    summary: "only every other step updates anything",
    citation: "https://github.com/ml-explore/mlx-lm/issues/1413",
    severities: &[2.0],
    make: |every| {
        Box::new(Made(move |settings: AdamWSettings| {
            Box::new(Skipping {
                adam: AdamW::new(settings),
                every: every as u64,
                calls: 0,
            }) as Box<dyn Optimizer>
        }))
    },
    needs: Needs::Adapters,
};

/// Adam that updates at every n-th call only, and counts only those.
struct Skipping {
    adam: AdamW,
    every: u64,
    calls: u64,
}

impl Optimizer for Skipping {
    fn name(&self) -> &'static str {
        self.adam.name()
    }

    fn update(&mut self, parameters: &mut Tensors, gradients: &Tensors, learning_rate: f64) -> Result<()> {
        self.calls += 1;
        if self.calls.is_multiple_of(self.every) {
            self.adam.update(parameters, gradients, learning_rate)?;
        }
        Ok(())
    }

    fn step_count(&self) -> u64 {
        self.adam.step_count()
    }

    fn state(&self) -> Vec<&Array> {
        self.adam.state()
    }
}

pub static MEMORY_LEAK: Operator = Operator {
    name: "memory-leak",
    family: Family::Memory,
    summary: "every step keeps this many copies of its gradients for ever",
    citation: "https://github.com/ml-explore/mlx-lm/issues/1185",
    severities: &[1.0, 4.0],
    make: |copies| {
        Box::new(Made(move |settings: AdamWSettings| {
            let kept: RefCell<Vec<Array>> = RefCell::default();
            Box::new(Replaced {
                adam: AdamW::new(settings),
                settings,
                update: move |adam: &mut AdamW, _, parameters: &mut Tensors, gradients: &Tensors, rate| {
                    for copy in 0..copies as usize {
                        for gradient in gradients.values() {
                            // Another value, so that it is another buffer.
                            let leaked = times(gradient, 2.0 + copy as f64)?;
                            leaked.eval()?;
                            kept.borrow_mut().push(leaked);
                        }
                    }
                    adam.update(parameters, gradients, rate)
                },
                steps: 0,
            }) as Box<dyn Optimizer>
        }))
    },
    needs: Needs::Adapters,
};

/// A schedule that something changes.
struct Scheduled<F>(F);

impl<F: Fn(Schedule) -> Schedule> Workflow for Scheduled<F> {
    fn schedule(&self, schedule: Schedule) -> Schedule {
        (self.0)(schedule)
    }
}

impl<F: Fn(Schedule) -> Schedule> Fault for Scheduled<F> {}

pub static LEARNING_RATE_IGNORED: Operator = Operator {
    name: "learning-rate-ignored",
    family: Family::Optimizer,
    summary: "the run trains with this many times the learning rate in its settings",
    citation: "https://github.com/ml-explore/mlx-examples/issues/1196",
    severities: &[0.5, 0.1],
    make: |factor| {
        Box::new(Scheduled(move |schedule: Schedule| Schedule {
            peak: schedule.peak * factor,
            ..schedule
        }))
    },
    needs: Needs::Adapters,
};
