//! Systems whose MLX needs no operations of ours: nothing is served, and who asks all the same gets an error.

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};

use crate::{AdamWFactors, Adapter, Gate, OutputLoss, Reach, Rotation};

fn refused<T>() -> Result<T> {
    Err(Exception::custom("this system has no operations of its own"))
}

/// Nothing to switch.
pub fn set_serving(_: bool) -> bool {
    false
}

/// Whether operations serve arrays here.
pub fn serve<'array>(_: impl IntoIterator<Item = &'array Array>) -> bool {
    false
}

/// See the system that has it.
pub fn linear(_: &Array, _: &Array, _: Option<&Array>, _: Option<Adapter<'_>>) -> Result<Array> {
    refused()
}

/// See the system that has it.
pub fn adamw(_: [&Array; 3], _: &Array, _: AdamWFactors) -> Result<[Array; 3]> {
    refused()
}

/// See the system that has it.
pub fn attention(_: [&Array; 3], _: Reach, _: Option<&Array>) -> Result<Array> {
    refused()
}

/// See the system that has it.
pub fn difference(_: &Array, _: &Array) -> Result<Array> {
    refused()
}

/// See the system that has it.
pub fn filled(_: &[i32], _: impl Fn(&mut [f32]) + Send + Sync + 'static) -> Result<Array> {
    refused()
}

/// See the system that has it.
pub fn gated(_: Gate, _: &Array, _: &Array) -> Result<Array> {
    refused()
}

/// See the system that has it.
pub fn largest_magnitudes(_: &Array) -> Result<Array> {
    refused()
}

/// See the system that has it.
pub fn linears<const WEIGHTS: usize>(_: &Array, _: [&Array; WEIGHTS]) -> Result<[Array; WEIGHTS]> {
    refused()
}

/// See the system that has it.
pub fn output_loss(_: &Array, _: &Array, _: &Array) -> Result<Array> {
    refused()
}

/// See the system that has it.
pub fn output_loss_and_gradient(_: &Array, _: &Array, _: &Array) -> Result<OutputLoss> {
    refused()
}

/// See the system that has it.
pub fn root_mean_square_norm(_: &Array, _: &Array, _: f32) -> Result<Array> {
    refused()
}

/// See the system that has it.
pub fn rotary(_: &Array, _: &Rotation, _: Option<&Array>, _: i32, _: Option<&Array>) -> Result<Array> {
    refused()
}
