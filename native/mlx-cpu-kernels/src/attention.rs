//! Scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762) with grouped heads, block by block, as in
//! `FlashAttention` (Dao 2023, arXiv 2307.08691): what is hidden is not multiplied, and the backward pass makes the
//! probabilities again instead of keeping them.

use std::cell::RefCell;
use std::ffi::CStr;
use std::ops::Range;

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype};
use mlx_sys::blas::{Matrix, MatrixMut, multiply};
use rayon::prelude::*;

use crate::Reach;
use crate::operation::{Operation, no_second_derivative, unsupported};
use crate::parallel::{Shared, threads_for};
use crate::vector::{dot, exp, exponentials, largest, scale, with_vectors};
use crate::view::{Heads, View};

/// Queries that are multiplied with the keys together; more would multiply more of what is hidden.
const QUERY_BLOCK: usize = 64;

/// Lets `queries` `[batch, heads, tokens, dimensions]` attend to `keys` and `values` `[batch, groups, held, dimensions]`,
/// where `groups` divides `heads` and `held` is at least `tokens`; returns `[batch, tokens, heads * dimensions]`.
///
/// With `documents` `[batch, tokens]` in i32, of which equal ones stand together, no token attends to another document.
///
/// # Errors
/// Shapes or types do not fit.
pub fn attention([queries, keys, values]: [&Array; 3], reach: Reach, documents: Option<&Array>) -> Result<Array> {
    let parts = [queries, keys, values];
    let fits = parts
        .iter()
        .all(|part| part.ndim() == 4 && part.dtype() == Dtype::Float32)
        && keys.shape() == values.shape()
        && queries.dim(0) == keys.dim(0)
        && queries.dim(3) == keys.dim(3)
        && keys.dim(1) > 0
        && queries.dim(1) % keys.dim(1) == 0
        && keys.dim(2) >= queries.dim(2)
        && reach.window.is_none_or(|window| window > 0)
        && documents.is_none_or(|documents| {
            documents.shape() == [queries.dim(0), queries.dim(2)]
                && documents.dtype() == Dtype::Int32
                && keys.dim(2) == queries.dim(2)
        });
    if !fits {
        return Err(unsupported("attention", &parts));
    }
    let (batch, heads, tokens) = (queries.dim(0), queries.dim(1), queries.dim(2));
    let inputs: Vec<&Array> = parts.into_iter().chain(documents).collect();
    let shapes: [&[i32]; 2] = [&[batch, tokens, heads * queries.dim(3)], &[batch, heads, tokens, 2]];
    // SAFETY: shapes and types were checked.
    let [attended, _] = unsafe { Attention { reach }.apply(&inputs, shapes) }?;
    Ok(attended)
}

/// Inputs: queries, keys, values, and documents where there are any. Outputs: what is attended to, and for each query the
/// largest of its scores and one over the sum of its exponentials, which the gradient needs. The logarithm of that sum would
/// do, but for scores of a thousand it has lost four digits.
struct Attention {
    reach: Reach,
}

/// The shapes of a pass, and which keys each query sees.
struct Pass {
    reach: Reach,
    batch: usize,
    heads: usize,
    groups: usize,
    tokens: usize,
    held: usize,
    dimensions: usize,
    /// The first key of each token's document, where there are documents.
    starts: Option<Vec<usize>>,
}

impl Pass {
    fn new(reach: Reach, queries: &Heads<'_>, keys: &Heads<'_>, documents: Option<&View<'_>>) -> Self {
        let [batch, heads, tokens, dimensions] = queries.sides;
        Self {
            reach,
            batch,
            heads,
            groups: keys.sides[1],
            tokens,
            held: keys.sides[2],
            dimensions,
            starts: documents.map(|documents| starts(&documents.i32s(), tokens)),
        }
    }

    /// The keys that token `query` of row `batch` attends to.
    fn seen(&self, batch: usize, query: usize) -> Range<usize> {
        let end = self.held - self.tokens + query + 1;
        let of_window = self
            .reach
            .window
            .map_or(0, |window| end.saturating_sub(window as usize));
        let of_document = self
            .starts
            .as_ref()
            .map_or(0, |starts| starts[batch * self.tokens + query]);
        of_window.max(of_document)..end
    }

