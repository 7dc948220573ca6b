use std::collections::{BTreeMap, BTreeSet};

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::fast::ScaledDotProductAttentionMask;
use mlx_rs::ops::{arange, cummax, ge, gt, logical_and, select, subtract};

/// What one pass's tokens may attend to: those before them, within a block's window, within their own document.
///
/// It is made once for a pass and handed to every block, so that a mask exists once however many blocks use it.
#[derive(Debug)]
pub struct AttentionContext {
    /// Tokens of the pass.
    tokens: i32,
    /// Positions before them that stores hold.
    offset: i32,
    /// `[batch, tokens]`: the document that each token of a packed row belongs to.
    documents: Option<Array>,
    /// By window; `true` where a token may be attended to, `[tokens, keys]` or `[batch, 1, tokens, tokens]`.
    masks: BTreeMap<Option<i32>, Array>,
}

impl AttentionContext {
    /// The context of a pass of `tokens` tokens behind `offset` stored positions, for blocks with these `windows`.
    ///
    /// A block of window `w` attends to a token itself and to the `w - 1` before it; `None` is no limit.
    pub fn new(tokens: i32, offset: i32, windows: &BTreeSet<Option<i32>>) -> Result<Self> {
        let mut masks = BTreeMap::new();
        for &window in windows {
            // A window that reaches everything is no limit: causal attention needs no mask in memory.
            if let Some(width) = window.filter(|&width| width < offset + tokens) {
                masks.insert(window, within_window(tokens, offset, Some(width))?);
            }
        }
        Ok(Self {
            tokens,
            offset,
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
            .map(|&window| Ok((window, logical_and(&same, within_window(tokens, 0, window)?)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            tokens,
            offset: 0,
            documents: Some(documents.clone()),
            masks,
        })
    }

    /// The mask for a block of this `window`; `None` where nothing has to be hidden.
    ///
    /// # Errors
    /// The context of packed rows was made without this window.
    pub fn mask(&self, window: Option<i32>) -> Result<Option<ScaledDotProductAttentionMask<'_>>> {
        match self.masks.get(&window) {
            Some(mask) => Ok(Some(ScaledDotProductAttentionMask::Array(mask))),
            None if self.documents.is_some() => Err(Exception::custom("no mask for this window of packed rows")),
            None => Ok((self.tokens > 1).then_some(ScaledDotProductAttentionMask::Causal)),
        }
    }

    /// Positions of the pass's tokens, `[1, tokens]` or `[batch, tokens]`, from 0 in each document.
    pub fn positions(&self) -> Result<Array> {
        let indices = arange::<_, i32>(self.offset, self.offset + self.tokens, None)?.expand_dims(0)?;
        let Some(documents) = &self.documents else {
            return Ok(indices);
        };
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

    /// The position behind the last token of the pass.
    pub fn end(&self) -> i32 {
        self.offset + self.tokens
    }
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
