//! Rotary position encoding (Su et al. 2021, arXiv 2104.09864).

use std::cell::RefCell;
use std::ffi::CStr;

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype};
use rayon::prelude::*;

use crate::Rotation;
use crate::operation::{Operation, no_second_derivative, unsupported};
use crate::parallel::threads_for;
use crate::vector::with_vectors;
use crate::view::View;

/// Turns `heads` `[batch, tokens, heads, dimensions]` whose first tokens stand at `offset`, or for each row of the batch
/// where `offsets` `[batch]` in i32 says. `periods` `[dimensions / 2]` take the place of the wavelengths.
///
/// # Errors
/// Shapes or types do not fit.
pub fn rotary(
    heads: &Array,
    rotation: &Rotation,
    periods: Option<&Array>,
    offset: i32,
    offsets: Option<&Array>,
) -> Result<Array> {
    let pairs = rotation.dimensions / 2;
    let fits = heads.ndim() == 4
        && heads.dtype() == Dtype::Float32
        && rotation.dimensions % 2 == 0
        && (2..=heads.dim(3)).contains(&rotation.dimensions)
        && periods.is_none_or(|periods| periods.shape() == [pairs] && periods.dtype() == Dtype::Float32)
        && offsets.is_none_or(|offsets| offsets.shape() == [heads.dim(0)] && offsets.dtype() == Dtype::Int32);
    if !fits {
        return Err(unsupported("a rotation", &[heads]));
    }
    let turn = Turn {
        rotation: rotation.clone(),
        offset,
        has_periods: periods.is_some(),
        has_offsets: offsets.is_some(),
        backwards: false,
    };
    let inputs: Vec<&Array> = [Some(heads), periods, offsets].into_iter().flatten().collect();
    // SAFETY: shapes and types were checked.
    let [output] = unsafe { turn.apply(&inputs, [heads.shape()]) }?;
    Ok(output)
}

/// Inputs: heads, then periods and offsets where there are any.
#[derive(Clone)]
struct Turn {
    rotation: Rotation,
    offset: i32,
    has_periods: bool,
    has_offsets: bool,
    backwards: bool,
}

impl Operation for Turn {
    const NAME: &'static CStr = c"Rotary";

    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]) {
        let heads = inputs[0].f32s();
        let [batch, tokens, count, width] = std::array::from_fn(|axis| inputs[0].side(axis));
        if heads.is_empty() {
            return;
        }
        let offsets = match inputs.get(1 + usize::from(self.has_periods)) {
            Some(offsets) if self.has_offsets => offsets.i32s().into_owned(),
            _ => vec![self.offset; batch],
        };
        let periods = self.has_periods.then(|| inputs[1].f32s());
        let angles = Angles {
            frequencies: self.rotation.frequencies(periods.as_deref()),
            offsets,
            tokens,
            scale: self.rotation.scale,
        };
        let pairs = self.rotation.dimensions as usize / 2;
        let row = count * width;
        let turn_rows = |output: &mut [f32], heads: &[f32], turns: &[f32]| {
            with_vectors(
                #[inline(always)]
                || {
                    let rows = output.chunks_exact_mut(row).zip(heads.chunks_exact(row));
                    for ((output, heads), turns) in rows.zip(turns.chunks_exact(2 * pairs)) {
                        let (cosines, sines) = turns.split_at(pairs);
                        for (output, head) in output.chunks_exact_mut(width).zip(heads.chunks_exact(width)) {
                            self.turn(output, head, cosines, sines);
                        }
                    }
                },
            );
        };
        angles.with_table(|table| {
            let threads = threads_for(batch * tokens, heads.len());
            if threads == 1 {
                turn_rows(outputs[0], &heads, table);
            } else {
                let part = (batch * tokens).div_ceil(threads);
                outputs[0]
                    .par_chunks_mut(part * row)
                    .zip(heads.par_chunks(part * row))
                    .zip(table.par_chunks(part * 2 * pairs))
                    .for_each(|((output, heads), table)| turn_rows(output, heads, table));
            }
        });
    }

    /// Turning back is the transpose of turning.
    fn vjp(&self, inputs: &[Array], cotangents: &[Array], _: &[Array], arguments: &[usize]) -> Result<Vec<Array>> {
        if arguments != [0] {
            return Err(no_second_derivative(Self::NAME));
        }
        let inverse = Self {
            backwards: !self.backwards,
            ..self.clone()
        };
        let rest = inputs.iter().skip(1);
        let turned: Vec<&Array> = cotangents.iter().take(1).chain(rest).collect();
        // SAFETY: the cotangent is shaped like the heads, and the other inputs are those of this operation.
        let [gradient] = unsafe { inverse.apply(&turned, [inputs[0].shape()]) }?;
        Ok(vec![gradient])
    }
}

