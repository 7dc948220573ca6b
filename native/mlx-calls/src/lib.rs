//! Arrays from functions of MLX's C layer that mlx-rs does not have.

use std::ffi::c_int;
use std::sync::Once;

use mlx_rs::Array;
use mlx_sys::{mlx_array, mlx_array_free, mlx_array_new};

/// The array that `call` puts where it is told; `None` where it returns another status than 0.
pub fn array_of(call: impl FnOnce(*mut mlx_array) -> c_int) -> Option<Array> {
    report_errors();
    // SAFETY: a handle without an array, which the call fills; it is freed here, or owned by what is returned.
    let mut handle = unsafe { mlx_array_new() };
    if call(&raw mut handle) == 0 {
        // SAFETY: the call succeeded, so the handle has an array, and nobody else has the handle.
        Some(unsafe { Array::from_ptr(handle) })
    } else {
        // SAFETY: it was made here and is freed once.
        unsafe { mlx_array_free(handle) };
        None
    }
}

/// Has MLX report errors by their status instead of ending the process, as any guarded operation of mlx-rs does at first.
pub fn report_errors() {
    static REPORTED: Once = Once::new();
    REPORTED.call_once(|| drop(Array::from_int(0).clone()));
}
