use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::ops::{concatenate, zeros_dtype};

/// Positions by which a buffer grows at least, so that most appends write into it in place.
const GROWTH: i32 = 256;

/// Vectors of consecutive positions, `[1, heads, positions, values]`, with room for more behind them.
///
/// MLX writes a slice into an array in place when nothing else holds it, and into a copy otherwise: a clone of a buffer
/// shares its memory until either is appended to.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffer {
    array: Option<Array>,
    /// The first position that is held, by its place in `array`.
    first: i32,
    /// The place behind the last one.
    end: i32,
}

impl Buffer {
    /// Positions that are held.
    pub(super) fn held(&self) -> i32 {
        self.end - self.first
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.array.as_ref().map_or(0, Array::nbytes)
    }

    /// Forgets all but the last `kept` positions, appends `new`, and returns what is then held.
    pub(super) fn append(&mut self, new: &Array, kept: i32) -> Result<Array> {
        self.first = self.end - kept.min(self.held());
        let tokens = new.dim(2);
        match &mut self.array {
            Some(array) if self.end + tokens <= array.dim(2) => {
                array.try_index_mut((.., .., self.end..self.end + tokens), new)?;
                self.end += tokens;
            }
            _ => self.grow(new)?,
        }
        match &self.array {
            Some(array) if self.first == 0 && self.end == array.dim(2) => Ok(array.clone()),
            Some(array) => array.try_index((.., .., self.first..self.end)),
            None => Ok(new.clone()),
        }
    }

    /// Moves what is held into a larger array, `new` behind it.
    fn grow(&mut self, new: &Array) -> Result<()> {
        let (held, tokens) = (self.held(), new.dim(2));
        let room = -(held + tokens) % GROWTH;
        let room = if room < 0 { room + GROWTH } else { room };
        let mut parts = Vec::with_capacity(3);
        if let Some(array) = self.array.take().filter(|_| held > 0) {
            parts.push(array.try_index((.., .., self.first..self.end))?);
        }
        parts.push(new.clone());
        if room > 0 {
            parts.push(zeros_dtype(&[1, new.dim(1), room, new.dim(3)], new.dtype())?);
        }
        self.array = Some(concatenate(&parts, 2)?);
        self.first = 0;
        self.end = held + tokens;
        Ok(())
    }

    /// Forgets the positions from the `held`th on.
    pub(super) fn cut_to(&mut self, held: i32) {
        self.end = self.end.min(self.first + held);
    }

    /// The array, where there is one, to be computed together with others.
    pub(super) fn array(&self) -> Option<&Array> {
        self.array.as_ref()
    }
}
