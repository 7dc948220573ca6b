//! The machine: which backend MLX uses here, and how much memory there is.

mod backend;
mod memory;
mod selection;
mod start_up;

pub use backend::{Backend, BackendKind, PrecisionChoice, dtype_name, dtype_named};
pub use memory::{SystemMemory, TrainingSize, fitting_batch, predicted_training_bytes, system_memory};
pub use selection::{BackendError, Selection};
