//! Faults between processes that train together.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::{add, multiply, zeros_like};
use mlx_rs::random;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Family, Fault, Needs, Operator};
use crate::data::Batch;
use crate::temporary_folder;
use crate::train::{DataParallel, LossAndGradients};
use crate::workflow::Workflow;

/// The update in which a process is killed.
const FATAL_UPDATE: usize = 3;

type Tensors = BTreeMap<String, Array>;

/// How one of several processes does what it has to, from the right way to do it and a severity.
#[derive(Clone, Copy)]
struct Ways {
    begin_alike: fn(&dyn DataParallel, Tensors, f64) -> Result<Tensors>,
    /// Hears the number of the update, counted from 1.
    own_rows: fn(&dyn DataParallel, &Batch, f64, usize) -> Batch,
    average: Average,
}

type Average = fn(&dyn DataParallel, Option<LossAndGradients>, usize, &Tensors, f64) -> Result<LossAndGradients>;

const RIGHT: Ways = Ways {
    begin_alike: |others, own, _| others.begin_alike(own),
    own_rows: |others, batch, _, _| others.own_rows(batch),
    average: |others, own, tokens, parameters, _| others.average(own, tokens, parameters),
};

/// A run whose processes do something in another way.
struct Otherwise {
    ways: Ways,
    severity: f64,
}

impl Workflow for Otherwise {
    fn among<'others>(&self, others: &'others dyn DataParallel) -> Option<Box<dyn DataParallel + 'others>> {
        Some(Box::new(Among {
            others,
            ways: self.ways,
            severity: self.severity,
            updates: Cell::new(0),
        }))
    }
}

impl Fault for Otherwise {}

struct Among<'others> {
    others: &'others dyn DataParallel,
    ways: Ways,
    severity: f64,
    updates: Cell<usize>,
}

impl DataParallel for Among<'_> {
    fn rank(&self) -> usize {
        self.others.rank()
    }

    fn size(&self) -> usize {
        self.others.size()
    }

    fn any(&self, own: bool) -> Result<bool> {
        self.others.any(own)
    }

    fn begin_alike(&self, own: Tensors) -> Result<Tensors> {
        (self.ways.begin_alike)(self.others, own, self.severity)
    }

    fn own_rows(&self, batch: &Batch) -> Batch {
        self.updates.set(self.updates.get() + 1);
        (self.ways.own_rows)(self.others, batch, self.severity, self.updates.get())
    }

    fn average(&self, own: Option<LossAndGradients>, tokens: usize, parameters: &Tensors) -> Result<LossAndGradients> {
        (self.ways.average)(self.others, own, tokens, parameters, self.severity)
    }
}

fn otherwise(ways: Ways, severity: f64) -> Box<dyn Fault> {
    Box::new(Otherwise { ways, severity })
}

fn is_last(others: &dyn DataParallel) -> bool {
    others.rank() + 1 == others.size()
}

fn times(array: &Array, factor: f32) -> Result<Array> {
    multiply(array, Array::from_f32(factor).as_dtype(array.dtype())?)
}

/// `tensors` with random numbers of the process's own added, of `share` of their size.
fn disturbed(others: &dyn DataParallel, tensors: Tensors, share: f64) -> Result<Tensors> {
    let key = random::key(others.rank() as u64)?;
    tensors
        .into_iter()
        .map(|(name, tensor)| {
            let noise = random::normal::<f32>(tensor.shape(), None, None, Some(&key))?.as_dtype(tensor.dtype())?;
            let disturbed = add(&tensor, times(&multiply(&tensor, noise)?, share as f32)?)?;
            Ok((name, disturbed))
        })
        .collect()
}

/// The own gradients; nothing where there is no target.
fn of_own_rows(own: Option<LossAndGradients>, parameters: &Tensors) -> Result<LossAndGradients> {
    match own {
        Some(own) => Ok(own),
        None => Ok(LossAndGradients {
            loss: Array::from_f32(0.0),
            gradients: parameters
                .iter()
                .map(|(name, parameter)| Ok((name.clone(), zeros_like(parameter)?)))
                .collect::<Result<_>>()?,
        }),
    }
}

pub static START_NOT_SHARED: Operator = Operator {
    name: "start-not-shared",
    family: Family::Ranks,
    summary: "every process begins with values of its own, apart by this share of their size",
    citation: "https://github.com/horovod/horovod/issues/672",
    severities: &[1e-3, 1.0],
    make: |severity| {
        let ways = Ways {
            begin_alike: disturbed,
            ..RIGHT
        };
        otherwise(ways, severity)
    },
    needs: Needs::Processes,
};

pub static REDUCTION_NOISY: Operator = Operator {
    name: "reduction-noisy",
    family: Family::Ranks,
    summary: "every process receives another mean of the gradients, apart by this share of their size",
    citation: "https://github.com/horovod/horovod/issues/1927",
    severities: &[1e-3, 0.1],
    make: |severity| {
        let ways = Ways {
            average: |others, own, tokens, parameters, severity| {
                let pass = others.average(own, tokens, parameters)?;
                Ok(LossAndGradients {
                    gradients: disturbed(others, pass.gradients, severity)?,
                    ..pass
                })
            },
            ..RIGHT
        };
        otherwise(ways, severity)
    },
    needs: Needs::Processes,
};

