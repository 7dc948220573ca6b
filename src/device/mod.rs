//! The machine: which backend MLX uses here, and how much memory there is.

mod apple_chip;
mod backend;
mod cuda_device;
mod machine;
mod memory_budget;
mod program;
mod selection;
mod start_up;
mod training_memory;

pub use backend::{Backend, BackendKind, PrecisionChoice, dtype_name, dtype_named};
pub use machine::describe_machine;
pub use memory_budget::{FittedStep, MemoryBudget};
pub use selection::{BackendError, Selection};
pub use training_memory::{TrainedPart, TrainingMemory, TrainingSize, fitting_batch};