impl Turn {
    #[inline(always)]
    fn turn(&self, output: &mut [f32], head: &[f32], cosines: &[f32], sines: &[f32]) {
        let pairs = cosines.len();
        let direction = if self.backwards { -1.0 } else { 1.0 };
        if self.rotation.traditional {
            let (output, _) = output.split_at_mut(2 * pairs);
            let turns = cosines.iter().zip(sines);
            for ((output, pair), (cosine, sine)) in output.chunks_exact_mut(2).zip(head.chunks_exact(2)).zip(turns) {
                let sine = sine * direction;
                output[0] = pair[0] * cosine - pair[1] * sine;
                output[1] = pair[0] * sine + pair[1] * cosine;
            }
        } else {
            let (first, rest) = head.split_at(pairs);
            let (turned_first, turned_rest) = output.split_at_mut(pairs);
            for index in 0..pairs {
                let sine = sines[index] * direction;
                turned_first[index] = first[index] * cosines[index] - rest[index] * sine;
                turned_rest[index] = first[index] * sine + rest[index] * cosines[index];
            }
        }
        output[2 * pairs..].copy_from_slice(&head[2 * pairs..]);
    }
}

impl Rotation {
    /// Turns per position, in radians, as MLX has them.
    fn frequencies(&self, periods: Option<&[f32]>) -> Vec<f32> {
        if let Some(periods) = periods {
            return periods.iter().map(|period| 1.0 / period).collect();
        }
        let pairs = self.dimensions / 2;
        let step = self.base.ln() / pairs as f32;
        (0..pairs).map(|pair| (-(pair as f32) * step).exp()).collect()
    }
}

/// What decides the cosines and sines of a pass.
#[derive(PartialEq)]
struct Angles {
    frequencies: Vec<f32>,
    offsets: Vec<i32>,
    tokens: usize,
    scale: f32,
}

thread_local! {
    /// The last table of this stream: every block of a pass needs the same.
    static TABLE: RefCell<Option<(Angles, Vec<f32>)>> = const { RefCell::new(None) };
}

impl Angles {
    /// Calls `work` with the cosines of each token's angles, and then their sines, token after token.
    fn with_table<T>(self, work: impl FnOnce(&[f32]) -> T) -> T {
        TABLE.with_borrow_mut(|held| match held {
            Some((angles, table)) if *angles == self => work(table),
            _ => {
                let (_, table) = held.insert((self.clone_of(), self.table()));
                work(table)
            }
        })
    }

    fn clone_of(&self) -> Self {
        Self {
            frequencies: self.frequencies.clone(),
            offsets: self.offsets.clone(),
            ..*self
        }
    }

    fn table(&self) -> Vec<f32> {
        let pairs = self.frequencies.len();
        let mut table = Vec::with_capacity(self.offsets.len() * self.tokens * pairs * 2);
        for offset in &self.offsets {
            for token in 0..self.tokens {
                let position = (*offset + token as i32) as f32 * self.scale;
                let angles = self.frequencies.iter().map(|frequency| position * frequency);
                table.extend(angles.clone().map(f32::cos));
                table.extend(angles.map(f32::sin));
            }
        }
        table
    }
}
