//! The largest magnitudes of an array, in one pass over it.

use std::ffi::CStr;

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype};
use rayon::prelude::*;

use crate::operation::{Operation, no_second_derivative, unsupported};
use crate::parallel::threads_for;
use crate::vector::{LANES, with_vectors};
use crate::view::View;

/// Values that one thread looks at before it takes the next.
const PART: usize = 1 << 16;
/// All bits of an f32 but that of its sign.
const MAGNITUDE: u32 = u32::MAX >> 1;

/// The largest magnitude of each part of `values`, which may have any shape, `[parts]` in f32; NaN where a part holds one.
///
/// # Errors
/// The values are not in f32.
pub fn largest_magnitudes(values: &Array) -> Result<Array> {
    if values.dtype() != Dtype::Float32 {
        return Err(unsupported("a magnitude", &[values]));
    }
    let parts = values.size().div_ceil(PART) as i32;
    // SAFETY: the type was checked, and any shape will do.
    let [magnitudes] = unsafe { LargestMagnitudes.apply(&[values], [&[parts]]) }?;
    Ok(magnitudes)
}

struct LargestMagnitudes;

impl Operation for LargestMagnitudes {
    const NAME: &'static CStr = c"LargestMagnitudes";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let values = inputs[0].f32s();
        let of_part = |(magnitude, values): (&mut f32, &[f32])| {
            *magnitude = with_vectors(
                #[inline(always)]
                || largest(values),
            );
        };
        if threads_for(outputs[0].len(), values.len()) == 1 {
            outputs[0].iter_mut().zip(values.chunks(PART)).for_each(of_part);
        } else {
            outputs[0].par_iter_mut().zip(values.par_chunks(PART)).for_each(of_part);
        }
    }

    fn vjp(&self, _: &[Array], _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Err(no_second_derivative(Self::NAME))
    }
}

/// Magnitudes are ordered as their bits are, and every NaN comes after infinity.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let mut largest = [0_u32; LANES];
    let (parts, rest) = values.as_chunks::<LANES>();
    for part in parts {
        for (largest, value) in largest.iter_mut().zip(part) {
            *largest = (*largest).max(value.to_bits() & MAGNITUDE);
        }
    }
    for (largest, value) in largest.iter_mut().zip(rest) {
        *largest = (*largest).max(value.to_bits() & MAGNITUDE);
    }
    f32::from_bits(largest.into_iter().fold(0, u32::max))
}
