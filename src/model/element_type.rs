//! Element types of tensors in torch and numpy files, and arrays from their bytes.

use mlx_rs::Array;

/// Most values of one tensor: MLX's bindings count them in an `i32`.
const MOST_VALUES: usize = i32::MAX as usize;

/// Most dimensions of one tensor, as torch's and numpy's own limit.
const MOST_DIMENSIONS: usize = 64;

/// An element type, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ElementType {
    Float64,
    Float32,
    Float16,
    Bfloat16,
    Int64,
    Int32,
    Int16,
    Int8,
    Uint64,
    Uint32,
    Uint16,
    Uint8,
    Bool,
}

impl ElementType {
    /// Bytes of one value.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Float64 | Self::Int64 | Self::Uint64 => 8,
            Self::Float32 | Self::Int32 | Self::Uint32 => 4,
            Self::Float16 | Self::Bfloat16 | Self::Int16 | Self::Uint16 => 2,
            Self::Int8 | Self::Uint8 | Self::Bool => 1,
        }
    }

    /// The name in the letters of safetensors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Float64 => "F64",
            Self::Float32 => "F32",
            Self::Float16 => "F16",
            Self::Bfloat16 => "BF16",
            Self::Int64 => "I64",
            Self::Int32 => "I32",
            Self::Int16 => "I16",
            Self::Int8 => "I8",
            Self::Uint64 => "U64",
            Self::Uint32 => "U32",
            Self::Uint16 => "U16",
            Self::Uint8 => "U8",
            Self::Bool => "BOOL",
        }
    }

    /// The array of `shape` whose values, row by row, are `bytes`; `None` when the two do not agree or it is too large.
    ///
    /// Values of 64-bit floats become 32-bit ones, which is the largest type that a GPU computes in.
    pub(super) fn array(self, bytes: &[u8], shape: &[usize]) -> Option<Array> {
        let sizes: Vec<i32> = shape
            .iter()
            .map(|&size| i32::try_from(size))
            .collect::<Result<_, _>>()
            .ok()?;
        let count = value_count(shape).filter(|&count| count <= MOST_VALUES)?;
        if shape.len() > MOST_DIMENSIONS || bytes.len() != count.checked_mul(self.bytes())? {
            return None;
        }
        Some(match self {
            Self::Float64 => Array::from_slice(&values(bytes, |value| f64::from_le_bytes(value) as f32), &sizes),
            Self::Float32 => Array::from_slice(&values(bytes, f32::from_le_bytes), &sizes),
            Self::Float16 => Array::from_slice(&values(bytes, half::f16::from_le_bytes), &sizes),
            Self::Bfloat16 => Array::from_slice(&values(bytes, half::bf16::from_le_bytes), &sizes),
            Self::Int64 => Array::from_slice(&values(bytes, i64::from_le_bytes), &sizes),
            Self::Int32 => Array::from_slice(&values(bytes, i32::from_le_bytes), &sizes),
            Self::Int16 => Array::from_slice(&values(bytes, i16::from_le_bytes), &sizes),
            Self::Int8 => Array::from_slice(&values(bytes, i8::from_le_bytes), &sizes),
            Self::Uint64 => Array::from_slice(&values(bytes, u64::from_le_bytes), &sizes),
            Self::Uint32 => Array::from_slice(&values(bytes, u32::from_le_bytes), &sizes),
            Self::Uint16 => Array::from_slice(&values(bytes, u16::from_le_bytes), &sizes),
            Self::Uint8 => Array::from_slice(bytes, &sizes),
            Self::Bool => Array::from_slice(&values(bytes, |[value]: [u8; 1]| value != 0), &sizes),
        })
    }
}

/// The whole values in `bytes`.
fn values<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&chunk| value(chunk)).collect()
}

/// Values of a tensor of `shape`; `None` when that is more than can be counted.
pub(super) fn value_count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size))
}
