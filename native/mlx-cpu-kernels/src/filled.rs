//! An array whose values are made where they will lie, instead of being copied there.

use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::Result;

use crate::operation::{Operation, no_second_derivative};
use crate::view::View;

/// An array in f32 of this `shape`, whose values `fill` writes, row-major and all of them, when they are needed.
///
/// # Errors
/// MLX fails.
pub fn filled(shape: &[i32], fill: impl Fn(&mut [f32]) + Send + Sync + 'static) -> Result<Array> {
    // SAFETY: there are no inputs, and `fill` is given the output with its length.
    let [array] = unsafe { Filled { fill }.apply(&[], [shape]) }?;
    Ok(array)
}

struct Filled<F> {
    fill: F,
}

impl<F: Fn(&mut [f32]) + Send + Sync + 'static> Operation for Filled<F> {
    const NAME: &'static CStr = c"Filled";

    fn run(&self, _: &[View<'_>], outputs: &mut [&mut [f32]]) {
        (self.fill)(outputs[0]);
    }

    fn vjp(&self, _: &[Array], _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Err(no_second_derivative(Self::NAME))
    }
}
