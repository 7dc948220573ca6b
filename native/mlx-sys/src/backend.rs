//! What the linked MLX library is and which devices it finds.

use std::ffi::CStr;

use crate::{
    mlx_cuda_is_available, mlx_device_free, mlx_device_new, mlx_get_default_device, mlx_get_default_stream,
    mlx_metal_is_available, mlx_stream_free, mlx_stream_new, mlx_string_data, mlx_string_free, mlx_string_new,
    mlx_synchronize, mlx_version,
};

/// Whether MLX can compute on a Metal device here.
pub fn metal_is_available() -> bool {
    let mut available = false;
    // SAFETY: the pointer is to a local that outlives the call; on failure the value stays false.
    unsafe { mlx_metal_is_available(&raw mut available) };
    available
}

/// Whether MLX can compute on a CUDA device here.
pub fn cuda_is_available() -> bool {
    let mut available = false;
    // SAFETY: as above.
    unsafe { mlx_cuda_is_available(&raw mut available) };
    available
}

/// Lets MLX evaluate a graph breadth first, whatever its width, unless the user has set the width.
///
/// By default MLX turns to depth first beyond a width of 20 arrays, and then works through the part of a graph that lies on
/// one CPU stream before it begins with the next, so that streams wait for each other. Call it before the first
/// evaluation, when MLX reads the setting.
pub fn evaluate_breadth_first() {
    const WIDTH: &str = "MLX_BFS_MAX_WIDTH";
    if std::env::var_os(WIDTH).is_none() {
        // SAFETY: a data race needs another thread in the C library's `getenv` at this moment; MLX, which alone reads
        // variables behind Rust's lock, has no thread before the first evaluation.
        unsafe { std::env::set_var(WIDTH, i32::MAX.to_string()) };
    }
}

/// Waits until the default stream of the default device has done its work.
pub fn synchronize() {
    // SAFETY: device and stream are made, filled, used and freed here; an unset handle is refused with a status.
    unsafe {
        let mut device = mlx_device_new();
        mlx_get_default_device(&raw mut device);
        let mut stream = mlx_stream_new();
        mlx_get_default_stream(&raw mut stream, device);
        mlx_synchronize(stream);
        mlx_stream_free(stream);
        mlx_device_free(device);
    }
}

/// The version of the linked MLX library; `None` when it does not say.
pub fn version() -> Option<String> {
    // SAFETY: the string is made, filled, copied and freed here; its data is NUL-terminated as long as it lives.
    unsafe {
        let mut text = mlx_string_new();
        let status = mlx_version(&raw mut text);
        let data = mlx_string_data(text);
        let version = (status == 0 && !data.is_null()).then(|| CStr::from_ptr(data).to_string_lossy().into_owned());
        mlx_string_free(text);
        version
    }
}
