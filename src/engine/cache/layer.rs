use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::{dequantize, quantize};
use mlx_rs::{Array, Dtype};

use super::buffer::Buffer;
use crate::model::{KeyValueStore, held_positions};

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CachePrecision {
    /// As the model computes them.
    #[default]
    Whole,
    /// Packed along each head's values, `group_size` of which share a scale and a bias; they are unpacked, one block at a
    /// time, where they are attended to.
    Packed {
        /// Values that share a scale.
        group_size: i32,
        /// Bits of a value.
        bits: i32,
    },
}

/// Keys and values of one block for one sequence.
#[derive(Debug, Clone)]
pub struct LayerCache {
    keys: Kept,
    values: Kept,
    length: i32,
}

impl LayerCache {
    /// An empty cache.
    pub fn new(precision: CachePrecision) -> Self {
        Self {
            keys: Kept::new(precision),
            values: Kept::new(precision),
            length: 0,
        }
    }

    /// Bytes in memory, room for later tokens included.
    pub fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes()
    }

    /// Whether all positions are still held, so that the cache can go back to fewer.
    pub fn is_complete(&self) -> bool {
        self.keys.held() == self.length
    }

    /// Goes back to the first `length` tokens; only a complete cache can.
    pub(super) fn cut_to(&mut self, length: i32) {
        self.length = self.length.min(length);
        self.keys.cut_to(length);
        self.values.cut_to(length);
    }

    /// What is in memory, to be computed together with others.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.keys.arrays().chain(self.values.arrays())
    }
}

impl KeyValueStore for LayerCache {
    fn length(&self) -> i32 {
        self.length
    }

    fn append(&mut self, keys: Array, values: Array, window: Option<i32>) -> Result<(Array, Array)> {
        let before = held_positions(self.length, window);
        if before > self.keys.held() {
            return Err(Exception::custom(
                "a block's window became wider than what its store holds",
            ));
        }
        self.length += keys.dim(2);
        Ok((self.keys.append(&keys, before)?, self.values.append(&values, before)?))
    }
}

/// Keys or values.
#[derive(Debug, Clone)]
enum Kept {
    Whole(Buffer),
    Packed {
        /// Words, scales and biases.
        buffers: [Buffer; 3],
        group_size: i32,
        bits: i32,
    },
}

impl Kept {
    fn new(precision: CachePrecision) -> Self {
        match precision {
            CachePrecision::Whole => Self::Whole(Buffer::default()),
            CachePrecision::Packed { group_size, bits } => Self::Packed {
                buffers: Default::default(),
                group_size,
                bits,
            },
        }
    }

    fn buffers(&self) -> &[Buffer] {
        match self {
            Self::Whole(buffer) => std::slice::from_ref(buffer),
            Self::Packed { buffers, .. } => buffers,
        }
    }

    fn held(&self) -> i32 {
        self.buffers().first().map_or(0, Buffer::held)
    }

    fn bytes(&self) -> usize {
        self.buffers().iter().map(Buffer::bytes).sum()
    }

    fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.buffers().iter().filter_map(Buffer::array)
    }

    fn cut_to(&mut self, held: i32) {
        match self {
            Self::Whole(buffer) => buffer.cut_to(held),
            Self::Packed { buffers, .. } => buffers.iter_mut().for_each(|buffer| buffer.cut_to(held)),
        }
    }

    fn append(&mut self, new: &Array, before: i32) -> Result<Array> {
        match self {
            Self::Whole(buffer) => buffer.append(new, before),
            Self::Packed {
                buffers: [words, scales, biases],
                group_size,
                bits,
            } => {
                let (group_size, bits) = (*group_size, *bits);
                let packed = quantize(new.as_dtype(Dtype::Float32)?, group_size, bits)?;
                let words = words.append(&packed.0, before)?;
                let scales = scales.append(&packed.1, before)?;
                let biases = biases.append(&packed.2, before)?;
                dequantize(words, scales, Some(&biases), group_size, bits)?.as_dtype(new.dtype())
            }
        }
    }
}
