//! A linear layer with its bias and its low-rank adapter (Hu et al. 2021, arXiv 2106.09685) in one operation.

use std::borrow::Cow;
use std::ffi::CStr;

use mlx_rs::error::Result;
use mlx_rs::ops::matmul;
use mlx_rs::{Array, Dtype};
use mlx_sys::blas::{Matrix, MatrixMut, for_each_part, multiply, threads};

use crate::Adapter;
use crate::operation::{Operation, no_second_derivative, unsupported};
use crate::parallel::{Shared, threads_for};
use crate::vector::{scale, with_vectors};
use crate::view::View;

/// `input weight^T + bias` for `input` `[..., inputs]`, `weight` `[outputs, inputs]` and `bias` `[outputs]`, and what the
/// adapter adds.
///
/// # Errors
/// Shapes or types do not fit.
pub fn linear(input: &Array, weight: &Array, bias: Option<&Array>, adapter: Option<Adapter<'_>>) -> Result<Array> {
    let low_rank = adapter.map(|adapter| [adapter.lora_a, adapter.lora_b]);
    let arrays: Vec<&Array> = [input, weight]
        .into_iter()
        .chain(low_rank.into_iter().flatten())
        .chain(bias)
        .collect();
    let fits = input.ndim() >= 1
        && weight.ndim() == 2
        && input.dim(-1) == weight.dim(1)
        && bias.is_none_or(|bias| bias.shape() == [weight.dim(0)])
        && low_rank.is_none_or(|[lora_a, lora_b]| {
            lora_b.ndim() == 2 && lora_a.shape() == [weight.dim(1), lora_b.dim(0)] && lora_b.dim(1) == weight.dim(0)
        })
        && arrays.iter().all(|array| array.dtype() == Dtype::Float32);
    if !fits {
        return Err(unsupported("a linear layer", &arrays));
    }
    let mut shape = input.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = weight.dim(0);
    }
    let has_bias = bias.is_some();
    let Some(adapter) = adapter else {
        // SAFETY: shapes and types were checked.
        let [output] = unsafe { Plain { has_bias }.apply(&arrays, [&shape]) }?;
        return Ok(output);
    };
    let rows = input.shape().iter().rev().skip(1).product();
    let narrow = [rows, adapter.lora_b.dim(0)];
    let layer = Adapted {
        scale: adapter.scale,
        has_bias,
    };
    // SAFETY: as above.
    let [output, _] = unsafe { layer.apply(&arrays, [&shape, &narrow]) }?;
    Ok(output)
}

/// `input weight^T` for each of `weights` `[outputs, inputs]`, whose threads are woken once for all of them.
///
/// # Errors
/// Shapes or types do not fit.
pub fn linears<const WEIGHTS: usize>(input: &Array, weights: [&Array; WEIGHTS]) -> Result<[Array; WEIGHTS]> {
    let arrays: Vec<&Array> = [input].into_iter().chain(weights).collect();
    let fits = input.ndim() >= 1
        && weights
            .iter()
            .all(|weight| weight.ndim() == 2 && weight.dim(1) == input.dim(-1))
        && arrays.iter().all(|array| array.dtype() == Dtype::Float32);
    if !fits {
        return Err(unsupported("linear layers", &arrays));
    }
    let shapes = weights.map(|weight| {
        let mut shape = input.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = weight.dim(0);
        }
        shape
    });
    // SAFETY: shapes and types were checked.
    unsafe { Several.apply(&arrays, shapes.each_ref().map(Vec::as_slice)) }
}

/// Inputs: the input, and the weights. Outputs: one to each weight.
struct Several;

/// Rows up to which a product waits for the weights, so that it is dealt out by their rows.
const FEW_ROWS: usize = 16;