    /// The blocks of queries, each with all keys that one of them sees.
    fn blocks(&self, batch: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        (0..self.tokens).step_by(QUERY_BLOCK).map(move |start| {
            let queries = start..self.tokens.min(start + QUERY_BLOCK);
            let first = queries
                .clone()
                .map(|query| self.seen(batch, query).start)
                .min()
                .unwrap_or(0);
            let end = self.seen(batch, queries.end - 1).end;
            (queries, first..end)
        })
    }

    /// Values that one head of one row touches.
    fn elements_of_head(&self) -> usize {
        self.tokens * self.held
    }

    /// Room for the products of a block of queries with all keys.
    fn scores(&self) -> usize {
        QUERY_BLOCK.min(self.tokens) * self.held
    }
}

/// Where each token's document begins.
fn starts(documents: &[i32], tokens: usize) -> Vec<usize> {
    let mut starts = Vec::with_capacity(documents.len());
    for row in documents.chunks(tokens.max(1)) {
        let mut start = 0;
        for (index, document) in row.iter().enumerate() {
            if index > 0 && row[index - 1] != *document {
                start = index;
            }
            starts.push(start);
        }
    }
    starts
}

thread_local! {
    /// Room for scores, which is asked for many times a pass.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

fn with_scratch(length: usize, work: impl FnOnce(&mut [f32], &mut [f32])) {
    SCRATCH.with_borrow_mut(|[one, other]| {
        for scratch in [&mut *one, &mut *other] {
            if scratch.len() < length {
                scratch.resize(length, 0.0);
            }
        }
        work(&mut one[..length], &mut other[..length]);
    });
}

/// `work` for each of `tasks` numbers, on several threads where `elements` are many.
fn for_each(tasks: usize, elements: usize, work: impl Fn(usize) + Sync + Send) {
    if threads_for(tasks, elements) == 1 {
        (0..tasks).for_each(work);
    } else {
        (0..tasks).into_par_iter().for_each(work);
    }
}

impl Operation for Attention {
    const NAME: &'static CStr = c"Attention";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let [queries, keys, values] = std::array::from_fn(|index| inputs[index].heads());
        let pass = Pass::new(self.reach, &queries, &keys, inputs.get(3));
        let [attended, softmaxes] = outputs else { return };
        let (attended, softmaxes) = (Shared(attended.as_mut_ptr()), Shared(softmaxes.as_mut_ptr()));
        let tasks = pass.batch * pass.heads;
        for_each(tasks, tasks * pass.elements_of_head(), |task| {
            let (batch, head) = (task / pass.heads, task % pass.heads);
            let (attended, softmaxes) = (&attended, &softmaxes);
            with_scratch(pass.scores(), |scores, _| {
                attend_head(
                    &pass,
                    [&queries, &keys, &values],
                    [batch, head],
                    scores,
                    [*attended, *softmaxes],
                );
            });
        });
    }

    fn vjp(
        &self,
        inputs: &[Array],
        cotangents: &[Array],
        outputs: &[Array],
        arguments: &[usize],
    ) -> Result<Vec<Array>> {
        let ([queries, keys, values, ..], [_, softmaxes]) = (inputs, outputs) else {
            return Err(unsupported("attention", &[]));
        };
        let mut handed = vec![queries, keys, values, softmaxes, &cotangents[0]];
        handed.extend(&inputs[3..]);
        // Tokens before heads, as the layers around have them.
        let by_token = |heads: &Array| [heads.dim(0), heads.dim(2), heads.dim(1), heads.dim(3)];
        let shapes = [by_token(queries), by_token(keys), by_token(values)];
        let gradient = AttentionGradient { reach: self.reach };
        // SAFETY: shapes and types are those of the attention, whose output the cotangent is shaped like.
        let gradients = unsafe { gradient.apply(&handed, [&shapes[0], &shapes[1], &shapes[2]]) }?;
        arguments
            .iter()
            .map(|number| match gradients.get(*number) {
                Some(gradient) => gradient.transpose_axes(&[0, 2, 1, 3]),
                None => Err(no_second_derivative(Self::NAME)),
            })
            .collect()
    }
}

