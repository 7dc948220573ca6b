//! The machine: which backend MLX uses here, and how much memory there is.

mod backend;
mod memory_budget;
mod selection;
mod start_up;
mod training_memory;

pub use backend::{Backend, BackendKind, PrecisionChoice, dtype_name, dtype_named};
pub use memory_budget::{FittedStep, MemoryBudget};
pub use selection::{BackendError, Selection};
pub use training_memory::{TrainedPart, TrainingMemory, TrainingSize, fitting_batch};