impl Operation for Several {
    const NAME: &'static CStr = c"Linears";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let input = inputs[0].f32s();
        let weights: Vec<Cow<'_, [f32]>> = inputs[1..].iter().map(View::f32s).collect();
        let depth = inputs[1].side(1);
        let rows = input.len() / depth.max(1);
        let widths: Vec<usize> = inputs[1..].iter().map(|weight| weight.side(0)).collect();
        let total: usize = widths.iter().sum();
        let threads = threads_for(total, total * depth);
        if rows > FEW_ROWS || threads == 1 {
            for ((output, weight), width) in outputs.iter_mut().zip(&weights).zip(&widths) {
                let weight = Matrix::of_rows(weight, depth).transposed();
                product(
                    output,
                    [rows, *width, depth],
                    Matrix::of_rows(&input, depth),
                    weight,
                    0.0,
                );
            }
            return;
        }
        let outputs: Vec<Shared> = outputs.iter_mut().map(|output| Shared(output.as_mut_ptr())).collect();
        let part = total.div_ceil(threads);
        let multiply_part = |index: usize| {
            let mut first = 0;
            for ((output, weight), width) in outputs.iter().zip(&weights).zip(&widths) {
                let own = (index * part).clamp(first, first + width) - first
                    ..((index + 1) * part).clamp(first, first + width) - first;
                first += width;
                if own.is_empty() {
                    continue;
                }
                let weight = Matrix::of_rows(&weight[own.start * depth..], depth).transposed();
                let out = output.rows(own.start, *width);
                // SAFETY: the columns lie inside the output, and no other thread has them.
                unsafe {
                    multiply(
                        [rows, own.len(), depth],
                        1.0,
                        Matrix::of_rows(&input, depth),
                        weight,
                        0.0,
                        out,
                        1,
                    );
                };
            }
        };
        for_each_part(threads, multiply_part);
    }

    fn vjp(&self, inputs: &[Array], cotangents: &[Array], _: &[Array], arguments: &[usize]) -> Result<Vec<Array>> {
        let (input, weights) = (&inputs[0], &inputs[1..]);
        let by_input = || {
            let mut parts = cotangents
                .iter()
                .zip(weights)
                .map(|(cotangent, weight)| matmul(cotangent, weight));
            let first = parts.next().unwrap_or_else(|| Err(unsupported("linear layers", &[])))?;
            parts.try_fold(first, |sum, part| sum.add(part?))
        };
        let by_argument = |number: &usize| match number {
            0 => by_input(),
            _ => by_weight(input, &cotangents[number - 1]),
        };
        arguments.iter().map(by_argument).collect()
    }
}

/// Inputs: input, weight, and the bias where there is one.
struct Plain {
    has_bias: bool,
}

/// Inputs: input, weight, `lora_a`, `lora_b`, and the bias where there is one. Outputs: that of the layer, and
/// `scale (input lora_a)` `[rows, rank]`, which its gradients need.
struct Adapted {
    scale: f32,
    has_bias: bool,
}

/// The sizes of the matrices of a layer with an adapter.
struct Sizes {
    rows: usize,
    inputs: usize,
    outputs: usize,
    rank: usize,
}

impl Sizes {
    /// From the views of weight and `lora_b`, and the length of the input.
    fn of(input: usize, weight: &View<'_>, lora_b: &View<'_>) -> Self {
        let (outputs, inputs) = (weight.side(0), weight.side(1));
        Self {
            rows: input / inputs.max(1),
            inputs,
            outputs,
            rank: lora_b.side(0),
        }
    }
}

/// `out = left right + before * out`; `out` is row-major.
fn product(out: &mut [f32], [rows, columns, depth]: [usize; 3], left: Matrix, right: Matrix, before: f32) {
    assert!(out.len() >= rows * columns, "an output is too small");
    // SAFETY: the callers' matrices have these sizes, and `out` is borrowed alone.
    unsafe {
        multiply(
            [rows, columns, depth],
            1.0,
            left,
            right,
            before,
            MatrixMut::of_rows(out, columns),
            threads(),
        );
    };
}

/// `output = input weight^T`, and the bias.
fn wide_product(output: &mut [f32], input: &[f32], weight: &View<'_>, bias: Option<&View<'_>>) {
    let (outputs, inputs) = (weight.side(0), weight.side(1));
    if let Some(bias) = bias {
        let bias = bias.f32s();
        output
            .chunks_exact_mut(outputs.max(1))
            .for_each(|row| row.copy_from_slice(&bias));
    }
    let before = if bias.is_some() { 1.0 } else { 0.0 };
    let shape = [input.len() / inputs.max(1), outputs, inputs];
    let weight = weight.f32s();
    product(
        output,
        shape,
        Matrix::of_rows(input, inputs),
        Matrix::of_rows(&weight, inputs).transposed(),
        before,
    );
}

fn by_weight(input: &Array, cotangent: &Array) -> Result<Array> {
    let rows = |array: &Array| array.reshape(&[-1, array.dim(-1)]);
    matmul(rows(cotangent)?.t(), rows(input)?)
}

fn by_bias(cotangent: &Array) -> Result<Array> {
    cotangent.reshape(&[-1, cotangent.dim(-1)])?.sum_axis(0, false)
}

impl Operation for Plain {
    const NAME: &'static CStr = c"Linear";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let bias = inputs.get(2).filter(|_| self.has_bias);
        wide_product(outputs[0], &inputs[0].f32s(), &inputs[1], bias);
    }

    fn vjp(&self, inputs: &[Array], cotangents: &[Array], _: &[Array], arguments: &[usize]) -> Result<Vec<Array>> {
        let ([input, weight, ..], cotangent) = (inputs, &cotangents[0]) else {
            return Err(unsupported("a linear layer", &[]));
        };
        let by_argument = |number: &usize| match number {
            0 => matmul(cotangent, weight),
            1 => by_weight(input, cotangent),
            _ => by_bias(cotangent),
        };
        arguments.iter().map(by_argument).collect()
    }
}

