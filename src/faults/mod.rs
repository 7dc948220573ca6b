//! Faults that real runs have had, done on purpose at the seams of a run.
//!
//! Nothing that measures or judges knows of this module: a fault has to show in what it does.

mod eos_only_labels;
mod frozen_optimizer;
/// What a fault is, and the list of them.
pub mod operator;
mod stale_generation;
mod stub_adapter;

use clap::ValueEnum;

use crate::workflow::{ReferenceWorkflow, Workflow};

/// A fault by the name it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// Adding adapters only sets a flag, so that all weights are trained.
    StubAdapter,
    /// The optimizer counts its steps but changes nothing.
    FrozenOptimizer,
    /// Generation uses a copy of the model from before training.
    StaleGeneration,
    /// Only stop tokens are targets of the loss.
    EosOnlyLabels,
}

impl Fault {
    /// A run with this fault and no other.
    pub fn workflow(self) -> Box<dyn Workflow> {
        match self {
            Self::StubAdapter => Box::new(stub_adapter::StubAdapter),
            Self::FrozenOptimizer => Box::new(frozen_optimizer::FrozenOptimizer),
            Self::StaleGeneration => Box::new(stale_generation::StaleGeneration),
            Self::EosOnlyLabels => Box::new(eos_only_labels::EosOnlyLabels),
        }
    }
}

/// The workflow with `fault`, or without any.
pub fn workflow(fault: Option<Fault>) -> Box<dyn Workflow> {
    fault.map_or_else(|| Box::new(ReferenceWorkflow) as Box<dyn Workflow>, Fault::workflow)
}