fn attend_head(
    pass: &Pass,
    [queries, keys, values]: [&Heads<'_>; 3],
    [batch, head]: [usize; 2],
    scores: &mut [f32],
    [attended, softmaxes]: [Shared; 2],
) {
    let (dimensions, row_stride) = (pass.dimensions, pass.heads * pass.dimensions);
    let group = head * pass.groups / pass.heads;
    for (block, seen) in pass.blocks(batch) {
        let (rows, columns) = (block.len(), seen.len());
        let scores = &mut scores[..rows * columns];
        let out = attended.rows(
            (batch * pass.tokens + block.start) * row_stride + head * dimensions,
            row_stride,
        );
        let keys = keys.of(batch, group, seen.start).transposed();
        let query_rows = queries.of(batch, head, block.start);
        // SAFETY: a block of queries and the keys that it sees lie inside their arrays, scores have room for their products,
        // and this head of these tokens is written by this task alone.
        unsafe {
            let out_of_scores = MatrixMut::of_rows(scores, columns);
            multiply(
                [rows, columns, dimensions],
                pass.reach.scale,
                query_rows,
                keys,
                0.0,
                out_of_scores,
                1,
            );
        }
        let mut factors = [0.0; QUERY_BLOCK];
        with_vectors(
            #[inline(always)]
            || {
                for ((query, scores), factor) in block.clone().zip(scores.chunks_exact_mut(columns)).zip(&mut factors) {
                    let own = pass.seen(batch, query);
                    let (hidden, rest) = scores.split_at_mut(own.start - seen.start);
                    let (own, later) = rest.split_at_mut(own.len());
                    hidden.fill(0.0);
                    later.fill(0.0);
                    let shift = largest(own);
                    *factor = 1.0 / exponentials(own, shift);
                    // SAFETY: two numbers to each query of this head.
                    unsafe {
                        let place = softmaxes.0.add(2 * ((batch * pass.heads + head) * pass.tokens + query));
                        *place = shift;
                        *place.add(1) = *factor;
                    }
                }
            },
        );
        // SAFETY: as above.
        unsafe {
            let values = values.of(batch, group, seen.start);
            multiply(
                [rows, dimensions, columns],
                1.0,
                Matrix::of_rows(scores, columns),
                values,
                0.0,
                out,
                1,
            );
        }
        for (row, factor) in factors.iter().enumerate().take(rows) {
            // SAFETY: the row was written just now, by this task.
            let row = unsafe { std::slice::from_raw_parts_mut(out.data.add(row * row_stride), dimensions) };
            scale(row, *factor);
        }
    }
}

/// Inputs: queries, keys, values, the second output of the attention, the cotangent of the first, and documents where there
/// are any. Outputs: the gradients by the first three, `[batch, tokens, heads, dimensions]`.
struct AttentionGradient {
    reach: Reach,
}

impl Operation for AttentionGradient {
    const NAME: &'static CStr = c"AttentionGradient";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let [queries, keys, values] = std::array::from_fn(|index| inputs[index].heads());
        let [softmaxes, cotangent] = std::array::from_fn(|index| inputs[3 + index].f32s());
        let pass = Pass::new(self.reach, &queries, &keys, inputs.get(5));
        for output in &mut *outputs {
            output.fill(0.0);
        }
        let [by_queries, by_keys, by_values] = outputs else {
            return;
        };
        let outputs = [by_queries, by_keys, by_values].map(|output| Shared(output.as_mut_ptr()));
        let backward = Backward {
            pass: &pass,
            parts: [&queries, &keys, &values],
            softmaxes: &softmaxes,
            cotangent: &cotangent,
            outputs,
        };
        // Heads of one group add to the same keys.
        let tasks = pass.batch * pass.groups;
        for_each(tasks, pass.batch * pass.heads * pass.elements_of_head(), |task| {
            let (batch, group) = (task / pass.groups, task % pass.groups);
            let heads = pass.heads / pass.groups;
            with_scratch(pass.scores(), |scores, changes| {
                for head in group * heads..(group + 1) * heads {
                    for (block, seen) in pass.blocks(batch) {
                        backward.add_block([batch, head, group], &block, &seen, [scores, changes]);
                    }
                }
            });
        });
    }

    fn vjp(&self, _: &[Array], _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Err(no_second_derivative(Self::NAME))
    }
}

