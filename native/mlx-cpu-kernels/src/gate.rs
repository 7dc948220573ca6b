//! Gated activations: the function of one half times the other.

use std::ffi::CStr;

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype};
use rayon::prelude::*;

use crate::Gate;
use crate::operation::{Operation, no_second_derivative, unsupported};
use crate::parallel::rows_of_part;
use crate::vector::{exp, sigmoid, with_vectors};
use crate::view::View;

/// `gate(gates) * values`, value by value, for two arrays of one shape.
///
/// # Errors
/// Shapes or types do not fit.
pub fn gated(gate: Gate, gates: &Array, values: &Array) -> Result<Array> {
    if gates.shape() != values.shape() || [gates, values].iter().any(|array| array.dtype() != Dtype::Float32) {
        return Err(unsupported("a gate", &[gates, values]));
    }
    // SAFETY: shapes and types were checked.
    let [output] = unsafe { Gated { gate }.apply(&[gates, values], [gates.shape()]) }?;
    Ok(output)
}

impl Gate {
    /// The function and its derivative at `x`.
    #[inline(always)]
    fn value_and_slope(self, x: f32) -> (f32, f32) {
        match self {
            Self::Silu => {
                let share = sigmoid(x);
                (x * share, share * (1.0 + x * (1.0 - share)))
            }
            Self::GeluTanh => {
                const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
                const CUBE: f32 = 0.044_715;
                let argument = ROOT * (x + CUBE * x * x * x);
                let tanh = 1.0 - 2.0 / (exp(2.0 * argument) + 1.0);
                let slope = ROOT * (1.0 + 3.0 * CUBE * x * x);
                (
                    0.5 * x * (1.0 + tanh),
                    0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope,
                )
            }
        }
    }
}

struct Gated {
    gate: Gate,
}

impl Operation for Gated {
    const NAME: &'static CStr = c"Gated";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let (gates, values) = (inputs[0].f32s(), inputs[1].f32s());
        let part = rows_of_part(gates.len(), 1);
        let of_part = |((output, gates), values): ((&mut [f32], &[f32]), &[f32])| {
            with_vectors(
                #[inline(always)]
                || {
                    for ((output, gate), value) in output.iter_mut().zip(gates).zip(values) {
                        *output = self.gate.value_and_slope(*gate).0 * value;
                    }
                },
            );
        };
        if part >= gates.len() {
            of_part(((&mut *outputs[0], &*gates), &*values));
        } else {
            outputs[0]
                .par_chunks_mut(part)
                .zip(gates.par_chunks(part))
                .zip(values.par_chunks(part))
                .for_each(of_part);
        }
    }

    fn vjp(&self, inputs: &[Array], cotangents: &[Array], _: &[Array], arguments: &[usize]) -> Result<Vec<Array>> {
        let [gates, values] = inputs else {
            return Err(unsupported("a gate", &[]));
        };
        let gradient = GatedGradient { gate: self.gate };
        let shape = gates.shape();
        // SAFETY: shapes and types are those of the gate, whose output the cotangent is shaped like.
        let gradients = unsafe { gradient.apply(&[gates, values, &cotangents[0]], [shape, shape]) }?;
        Ok(arguments.iter().map(|number| gradients[*number].clone()).collect())
    }
}

/// The gradients' parts, and those of gates, values and cotangent that they come from.
type Part<'part> = (
    ((&'part mut [f32], &'part mut [f32]), &'part [f32]),
    (&'part [f32], &'part [f32]),
);

/// Inputs: gates, values, cotangent. Outputs: the gradients by the first two.
struct GatedGradient {
    gate: Gate,
}

impl Operation for GatedGradient {
    const NAME: &'static CStr = c"GatedGradient";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let (gates, values, cotangent) = (inputs[0].f32s(), inputs[1].f32s(), inputs[2].f32s());
        let [by_gates, by_values] = outputs else { return };
        let part = rows_of_part(gates.len(), 1);
        let of_part = |(((by_gates, by_values), gates), (values, cotangent)): Part<'_>| {
            with_vectors(
                #[inline(always)]
                || {
                    let outputs = by_gates.iter_mut().zip(by_values.iter_mut());
                    let inputs = gates.iter().zip(values).zip(cotangent);
                    for ((by_gate, by_value), ((gate, value), cotangent)) in outputs.zip(inputs) {
                        let (function, slope) = self.gate.value_and_slope(*gate);
                        *by_gate = cotangent * value * slope;
                        *by_value = cotangent * function;
                    }
                },
            );
        };
        if part >= gates.len() {
            of_part((((&mut **by_gates, &mut **by_values), &*gates), (&*values, &*cotangent)));
        } else {
            by_gates
                .par_chunks_mut(part)
                .zip(by_values.par_chunks_mut(part))
                .zip(gates.par_chunks(part))
                .zip(values.par_chunks(part).zip(cotangent.par_chunks(part)))
                .for_each(of_part);
        }
    }

    fn vjp(&self, _: &[Array], _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Err(no_second_derivative(Self::NAME))
    }
}
