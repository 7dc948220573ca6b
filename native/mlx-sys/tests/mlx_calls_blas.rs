//! Proof that MLX's CPU backend multiplies with this crate.
//!
//! A test binary of its own: here nothing but MLX raises the count of calls.
#![cfg(target_os = "linux")]

use std::{
    ffi::{c_int, c_void},
    slice,
    sync::{Mutex, PoisonError},
};

use mlx_sys::blas;
use rstest::rstest;

/// The count of calls belongs to the process.
static ALONE: Mutex<()> = Mutex::new(());

/// An evaluated MLX matrix product on the CPU device, in f32.
fn mlx_product(a: &[f32], b: &[f32], (rows, columns, depth): (usize, usize, usize)) -> Vec<f32> {
    // SAFETY: the shapes fit the slices, MLX copies them, and the result is copied before its
    // array is freed.
    unsafe {
        let array = |data: &[f32], rows: usize, columns: usize| {
            let shape = [rows as c_int, columns as c_int];
            let data = data.as_ptr().cast::<c_void>();
            mlx_sys::mlx_array_new_data(data, shape.as_ptr(), 2, mlx_sys::mlx_dtype__MLX_FLOAT32)
        };
        let (a, b) = (array(a, rows, depth), array(b, depth, columns));
        let stream = mlx_sys::mlx_default_cpu_stream_new();
        let mut product = mlx_sys::mlx_array_new();
        assert_eq!(mlx_sys::mlx_matmul(&raw mut product, a, b, stream), 0);
        assert_eq!(mlx_sys::mlx_array_eval(product), 0);
        let data = mlx_sys::mlx_array_data_float32(product);
        let result = slice::from_raw_parts(data, rows * columns).to_vec();
        for array in [a, b, product] {
            assert_eq!(mlx_sys::mlx_array_free(array), 0);
        }
        assert_eq!(mlx_sys::mlx_stream_free(stream), 0);
        result
    }
}

#[rstest]
#[case::tiny((3, 4, 5))]
#[case::row((1, 64, 96))]
#[case::square((130, 140, 150))]
fn mlx_multiplies_with_this_crate_and_not_with_the_reference_blas(#[case] shape: (usize, usize, usize)) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (rows, columns, depth) = shape;
    let left = |row: usize, step: usize| (row * 7 + step * 3) % 11;
    let right = |step: usize, column: usize| (step * 5 + column * 2) % 13;
    // Small whole numbers: every sum is exact in f32, whatever its order.
    let a: Vec<f32> = (0..rows * depth)
        .map(|index| left(index / depth, index % depth) as f32)
        .collect();
    let b: Vec<f32> = (0..depth * columns)
        .map(|index| right(index / columns, index % columns) as f32)
        .collect();

    let before = blas::calls();
    let product = mlx_product(&a, &b, shape);

    assert_eq!(
        blas::calls() - before,
        1,
        "MLX must call this crate once for one product"
    );
    for row in 0..rows {
        for column in 0..columns {
            let expected: usize = (0..depth).map(|step| left(row, step) * right(step, column)).sum();
            assert_eq!(product[row * columns + column], expected as f32, "at ({row}, {column})");
        }
    }
}
