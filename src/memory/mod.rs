//! How much memory there is, what MLX holds of it, and both while work goes on.

mod mlx;
mod monitor;
mod process;
mod system;

pub use mlx::MlxMemory;
pub use monitor::{MemoryMonitor, MemorySample, StepMemory};
pub use process::{ProcessMemory, process_memory};
pub use system::{SystemMemory, system_memory};