struct Backward<'run> {
    pass: &'run Pass,
    parts: [&'run Heads<'run>; 3],
    softmaxes: &'run [f32],
    cotangent: &'run [f32],
    outputs: [Shared; 3],
}

impl Backward<'_> {
    /// Adds what one block of one head's queries has to say.
    fn add_block(
        &self,
        [batch, head, group]: [usize; 3],
        block: &Range<usize>,
        seen: &Range<usize>,
        [scores, changes]: [&mut [f32]; 2],
    ) {
        let pass = self.pass;
        let [queries, keys, values] = self.parts;
        let dimensions = pass.dimensions;
        let (rows, columns) = (block.len(), seen.len());
        let (scores, changes) = (&mut scores[..rows * columns], &mut changes[..rows * columns]);
        let (query_stride, key_stride) = (pass.heads * dimensions, pass.groups * dimensions);
        let at_queries = (batch * pass.tokens + block.start) * query_stride + head * dimensions;
        let at_keys = (batch * pass.held + seen.start) * key_stride + group * dimensions;
        let queries = queries.of(batch, head, block.start);
        let (keys, values) = (keys.of(batch, group, seen.start), values.of(batch, group, seen.start));
        let cotangent = Matrix::of_rows(&self.cotangent[at_queries..], query_stride);
        let [by_queries, by_keys, by_values] = self.outputs;
        let shape = [rows, columns, dimensions];
        // SAFETY: here and below: blocks lie inside their arrays, scores and changes have room for `rows * columns`, and
        // the heads of a group are one task's own.
        unsafe {
            multiply(
                shape,
                pass.reach.scale,
                queries,
                keys.transposed(),
                0.0,
                MatrixMut::of_rows(scores, columns),
                1,
            );
            multiply(
                shape,
                1.0,
                cotangent,
                values.transposed(),
                0.0,
                MatrixMut::of_rows(changes, columns),
                1,
            );
        }
        with_vectors(
            #[inline(always)]
            || {
                let rows = scores.chunks_exact_mut(columns).zip(changes.chunks_exact_mut(columns));
                for (query, (scores, changes)) in block.clone().zip(rows) {
                    let softmax = 2 * ((batch * pass.heads + head) * pass.tokens + query);
                    let (shift, factor) = (self.softmaxes[softmax], self.softmaxes[softmax + 1]);
                    let own = pass.seen(batch, query);
                    let own = own.start - seen.start..own.end - seen.start;
                    for hidden in [0..own.start, own.end..columns] {
                        scores[hidden.clone()].fill(0.0);
                        changes[hidden].fill(0.0);
                    }
                    let (scores, changes) = (&mut scores[own.clone()], &mut changes[own]);
                    for score in &mut *scores {
                        *score = exp(*score - shift) * factor;
                    }
                    // What was attended to times its cotangent would be the same sum, but where one weight is nearly all
                    // of them, only the very same terms cancel.
                    let along = dot(scores, changes);
                    for (score, change) in scores.iter().zip(changes) {
                        *change = (*change - along) * score * pass.reach.scale;
                    }
                }
            },
        );
        let (scores, changes) = (Matrix::of_rows(scores, columns), Matrix::of_rows(changes, columns));
        // SAFETY: as above.
        unsafe {
            let out = by_queries.rows(at_queries, query_stride);
            multiply([rows, dimensions, columns], 1.0, changes, keys, 0.0, out, 1);
            let out = by_keys.rows(at_keys, key_stride);
            multiply(
                [columns, dimensions, rows],
                1.0,
                changes.transposed(),
                queries,
                1.0,
                out,
                1,
            );
            let out = by_values.rows(at_keys, key_stride);
            multiply(
                [columns, dimensions, rows],
                1.0,
                scores.transposed(),
                cotangent,
                1.0,
                out,
                1,
            );
        }
    }
}