impl Operation for Adapted {
    const NAME: &'static CStr = c"AdaptedLinear";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let input = inputs[0].f32s();
        let (lora_a, lora_b) = (inputs[2].f32s(), inputs[3].f32s());
        let size = Sizes::of(input.len(), &inputs[1], &inputs[3]);
        let [output, narrow] = outputs else { return };
        wide_product(output, &input, &inputs[1], inputs.get(4).filter(|_| self.has_bias));
        let input = Matrix::of_rows(&input, size.inputs);
        let lora_a = Matrix::of_rows(&lora_a, size.rank);
        product(narrow, [size.rows, size.rank, size.inputs], input, lora_a, 0.0);
        with_vectors(
            #[inline(always)]
            || scale(narrow, self.scale),
        );
        let lora_b = Matrix::of_rows(&lora_b, size.outputs);
        product(
            output,
            [size.rows, size.outputs, size.rank],
            Matrix::of_rows(narrow, size.rank),
            lora_b,
            1.0,
        );
    }

    fn vjp(
        &self,
        inputs: &[Array],
        cotangents: &[Array],
        outputs: &[Array],
        arguments: &[usize],
    ) -> Result<Vec<Array>> {
        let ([input, weight, lora_a, lora_b, ..], [_, narrow]) = (inputs, outputs) else {
            return Err(unsupported("an adapted layer", &[]));
        };
        let cotangent = &cotangents[0];
        let gradient = AdaptedGradient { scale: self.scale };
        // SAFETY: shapes and types are those of the layer, whose output the cotangent is shaped like.
        let [by_input, by_a, by_b] = unsafe {
            gradient.apply(
                &[input, weight, lora_a, lora_b, cotangent, narrow],
                [input.shape(), lora_a.shape(), lora_b.shape()],
            )
        }?;
        let by_argument = |number: &usize| match number {
            0 => Ok(by_input.clone()),
            1 => by_weight(input, cotangent),
            2 => Ok(by_a.clone()),
            3 => Ok(by_b.clone()),
            _ => by_bias(cotangent),
        };
        arguments.iter().map(by_argument).collect()
    }
}

/// Inputs: those of the layer, the cotangent of its output, and its second output. Outputs: the gradients by input,
/// `lora_a` and `lora_b`.
struct AdaptedGradient {
    scale: f32,
}

impl Operation for AdaptedGradient {
    const NAME: &'static CStr = c"AdaptedLinearGradient";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let [input, weight, lora_a, lora_b, cotangent, narrow] = std::array::from_fn(|index| inputs[index].f32s());
        let size = Sizes::of(input.len(), &inputs[1], &inputs[3]);
        let [by_input, by_a, by_b] = outputs else { return };
        let cotangent = Matrix::of_rows(&cotangent, size.outputs);
        // What reaches the narrow product.
        let mut by_narrow = vec![0.0; size.rows * size.rank];
        let lora_b = Matrix::of_rows(&lora_b, size.outputs).transposed();
        product(
            &mut by_narrow,
            [size.rows, size.rank, size.outputs],
            cotangent,
            lora_b,
            0.0,
        );
        with_vectors(
            #[inline(always)]
            || scale(&mut by_narrow, self.scale),
        );
        let by_narrow = Matrix::of_rows(&by_narrow, size.rank);
        let wide = [size.rows, size.inputs, size.outputs];
        product(by_input, wide, cotangent, Matrix::of_rows(&weight, size.inputs), 0.0);
        let lora_a = Matrix::of_rows(&lora_a, size.rank).transposed();
        product(by_input, [size.rows, size.inputs, size.rank], by_narrow, lora_a, 1.0);
        // Its transpose, since a product that writes short rows takes three times as long.
        let mut turned = vec![0.0; size.rank * size.inputs];
        let input = Matrix::of_rows(&input, size.inputs);
        let sides = [size.rank, size.inputs, size.rows];
        product(&mut turned, sides, by_narrow.transposed(), input, 0.0);
        for (column, row) in by_a.chunks_exact_mut(size.rank.max(1)).enumerate() {
            for (value, turned) in row.iter_mut().zip(turned.chunks_exact(size.inputs)) {
                *value = turned[column];
            }
        }
        let narrow = Matrix::of_rows(&narrow, size.rank).transposed();
        product(by_b, [size.rank, size.outputs, size.rows], narrow, cotangent, 0.0);
    }

    fn vjp(&self, _: &[Array], _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Err(no_second_derivative(Self::NAME))
    }
}
