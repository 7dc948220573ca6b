//! Numbers read back from the device.

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, ArrayElement, Dtype};

/// The values of an array, row by row.
pub fn vector<T: ArrayElement + Clone>(array: &Array) -> Result<Vec<T>> {
    array
        .contiguous()?
        .to_vec_exact::<T>()
        .map_err(|error| Exception::custom(error.to_string()))
}

/// The value of a scalar array of type `T`.
pub fn scalar<T: ArrayElement>(array: &Array) -> Result<T> {
    array
        .try_item_exact()
        .map_err(|error| Exception::custom(error.to_string()))
}

/// The largest absolute value, in f32; NaN when there is one.
pub fn largest_magnitude(array: &Array) -> Result<f32> {
    let magnitudes = if mlx_cpu_kernels::serve([array]) {
        mlx_cpu_kernels::largest_magnitudes(array)?
    } else {
        array.abs()?
    };
    scalar(&magnitudes.max(None)?.as_dtype(Dtype::Float32)?)
}

/// Whether every value is finite; integers, as packed weights are, always are.
pub fn is_finite(array: &Array) -> Result<bool> {
    match array.dtype() {
        Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 => Ok(largest_magnitude(array)?.is_finite()),
        _ => Ok(true),
    }
}
