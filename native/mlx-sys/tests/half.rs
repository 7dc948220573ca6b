//! The accessors of 16-bit floats, which mlx-c itself only has on some processors.

use std::slice;

use mlx_sys::{bfloat16_t, float16_t, mlx_array};
use rstest::rstest;

/// A number that both formats hold exactly, and its bits in each (IEEE 754; the upper half of f32).
#[rstest]
#[case::one_and_a_half(1.5, 0x3E00, 0x3FC0)]
#[case::negative(-2.0, 0xC000, 0xC000)]
#[case::zero(0.0, 0, 0)]
fn a_half_is_read_as_its_bits(#[case] number: f32, #[case] float16: u16, #[case] bfloat16: u16) {
    // SAFETY: the arrays are made, evaluated, read and freed here.
    unsafe {
        let half = converted(number, mlx_sys::mlx_dtype__MLX_FLOAT16);
        let mut item = float16_t(u16::MAX);
        assert_eq!(mlx_sys::mlx_array_item_float16(&raw mut item, half), 0);
        assert_eq!(item, float16_t(float16));
        let data = slice::from_raw_parts(mlx_sys::mlx_array_data_float16(half), 1);
        assert_eq!(data, [float16_t(float16)]);
        assert_eq!(mlx_sys::mlx_array_free(half), 0);

        let half = converted(number, mlx_sys::mlx_dtype__MLX_BFLOAT16);
        let mut item: bfloat16_t = u16::MAX;
        assert_eq!(mlx_sys::mlx_array_item_bfloat16(&raw mut item, half), 0);
        assert_eq!(item, bfloat16);
        let data = slice::from_raw_parts(mlx_sys::mlx_array_data_bfloat16(half), 1);
        assert_eq!(data, [bfloat16]);
        assert_eq!(mlx_sys::mlx_array_free(half), 0);
    }
}

/// A scalar that MLX converted from f32, evaluated.
unsafe fn converted(number: f32, dtype: mlx_sys::mlx_dtype) -> mlx_array {
    // SAFETY: every handle is made here and used before it is freed.
    unsafe {
        let single = mlx_sys::mlx_array_new_float32(number);
        let stream = mlx_sys::mlx_default_cpu_stream_new();
        let mut half = mlx_sys::mlx_array_new();
        assert_eq!(mlx_sys::mlx_astype(&raw mut half, single, dtype, stream), 0);
        assert_eq!(mlx_sys::mlx_array_eval(half), 0);
        assert_eq!(mlx_sys::mlx_stream_free(stream), 0);
        assert_eq!(mlx_sys::mlx_array_free(single), 0);
        half
    }
}
