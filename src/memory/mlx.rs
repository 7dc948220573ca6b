use mlx_rs::error::Result;
use mlx_rs::memory::{active_memory, cache_memory, peak_memory, reset_peak_memory};

/// What MLX's allocator holds in this process, in bytes.
///
/// The counters are those of the whole process: arrays of other threads are in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MlxMemory {
    /// In arrays.
    pub active: u64,
    /// The most in arrays since the peak was last reset.
    pub peak: u64,
    /// Kept for later arrays.
    pub cache: u64,
}

impl MlxMemory {
    /// Reads the counters.
    pub fn read() -> Result<Self> {
        let active = active_memory()? as u64;
        Ok(Self {
            active,
            // MLX sets the peak to zero at a reset, and raises it at the next allocation only.
            peak: (peak_memory()? as u64).max(active),
            cache: cache_memory()? as u64,
        })
    }

    /// Reads the counters and lets the peak begin anew.
    pub fn read_and_reset_peak() -> Result<Self> {
        let memory = Self::read()?;
        reset_peak_memory()?;
        Ok(memory)
    }
}
