//! How two arrays differ, in one pass over both.

use std::ffi::CStr;

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype};
use rayon::prelude::*;

use crate::operation::{Operation, no_second_derivative, unsupported};
use crate::parallel::threads_for;
use crate::settings::NUMBERS;
use crate::vector::{LANES, halved, with_vectors};
use crate::view::View;

/// Values that are counted together: few enough that an f32 counts them exactly, and that their sums keep their digits.
const PART: usize = 1 << 16;

/// What is to be known of how two arrays of one shape differ, for [`Difference::read`], which many can be computed before.
///
/// # Errors
/// Shapes or types do not fit.
pub fn difference(before: &Array, after: &Array) -> Result<Array> {
    if before.shape() != after.shape() || [before, after].iter().any(|array| array.dtype() != Dtype::Float32) {
        return Err(unsupported("a difference", &[before, after]));
    }
    let parts = before.size().div_ceil(PART) as i32;
    // SAFETY: shapes and types were checked.
    let [numbers] = unsafe { Differences.apply(&[before, after], [&[parts, NUMBERS as i32]]) }?;
    Ok(numbers)
}

struct Differences;

impl Operation for Differences {
    const NAME: &'static CStr = c"Differences";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let (before, after) = (inputs[0].f32s(), inputs[1].f32s());
        let (numbers, _) = outputs[0].as_chunks_mut::<NUMBERS>();
        let of_part = |((numbers, before), after): ((&mut [f32; NUMBERS], &[f32]), &[f32])| {
            *numbers = with_vectors(
                #[inline(always)]
                || compared(before, after),
            );
        };
        if threads_for(numbers.len(), before.len()) == 1 {
            numbers
                .iter_mut()
                .zip(before.chunks(PART))
                .zip(after.chunks(PART))
                .for_each(of_part);
        } else {
            numbers
                .par_iter_mut()
                .zip(before.par_chunks(PART))
                .zip(after.par_chunks(PART))
                .for_each(of_part);
        }
    }

    fn vjp(&self, _: &[Array], _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Err(no_second_derivative(Self::NAME))
    }
}

#[inline(always)]
fn compared(before: &[f32], after: &[f32]) -> [f32; NUMBERS] {
    let mut changed = [0_u32; LANES];
    let mut squares = [[0.0_f32; LANES]; 3];
    let mut add = |lane: usize, before: f32, after: f32| {
        // Bit by bit, so that NaN equals itself and zero differs from minus zero.
        changed[lane] += u32::from(before.to_bits() != after.to_bits());
        let difference = after - before;
        squares[0][lane] += before * before;
        squares[1][lane] += after * after;
        squares[2][lane] += difference * difference;
    };
    let ((befores, before_rest), (afters, after_rest)) = (before.as_chunks::<LANES>(), after.as_chunks::<LANES>());
    for (before, after) in befores.iter().zip(afters) {
        for lane in 0..LANES {
            add(lane, before[lane], after[lane]);
        }
    }
    for (lane, (before, after)) in before_rest.iter().zip(after_rest).enumerate() {
        add(lane, *before, *after);
    }
    let [before, after, difference] = squares.map(|squares| halved(squares, |one, other| one + other));
    [changed.iter().sum::<u32>() as f32, before, after, difference]
}
