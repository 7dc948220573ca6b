//! The one macOS system call that mlx-rs makes, for every other system.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970, from which mlx-rs seeds its random numbers.
#[unsafe(no_mangle)]
extern "C" fn mach_approximate_time() -> u64 {
    // A clock set before 1970 still gives a seed.
    let elapsed = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(elapsed) => elapsed,
        Err(before_epoch) => before_epoch.duration(),
    };
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
