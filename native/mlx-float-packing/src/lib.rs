//! MLX's packings of weights in 4- and 8-bit floating-point numbers.
//!
//! A packed matrix `[rows, columns]`, or one such matrix per expert, is `words` `[rows, columns * bits / 32]` in u32, the
//! first column in the lowest bits, and `scales` `[rows, columns / group_size]` in u8, one to each group of a row. MLX's C
//! layer names the packing at every call, and mlx-rs always names the affine one, which has biases besides.
//!
//! Formats: OCP Microscaling Formats v1.0 for elements (E2M1, E4M3) and scales (E8M0); nvfp4 has scales in E4M3.

use std::ffi::{CStr, c_int};

use mlx_calls::{array_of, report_errors};
use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::concatenate;
use mlx_rs::{Array, Dtype, Stream};
use mlx_sys::{
    mlx_array, mlx_array_free, mlx_array_new, mlx_dequantize, mlx_dtype__MLX_BFLOAT16, mlx_dtype__MLX_FLOAT16,
    mlx_dtype__MLX_FLOAT32, mlx_gather_qmm, mlx_optional_dtype, mlx_optional_int, mlx_quantize, mlx_quantized_matmul,
    mlx_vector_array_free, mlx_vector_array_get, mlx_vector_array_new, mlx_vector_array_size,
};

/// A packing in floating-point numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatMode {
    /// Groups of 32 weights in E2M1, scales in E8M0.
    Mxfp4,
    /// Groups of 16 weights in E2M1, scales in E4M3.
    Nvfp4,
    /// Groups of 32 weights in E4M3, scales in E8M0.
    Mxfp8,
}

/// Values that MLX's portable code packs and unpacks at once; a matrix of another size makes it fail.
const VALUES_AT_ONCE: usize = 32;

impl FloatMode {
    /// Weights that share one scale.
    pub const fn group_size(self) -> i32 {
        match self {
            Self::Mxfp4 | Self::Mxfp8 => 32,
            Self::Nvfp4 => 16,
        }
    }

    /// Bits per weight.
    pub const fn bits(self) -> i32 {
        match self {
            Self::Mxfp4 | Self::Nvfp4 => 4,
            Self::Mxfp8 => 8,
        }
    }

    /// MLX's name for it.
    const fn name(self) -> &'static CStr {
        match self {
            Self::Mxfp4 => c"mxfp4",
            Self::Nvfp4 => c"nvfp4",
            Self::Mxfp8 => c"mxfp8",
        }
    }

    /// Weights in a word.
    const fn values_of_word(self) -> usize {
        match self {
            Self::Mxfp4 | Self::Nvfp4 => 8,
            Self::Mxfp8 => 4,
        }
    }

    /// Words of a group.
    const fn words(self) -> i32 {
        self.group_size() * self.bits() / 32
    }
}

/// Packs a matrix in f32, f16 or bf16; returns words and scales.
///
/// # Errors
/// The columns are no whole groups, or the elements are no floating-point numbers.
pub fn quantize(matrix: &Array, mode: FloatMode) -> Result<[Array; 2]> {
    let columns = columns(matrix, mode.group_size())?;
    if matrix.size().is_multiple_of(VALUES_AT_ONCE) {
        return quantize_whole(matrix, mode);
    }
    let groups = matrix.reshape(&[-1, mode.group_size()])?;
    let [words, scales] = quantize_whole(&one_more_row(&groups)?, mode)?;
    let shape = |last: i32| with_last(matrix, last);
    Ok([
        without_last_row(&words)?.reshape(&shape(columns * mode.bits() / 32))?,
        without_last_row(&scales)?.reshape(&shape(columns / mode.group_size()))?,
    ])
}

fn quantize_whole(matrix: &Array, mode: FloatMode) -> Result<[Array; 2]> {
    report_errors();
    let stream = Stream::thread_local_or_default();
    let global_scale = Nothing::new();
    // SAFETY: matrix, name and stream outlive the call; the vector is made here and freed once, after its arrays, which
    // count their own references, were taken out of it.
    let parts = unsafe {
        let mut vector = mlx_vector_array_new();
        let status = mlx_quantize(
            &raw mut vector,
            matrix.as_ptr(),
            given(mode.group_size()),
            given(mode.bits()),
            mode.name().as_ptr(),
            global_scale.0,
            stream.as_ptr(),
        );
        let count = if status == 0 { mlx_vector_array_size(vector) } else { 0 };
        let parts: Result<Vec<Array>> = (0..count)
            .map(|index| packed_array_of("take apart", |result| mlx_vector_array_get(result, vector, index)))
            .collect();
        mlx_vector_array_free(vector);
        parts?
    };
    parts
        .try_into()
        .map_err(|_| Exception::custom("MLX cannot pack a matrix of this shape and type"))
}

/// The matrix that `words` and `scales` hold, in f32, f16 or bf16; the values of every mode are exact in f32 and bf16.
///
/// # Errors
/// The two do not fit each other, or `dtype` is another.
pub fn dequantize(words: &Array, scales: &Array, mode: FloatMode, dtype: Dtype) -> Result<Array> {
    let groups = columns(words, mode.words())? / mode.words();
    if (words.size() * mode.values_of_word()).is_multiple_of(VALUES_AT_ONCE) {
        return dequantize_whole(words, scales, mode, dtype);
    }
    let words_of_groups = one_more_row(&words.reshape(&[-1, mode.words()])?)?;
    let scales = one_more_row(&scales.reshape(&[-1, 1])?)?;
    let plain = dequantize_whole(&words_of_groups, &scales, mode, dtype)?;
    without_last_row(&plain)?.reshape(&with_last(words, groups * mode.group_size()))
}

