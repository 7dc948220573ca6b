//! The time that passes inside matrix products, where this program computes them.

/// Why it is not measured.
pub(super) const WHY_NOT: &str = "this program computes matrix products itself on a Linux CPU only";

/// What products did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ProductTime {
    /// Seconds that the cores spent in them, divided by the number of cores.
    pub(super) seconds: f64,
    /// Multiplications and additions.
    pub(super) operations: f64,
}

/// Begins to measure.
#[cfg(target_os = "linux")]
pub(super) fn begin() {
    mlx_sys::blas::measure(true);
}

/// Ends the measurement; `None` where products are not this program's own.
#[cfg(target_os = "linux")]
#[expect(clippy::unnecessary_wraps, reason = "other systems have none")]
pub(super) fn end() -> Option<ProductTime> {
    let measured = mlx_sys::blas::measure(false);
    Some(ProductTime {
        // Products have every core where no lanes share them.
        seconds: measured.busy.as_secs_f64() / mlx_sys::blas::threads().max(1) as f64,
        operations: measured.operations as f64,
    })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn begin() {}

#[cfg(not(target_os = "linux"))]
pub(super) fn end() -> Option<ProductTime> {
    None
}
