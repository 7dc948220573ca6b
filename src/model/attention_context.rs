use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::fast::ScaledDotProductAttentionMask;
use mlx_rs::ops::{arange, cummax, ge, gt, logical_and, select, subtract};

/// The tokens that a pass has of one sequence, or of each of several rows alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Tokens of the pass.
    pub tokens: i32,
    /// Tokens of the same sequence before them, whose keys and values stores hold.
    pub offset: i32,
}

/// Neighbouring segments with equally many tokens, which are computed together.
#[derive(Debug)]
pub struct Run {
    /// The segments, by their place in the pass.
    pub segments: Range<usize>,
    /// Tokens of each.
    pub tokens: i32,
    /// Where the first token of the first one stands in the pass's row.
    pub start: i32,
    /// How many tokens come before, for each of them.
    pub offsets: Offsets,
}

/// How many tokens come before those of a pass.
#[derive(Debug)]
pub enum Offsets {
    /// Equally many everywhere.
    Equal(i32),
    /// One number for each sequence, `[sequences]` in i32.
    Each(Array),
}

/// What one pass's tokens may attend to: those before them, within a block's window, within their own document or
/// sequence.
///
/// It is made once for a pass and handed to every block, so that a mask exists once however many blocks use it.
#[derive(Debug)]
pub struct AttentionContext {
    /// One for rows that are alike, or one for each sequence whose tokens the pass's only row holds one after the other.
    segments: Vec<Segment>,
    runs: Vec<Run>,
    /// `[batch, tokens]`: the document that each token of a packed row belongs to.
    documents: Option<Array>,
    /// By segment and window; `true` where a token may be attended to, `[tokens, keys]` or `[batch, 1, tokens, tokens]`.
    masks: BTreeMap<(usize, Option<i32>), Array>,
}

impl AttentionContext {
    /// The context of a pass of rows of `tokens` tokens without stores, for blocks with these `windows`.
    ///
    /// A block of window `w` attends to a token itself and to the `w - 1` before it; `None` is no limit.
    pub fn new(tokens: i32, windows: &BTreeSet<Option<i32>>) -> Result<Self> {
        Self::of_segments(vec![Segment { tokens, offset: 0 }], windows)
    }

    /// The context of a pass whose only row holds the tokens of several sequences, one after the other.
    pub fn of_segments(segments: Vec<Segment>, windows: &BTreeSet<Option<i32>>) -> Result<Self> {
        let mut masks = BTreeMap::new();
        for (index, segment) in segments.iter().enumerate() {
            for &window in windows {
                let Some(width) = window else { continue };
                let held = held_positions(segment.offset, window);
                // One token may attend to all that a store holds. A window that reaches everything is no limit: causal
                // attention needs no mask in memory.
                if segment.tokens > 1 && width < held + segment.tokens {
                    masks.insert((index, window), within_window(segment.tokens, held, window)?);
                }
            }
        }
        Ok(Self {
            runs: runs(&segments),
            segments,
            documents: None,
            masks,
        })
    }

    /// The context of packed rows: `documents` `[batch, tokens]` holds the same number for all tokens of a document,
    /// whose tokens stand together. No token attends to another document's.
    pub fn within_documents(documents: &Array, windows: &BTreeSet<Option<i32>>) -> Result<Self> {
        if documents.ndim() != 2 {
            return Err(Exception::custom("documents of packed rows are `[batch, tokens]`"));
        }
        let tokens = documents.dim(1);
        let same = documents
            .expand_dims(2)?
            .eq(documents.expand_dims(1)?)?
            .expand_dims(1)?;
        let masks = windows
            .iter()
            .map(|&window| Ok(((0, window), logical_and(&same, within_window(tokens, 0, window)?)?)))
            .collect::<Result<_>>()?;
        let segments = vec![Segment { tokens, offset: 0 }];
        Ok(Self {
            runs: runs(&segments),
            segments,
            documents: Some(documents.clone()),
            masks,
        })
    }