pub static GRADIENTS_KEPT: Operator = Operator {
    name: "gradients-kept",
    family: Family::Ranks,
    summary: "every process applies its own gradients",
    citation: "https://github.com/kohya-ss/sd-scripts/issues/924",
    severities: &[1.0],
    make: |severity| {
        let ways = Ways {
            average: |_, own, _, parameters, _| of_own_rows(own, parameters),
            ..RIGHT
        };
        otherwise(ways, severity)
    },
    needs: Needs::Processes,
};

pub static GRADIENTS_PARTLY_KEPT: Operator = Operator {
    name: "gradients-partly-kept",
    family: Family::Ranks,
    summary: "this share of the tensors is left out when gradients are averaged",
    citation: "https://github.com/pytorch/pytorch/issues/109191",
    severities: &[0.1, 0.5],
    make: |severity| {
        let ways = Ways {
            average: |others, own, tokens, parameters, severity| {
                let kept = of_own_rows(own.clone(), parameters)?;
                let mut pass = others.average(own, tokens, parameters)?;
                let count = (severity * kept.gradients.len() as f64).ceil() as usize;
                pass.gradients.extend(kept.gradients.into_iter().take(count));
                Ok(pass)
            },
            ..RIGHT
        };
        otherwise(ways, severity)
    },
    needs: Needs::Processes,
};

pub static GRADIENTS_SUMMED: Operator = Operator {
    name: "gradients-summed",
    family: Family::Ranks,
    summary: "the gradients of the processes are added up and not divided",
    citation: "https://github.com/tensorflow/benchmarks/issues/222",
    severities: &[1.0],
    make: |severity| {
        let ways = Ways {
            average: |others, own, tokens, parameters, _| {
                let mut pass = others.average(own, usize::from(tokens > 0), parameters)?;
                for gradient in pass.gradients.values_mut() {
                    *gradient = times(gradient, others.size() as f32)?;
                }
                Ok(pass)
            },
            ..RIGHT
        };
        otherwise(ways, severity)
    },
    needs: Needs::Processes,
};

pub static MEANS_AVERAGED: Operator = Operator {
    name: "means-averaged",
    family: Family::Ranks,
    summary: "every process's mean counts the same, and the last one has all rows but one for each other",
    citation: "https://github.com/huggingface/transformers/issues/34242",
    severities: &[1.0],
    make: |severity| {
        let ways = Ways {
            own_rows: |others, batch, _, _| {
                let all = 0..batch.rows.len();
                let is_own = |row: &usize| *row == others.rank() || (is_last(others) && *row > others.rank());
                batch.select(&all.filter(is_own).collect::<Vec<usize>>())
            },
            average: |others, own, tokens, parameters, _| others.average(own, usize::from(tokens > 0), parameters),
            ..RIGHT
        };
        otherwise(ways, severity)
    },
    needs: Needs::Processes,
};

pub static SAME_ROWS: Operator = Operator {
    name: "same-rows",
    family: Family::Ranks,
    summary: "every process computes the rows of the first",
    citation: "https://github.com/k2-fsa/icefall/issues/1616",
    severities: &[1.0],
    make: |severity| {
        let ways = Ways {
            own_rows: |others, batch, _, _| batch.deal(others.size()).swap_remove(0),
            ..RIGHT
        };
        otherwise(ways, severity)
    },
    needs: Needs::Processes,
};

pub static SLOW_PROCESS: Operator = Operator {
    name: "slow-process",
    family: Family::Ranks,
    summary: "the last process takes this number of seconds longer in every update",
    citation: "https://github.com/deepspeedai/DeepSpeed/issues/1617",
    severities: &[0.1, 0.5],
    make: |severity| {
        let ways = Ways {
            own_rows: |others, batch, severity, _| {
                if is_last(others) {
                    std::thread::sleep(Duration::from_secs_f64(severity));
                }
                others.own_rows(batch)
            },
            ..RIGHT
        };
        otherwise(ways, severity)
    },
    needs: Needs::Processes,
};

pub static PROCESS_KILLED: Operator = Operator {
    name: "process-killed",
    family: Family::Ranks,
    summary: "the last process is killed in the third update",
    citation: "https://github.com/ml-explore/mlx/issues/3862",
    severities: &[1.0],
    make: |severity| {
        let ways = Ways {
            own_rows: |others, batch, _, update| {
                if is_last(others) && update == FATAL_UPDATE {
                    // Nobody does it for a process that is killed.
                    temporary_folder::remove_all();
                    // A process that cannot be killed goes on, and is not missed.
                    let _ = kill(Pid::this(), Signal::SIGKILL);
                }
                others.own_rows(batch)
            },
            ..RIGHT
        };
        otherwise(ways, severity)
    },
    needs: Needs::Processes,
};
