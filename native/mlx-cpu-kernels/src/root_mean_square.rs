//! The norm by the root of the mean square (Zhang and Sennrich 2019, arXiv 1910.07467).

use std::ffi::CStr;

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype};
use rayon::prelude::*;

use crate::operation::{Operation, no_second_derivative, unsupported};
use crate::parallel::rows_of_part;
use crate::vector::{dot, sum, with_vectors};
use crate::view::View;

/// `input * weight / sqrt(mean(input^2) + eps)` over the last axis, for `input` `[..., width]` and `weight` `[width]`.
///
/// # Errors
/// Shapes or types do not fit.
pub fn root_mean_square_norm(input: &Array, weight: &Array, eps: f32) -> Result<Array> {
    let width = input.shape().last().copied();
    if width.is_none()
        || weight.shape() != width.as_slice()
        || [input, weight].iter().any(|array| array.dtype() != Dtype::Float32)
    {
        return Err(unsupported("a norm", &[input, weight]));
    }
    // SAFETY: the types were checked, and the weight is as wide as the rows.
    let [output] = unsafe { Norm { eps }.apply(&[input, weight], [input.shape()]) }?;
    Ok(output)
}

struct Norm {
    eps: f32,
}

impl Operation for Norm {
    const NAME: &'static CStr = c"RootMeanSquareNorm";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let (input, weight) = (inputs[0].f32s(), inputs[1].f32s());
        let width = weight.len().max(1);
        let part = rows_of_part(input.len() / width, width) * width;
        let of_part = |(output, input): (&mut [f32], &[f32])| {
            with_vectors(
                #[inline(always)]
                || {
                    for (output, input) in output.chunks_exact_mut(width).zip(input.chunks_exact(width)) {
                        let factor = inverse_root(input, self.eps);
                        for ((output, input), weight) in output.iter_mut().zip(input).zip(weight.iter()) {
                            *output = input * factor * weight;
                        }
                    }
                },
            );
        };
        if part >= input.len() {
            of_part((&mut *outputs[0], &input));
        } else {
            outputs[0]
                .par_chunks_mut(part)
                .zip(input.par_chunks(part))
                .for_each(of_part);
        }
    }

    fn vjp(&self, inputs: &[Array], cotangents: &[Array], _: &[Array], arguments: &[usize]) -> Result<Vec<Array>> {
        let [input, weight] = inputs else {
            return Err(unsupported("a norm", &[]));
        };
        let gradient = NormGradient {
            eps: self.eps,
            by_weight: arguments.contains(&1),
        };
        // SAFETY: types and shapes are those of the norm, whose output the cotangent is shaped like.
        let gradients = unsafe { gradient.apply(&[input, weight, &cotangents[0]], [input.shape(), weight.shape()]) }?;
        Ok(arguments.iter().map(|number| gradients[*number].clone()).collect())
    }
}

/// Inputs: input, weight, cotangent. Outputs: the gradients by the first two, the second one only where it is wanted.
struct NormGradient {
    eps: f32,
    by_weight: bool,
}

impl Operation for NormGradient {
    const NAME: &'static CStr = c"RootMeanSquareNormGradient";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let (input, weight, cotangent) = (inputs[0].f32s(), inputs[1].f32s(), inputs[2].f32s());
        let width = weight.len().max(1);
        let [by_input, by_weight] = outputs else { return };
        let part = rows_of_part(input.len() / width, width) * width;
        let of_part = |((output, input), cotangent): ((&mut [f32], &[f32]), &[f32])| {
            with_vectors(
                #[inline(always)]
                || {
                    let rows = input.chunks_exact(width).zip(cotangent.chunks_exact(width));
                    for (output, (input, cotangent)) in output.chunks_exact_mut(width).zip(rows) {
                        let factor = inverse_root(input, self.eps);
                        for ((output, cotangent), weight) in output.iter_mut().zip(cotangent).zip(weight.iter()) {
                            *output = cotangent * weight;
                        }
                        let along = dot(output, input) * factor * factor * factor / width as f32;
                        for (output, input) in output.iter_mut().zip(input) {
                            *output = *output * factor - input * along;
                        }
                    }
                },
            );
        };
        if part >= input.len() {
            of_part(((&mut **by_input, &*input), &*cotangent));
        } else {
            by_input
                .par_chunks_mut(part)
                .zip(input.par_chunks(part))
                .zip(cotangent.par_chunks(part))
                .for_each(of_part);
        }
        by_weight.fill(0.0);
        if self.by_weight {
            with_vectors(
                #[inline(always)]
                || {
                    for (input, cotangent) in input.chunks_exact(width).zip(cotangent.chunks_exact(width)) {
                        let factor = inverse_root(input, self.eps);
                        for ((sum, input), cotangent) in by_weight.iter_mut().zip(input).zip(cotangent) {
                            *sum += cotangent * input * factor;
                        }
                    }
                },
            );
        }
    }

    fn vjp(&self, _: &[Array], _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Err(no_second_derivative(Self::NAME))
    }
}

#[inline(always)]
fn inverse_root(row: &[f32], eps: f32) -> f32 {
    1.0 / (sum(row, |value| value * value) / row.len() as f32 + eps).sqrt()
}