    /// The segments in the order of the pass, those with equally many tokens together.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The mask of a segment for a block of this `window`; `None` where nothing has to be hidden.
    ///
    /// # Errors
    /// The context of packed rows was made without this window.
    pub fn mask(&self, segment: usize, window: Option<i32>) -> Result<Option<ScaledDotProductAttentionMask<'_>>> {
        match self.masks.get(&(segment, window)) {
            Some(mask) => Ok(Some(ScaledDotProductAttentionMask::Array(mask))),
            None if self.documents.is_some() => Err(Exception::custom("no mask for this window of packed rows")),
            None => {
                let is_long = self.segments.get(segment).is_some_and(|segment| segment.tokens > 1);
                Ok(is_long.then_some(ScaledDotProductAttentionMask::Causal))
            }
        }
    }

    /// `[batch, tokens]`: the document of each token, where rows hold several.
    pub fn documents(&self) -> Option<&Array> {
        self.documents.as_ref()
    }

    /// Positions of the pass's tokens, `[1, tokens]` or `[batch, tokens]`, from 0 in each document or sequence.
    pub fn positions(&self) -> Result<Array> {
        let Some(documents) = &self.documents else {
            let of_segments = self.segments.iter();
            let positions: Vec<i32> = of_segments
                .flat_map(|segment| segment.offset..segment.offset + segment.tokens)
                .collect();
            return Ok(Array::from_slice(&positions, &[1, positions.len() as i32]));
        };
        let indices = arange::<_, i32>(0, documents.dim(1), None)?.expand_dims(0)?;
        let columns = documents.dim(1);
        if columns < 2 {
            return subtract(&indices, &indices);
        }
        let column = |from: i32, to: i32| documents.take_axis(arange::<_, i32>(from, to, None)?, 1);
        let changed = column(1, columns)?.ne(column(0, columns - 1)?)?;
        let later = indices.take_axis(arange::<_, i32>(1, columns, None)?, 1)?;
        let begins = select(&changed, &later, Array::from_int(0))?;
        let first = Array::zeros::<i32>(&[documents.dim(0), 1])?;
        let starts = cummax(mlx_rs::ops::concatenate(&[first, begins], 1)?, 1, None, None)?;
        subtract(&indices, &starts)
    }

    /// The furthest position behind the last token of a sequence.
    pub fn end(&self) -> i32 {
        let ends = self.segments.iter().map(|segment| segment.offset + segment.tokens);
        ends.max().unwrap_or(0)
    }
}

/// Positions before a pass whose keys and values a block of this `window` still attends to, of `offset` in all.
pub fn held_positions(offset: i32, window: Option<i32>) -> i32 {
    window.map_or(offset, |width| offset.min(width - 1))
}

fn runs(segments: &[Segment]) -> Vec<Run> {
    let mut runs = Vec::new();
    let (mut first, mut start) = (0, 0);
    for group in segments.chunk_by(|one, other| one.tokens == other.tokens) {
        let offsets: Vec<i32> = group.iter().map(|segment| segment.offset).collect();
        let tokens = group[0].tokens;
        runs.push(Run {
            segments: first..first + group.len(),
            tokens,
            start,
            offsets: if offsets.iter().all(|offset| *offset == offsets[0]) {
                Offsets::Equal(offsets[0])
            } else {
                Offsets::Each(Array::from_slice(&offsets, &[offsets.len() as i32]))
            },
        });
        first += group.len();
        start += tokens * group.len() as i32;
    }
    runs
}

/// `[tokens, offset + tokens]`: whether a key is no later than a query, and not `window` or more before it.
fn within_window(tokens: i32, offset: i32, window: Option<i32>) -> Result<Array> {
    let queries = arange::<_, i32>(offset, offset + tokens, None)?.expand_dims(1)?;
    let keys = arange::<_, i32>(0, offset + tokens, None)?.expand_dims(0)?;
    let distance = subtract(&queries, &keys)?;
    let causal = ge(&distance, Array::from_int(0))?;
    match window {
        None => Ok(causal),
        Some(window) => logical_and(&causal, gt(Array::from_int(window), &distance)?),
    }
}