fn dequantize_whole(words: &Array, scales: &Array, mode: FloatMode, dtype: Dtype) -> Result<Array> {
    let value = match dtype {
        Dtype::Float32 => mlx_dtype__MLX_FLOAT32,
        Dtype::Float16 => mlx_dtype__MLX_FLOAT16,
        Dtype::Bfloat16 => mlx_dtype__MLX_BFLOAT16,
        other => return Err(Exception::custom(format!("weights cannot be unpacked in {other:?}"))),
    };
    let stream = Stream::thread_local_or_default();
    let (biases, global_scale) = (Nothing::new(), Nothing::new());
    packed_array_of("unpack", |result| {
        // SAFETY: arrays, name and stream outlive the call, which writes to `result` alone.
        unsafe {
            mlx_dequantize(
                result,
                words.as_ptr(),
                scales.as_ptr(),
                biases.0,
                given(mode.group_size()),
                given(mode.bits()),
                mode.name().as_ptr(),
                global_scale.0,
                mlx_optional_dtype { value, has_value: true },
                stream.as_ptr(),
            )
        }
    })
}

/// `input` `[..., columns]` times the transposed packed matrix, `[..., rows]` in the type of `input`.
///
/// # Errors
/// Shapes or types do not fit.
pub fn quantized_matmul(input: &Array, words: &Array, scales: &Array, mode: FloatMode) -> Result<Array> {
    let stream = Stream::thread_local_or_default();
    let biases = Nothing::new();
    packed_array_of("multiply by", |result| {
        // SAFETY: arrays, name and stream outlive the call, which writes to `result` alone.
        unsafe {
            mlx_quantized_matmul(
                result,
                input.as_ptr(),
                words.as_ptr(),
                scales.as_ptr(),
                biases.0,
                true,
                given(mode.group_size()),
                given(mode.bits()),
                mode.name().as_ptr(),
                stream.as_ptr(),
            )
        }
    })
}

/// `input` `[..., tokens, columns]` times the transposed packed matrices that `experts` names, whose shape broadcasts with
/// the leading axes; `sorted` says that the indices ascend.
///
/// # Errors
/// Shapes or types do not fit.
pub fn gather_qmm(
    input: &Array,
    words: &Array,
    scales: &Array,
    experts: &Array,
    mode: FloatMode,
    sorted: bool,
) -> Result<Array> {
    let stream = Stream::thread_local_or_default();
    let (biases, rows_of_input) = (Nothing::new(), Nothing::new());
    packed_array_of("multiply by experts of", |result| {
        // SAFETY: arrays, name and stream outlive the call, which writes to `result` alone.
        unsafe {
            mlx_gather_qmm(
                result,
                input.as_ptr(),
                words.as_ptr(),
                scales.as_ptr(),
                biases.0,
                rows_of_input.0,
                experts.as_ptr(),
                true,
                given(mode.group_size()),
                given(mode.bits()),
                mode.name().as_ptr(),
                sorted,
                stream.as_ptr(),
            )
        }
    })
}

/// The columns of `matrix`, which must be a multiple of `unit`.
fn columns(matrix: &Array, unit: i32) -> Result<i32> {
    match matrix.shape() {
        [_, .., columns] if columns % unit == 0 => Ok(*columns),
        shape => Err(Exception::custom(format!(
            "a packed matrix has columns in multiples of {unit}, not the shape {shape:?}"
        ))),
    }
}

fn with_last(matrix: &Array, last: i32) -> Vec<i32> {
    let mut shape = matrix.shape().to_vec();
    if let Some(columns) = shape.last_mut() {
        *columns = last;
    }
    shape
}

/// `matrix` with a row of zeros below it.
fn one_more_row(matrix: &Array) -> Result<Array> {
    let zeros = mlx_rs::ops::zeros_dtype(&[1, matrix.dim(1)], matrix.dtype())?;
    concatenate(&[matrix, &zeros], 0)
}

fn without_last_row(matrix: &Array) -> Result<Array> {
    let rows = Array::from_iter(0..matrix.dim(0) - 1, &[matrix.dim(0) - 1]);
    matrix.take_axis(rows, 0)
}

/// An array that MLX takes for one that is not given.
struct Nothing(mlx_array);

impl Nothing {
    fn new() -> Self {
        // SAFETY: it needs nothing and is freed when it is dropped.
        Self(unsafe { mlx_array_new() })
    }
}

impl Drop for Nothing {
    fn drop(&mut self) {
        // SAFETY: it was made here and is freed once.
        unsafe { mlx_array_free(self.0) };
    }
}

const fn given(value: i32) -> mlx_optional_int {
    mlx_optional_int { value, has_value: true }
}

/// The array that `call` makes; `what` was tried with packed weights.
fn packed_array_of(what: &str, call: impl FnOnce(*mut mlx_array) -> c_int) -> Result<Array> {
    array_of(call)
        .ok_or_else(|| Exception::custom(format!("MLX cannot {what} packed weights of these shapes and types")))
}
