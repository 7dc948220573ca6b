//! The matrix products against a naive one.
#![cfg(target_os = "linux")]

use std::{
    ffi::{c_int, c_void},
    sync::{Mutex, PoisonError},
};

use mlx_sys::blas;
use rstest::rstest;

const ROW_MAJOR: c_int = 101;
const COLUMN_MAJOR: c_int = 102;
const AS_IT_IS: c_int = 111;
const TRANSPOSED: c_int = 112;
const CONJUGATE_TRANSPOSED: c_int = 113;

/// Elements between the end of a stored line and the start of the next.
const PADDING: usize = 3;

/// Shapes (rows, columns, depth): empty, single, vectors, narrow ones in and past one block, odd
/// ones around the vector widths, and one that several threads share.
const SHAPES: &[(usize, usize, usize)] = &[
    (0, 0, 0),
    (0, 5, 3),
    (5, 0, 3),
    (5, 3, 0),
    (1, 1, 1),
    (1, 1, 300),
    (1, 37, 19),
    (37, 1, 19),
    (1, 700, 65),
    (700, 1, 65),
    (7, 9, 1),
    (9, 7, 2),
    (2, 301, 67),
    (301, 5, 67),
    (13, 40, 260),
    (40, 33, 33),
    (17, 19, 23),
    (64, 64, 64),
    (65, 47, 129),
];

/// An element type: converted from and to a pair (real, imaginary), and its routine.
trait Element: Copy + PartialEq + std::fmt::Debug {
    const EPSILON: f64;
    fn from_pair(pair: (f64, f64)) -> Self;
    fn to_pair(self) -> (f64, f64);
    fn gemm(call: &Call<Self>, a: &[Self], b: &[Self], c: &mut [Self]);
}

struct Call<T> {
    order: c_int,
    transpose: (c_int, c_int),
    shape: (usize, usize, usize),
    alpha: T,
    beta: T,
}

impl<T> Call<T> {
    fn stored_a(&self) -> (usize, usize) {
        stored((self.shape.0, self.shape.2), self.transpose.0)
    }

    fn stored_b(&self) -> (usize, usize) {
        stored((self.shape.2, self.shape.1), self.transpose.1)
    }

    fn leading_dimension(&self, (rows, columns): (usize, usize)) -> usize {
        PADDING + if self.order == ROW_MAJOR { columns } else { rows }
    }

    fn index(&self, shape: (usize, usize), row: usize, column: usize) -> usize {
        let leading_dimension = self.leading_dimension(shape);
        if self.order == ROW_MAJOR {
            row * leading_dimension + column
        } else {
            column * leading_dimension + row
        }
    }

    fn length(&self, (rows, columns): (usize, usize)) -> usize {
        let lines = if self.order == ROW_MAJOR { rows } else { columns };
        lines * self.leading_dimension((rows, columns))
    }

    fn sizes(&self) -> (c_int, c_int, c_int) {
        (self.shape.0 as c_int, self.shape.1 as c_int, self.shape.2 as c_int)
    }
}

fn stored((rows, columns): (usize, usize), transpose: c_int) -> (usize, usize) {
    if transpose == AS_IT_IS {
        (rows, columns)
    } else {
        (columns, rows)
    }
}

macro_rules! real_element {
    ($type:ty, $routine:path) => {
        impl Element for $type {
            const EPSILON: f64 = <$type>::EPSILON as f64;

            fn from_pair((real, _): (f64, f64)) -> Self {
                real as Self
            }

            fn to_pair(self) -> (f64, f64) {
                (f64::from(self), 0.0)
            }

            fn gemm(call: &Call<Self>, a: &[Self], b: &[Self], c: &mut [Self]) {
                let (m, n, k) = call.sizes();
                // SAFETY: the slices have the lengths that the sizes and leading dimensions need.
                unsafe {
                    $routine(
                        call.order,
                        call.transpose.0,
                        call.transpose.1,
                        m,
                        n,
                        k,
                        call.alpha,
                        a.as_ptr(),
                        call.leading_dimension(call.stored_a()) as c_int,
                        b.as_ptr(),
                        call.leading_dimension(call.stored_b()) as c_int,
                        call.beta,
                        c.as_mut_ptr(),
                        call.leading_dimension((call.shape.0, call.shape.1)) as c_int,
                    );
                }
            }
        }
    };
}

real_element!(f32, blas::cblas_sgemm);
real_element!(f64, blas::cblas_dgemm);

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Complex64 {
    real: f32,
    imaginary: f32,
}

impl Element for Complex64 {
    const EPSILON: f64 = f32::EPSILON as f64;

    fn from_pair((real, imaginary): (f64, f64)) -> Self {
        Self {
            real: real as f32,
            imaginary: imaginary as f32,
        }
    }

    fn to_pair(self) -> (f64, f64) {
        (f64::from(self.real), f64::from(self.imaginary))
    }

    fn gemm(call: &Call<Self>, a: &[Self], b: &[Self], c: &mut [Self]) {
        let (m, n, k) = call.sizes();
        // SAFETY: as for the real types; alpha and beta are complex numbers in memory.
        unsafe {
            blas::cblas_cgemm(
                call.order,
                call.transpose.0,
                call.transpose.1,
                m,
                n,
                k,
                (&raw const call.alpha).cast::<c_void>(),
                a.as_ptr().cast::<c_void>(),
                call.leading_dimension(call.stored_a()) as c_int,
                b.as_ptr().cast::<c_void>(),
                call.leading_dimension(call.stored_b()) as c_int,
                (&raw const call.beta).cast::<c_void>(),
                c.as_mut_ptr().cast::<c_void>(),
                call.leading_dimension((call.shape.0, call.shape.1)) as c_int,
            );
        }
    }
}

fn multiply((a, b): (f64, f64), (c, d): (f64, f64)) -> (f64, f64) {
    (a * c - b * d, a * d + b * c)
}

fn magnitude((real, imaginary): (f64, f64)) -> f64 {
    real.hypot(imaginary)
}

/// Values between -1 and 1 without any pattern that a wrong stride would keep.
fn values<T: Element>(length: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = move || {
        // Knuth's 64-bit linear congruential generator; its upper bits are the good ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (0..length).map(|_| T::from_pair((next(), next()))).collect()
}

/// Runs the routine and compares every element, and every byte it must leave alone.
fn check<T: Element>(call: &Call<T>) {
    let (rows, columns, depth) = call.shape;
    let out_shape = (rows, columns);
    let a = values::<T>(call.length(call.stored_a()), 1);
    let b = values::<T>(call.length(call.stored_b()), 2);
    let mut before = values::<T>(call.length(out_shape), 3);
    let beta_is_zero = call.beta.to_pair() == (0.0, 0.0);
    if beta_is_zero {
        before.fill(T::from_pair((f64::NAN, f64::NAN)));
    }
    let mut out = before.clone();
    T::gemm(call, &a, &b, &mut out);

    let operand = |data: &[T], shape: (usize, usize), transpose: c_int, row: usize, column: usize| {
        let (row, column) = if transpose == AS_IT_IS {
            (row, column)
        } else {
            (column, row)
        };
        let (real, imaginary) = data[call.index(shape, row, column)].to_pair();
        (
            real,
            if transpose == CONJUGATE_TRANSPOSED {
                -imaginary
            } else {
                imaginary
            },
        )
    };
    let mut written = vec![false; out.len()];
    for row in 0..rows {
        for column in 0..columns {
            let (mut sum, mut scale) = ((0.0, 0.0), 0.0);
            for step in 0..depth {
                let term = multiply(
                    operand(&a, call.stored_a(), call.transpose.0, row, step),
                    operand(&b, call.stored_b(), call.transpose.1, step, column),
                );
                sum = (sum.0 + term.0, sum.1 + term.1);
                scale += magnitude(term);
            }
            let mut expected = multiply(call.alpha.to_pair(), sum);
            let mut allowed = scale * magnitude(call.alpha.to_pair());
            let index = call.index(out_shape, row, column);
            if !beta_is_zero {
                let kept = multiply(call.beta.to_pair(), before[index].to_pair());
                expected = (expected.0 + kept.0, expected.1 + kept.1);
                allowed += magnitude(kept);
            }
            let found = out[index].to_pair();
            let error = magnitude((found.0 - expected.0, found.1 - expected.1));
            // The worst rounding of a sum of `depth` products, in any order of summation.
            let allowed = allowed * T::EPSILON * (depth as f64 + 4.0);
            assert!(
                error <= allowed,
                "{:?} transpose {:?} order {} alpha {:?} beta {:?} at ({row}, {column}): found {found:?}, expected {expected:?}",
                call.shape,
                call.transpose,
                call.order,
                call.alpha,
                call.beta
            );
            written[index] = true;
        }
    }
    for (index, (found, expected)) in out
        .iter()
        .zip(&before)
        .enumerate()
        .filter(|(index, _)| !written[*index])
    {
        let ((real, imaginary), (expected_real, expected_imaginary)) = (found.to_pair(), expected.to_pair());
        assert!(
            real.to_bits() == expected_real.to_bits() && imaginary.to_bits() == expected_imaginary.to_bits(),
            "{:?} changed the padding at {index}",
            call.shape
        );
    }
}

fn check_all<T: Element>(order: c_int, transpose: (c_int, c_int), shapes: &[(usize, usize, usize)]) {
    let factors = [(0.0, 0.0), (1.0, 0.0), (-0.5, 0.75)];
    for &shape in shapes {
        for alpha in factors {
            for beta in factors {
                let (alpha, beta) = (T::from_pair(alpha), T::from_pair(beta));
                check(&Call {
                    order,
                    transpose,
                    shape,
                    alpha,
                    beta,
                });
            }
        }
    }
}

/// The number of threads belongs to the process.
static ALONE: Mutex<()> = Mutex::new(());

#[rstest]
fn sgemm_equals_the_naive_product(
    #[values(ROW_MAJOR, COLUMN_MAJOR)] order: c_int,
    #[values(AS_IT_IS, TRANSPOSED, CONJUGATE_TRANSPOSED)] a: c_int,
    #[values(AS_IT_IS, TRANSPOSED, CONJUGATE_TRANSPOSED)] b: c_int,
) {
    check_all::<f32>(order, (a, b), SHAPES);
}

#[rstest]
fn dgemm_equals_the_naive_product(
    #[values(ROW_MAJOR, COLUMN_MAJOR)] order: c_int,
    #[values(AS_IT_IS, TRANSPOSED, CONJUGATE_TRANSPOSED)] a: c_int,
    #[values(AS_IT_IS, TRANSPOSED, CONJUGATE_TRANSPOSED)] b: c_int,
) {
    check_all::<f64>(order, (a, b), SHAPES);
}

#[rstest]
fn cgemm_equals_the_naive_product(
    #[values(ROW_MAJOR, COLUMN_MAJOR)] order: c_int,
    #[values(AS_IT_IS, TRANSPOSED, CONJUGATE_TRANSPOSED)] a: c_int,
    #[values(AS_IT_IS, TRANSPOSED, CONJUGATE_TRANSPOSED)] b: c_int,
) {
    check_all::<Complex64>(order, (a, b), SHAPES);
}

#[rstest]
#[case::whole((200, 210, 220))]
#[case::row((1, 3000, 400))]
#[case::column((3000, 1, 400))]
#[case::narrow((5, 3000, 400))]
#[case::outer((1500, 900, 2))]
fn products_large_enough_for_threads_equal_the_naive_product(
    #[case] shape: (usize, usize, usize),
    #[values(0, 1, 2, 3)] threads: usize,
    #[values((AS_IT_IS, AS_IT_IS), (AS_IT_IS, TRANSPOSED), (TRANSPOSED, AS_IT_IS))] transpose: (c_int, c_int),
) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    blas::set_threads(threads);
    check(&Call {
        order: ROW_MAJOR,
        transpose,
        shape,
        alpha: 1.0_f32,
        beta: 0.0,
    });
    check(&Call {
        order: ROW_MAJOR,
        transpose,
        shape,
        alpha: 0.5_f32,
        beta: -2.0,
    });
    blas::set_threads(0);
}

#[rstest]
fn a_zero_alpha_reads_neither_operand(#[values((3, 4, 5), (1, 64, 300), (40, 40, 40))] shape: (usize, usize, usize)) {
    let call = Call {
        order: ROW_MAJOR,
        transpose: (AS_IT_IS, AS_IT_IS),
        shape,
        alpha: 0.0_f32,
        beta: 2.0,
    };
    let a = vec![f32::NAN; call.length(call.stored_a())];
    let b = vec![f32::NAN; call.length(call.stored_b())];
    let mut out = vec![1.5; call.length((shape.0, shape.1))];
    f32::gemm(&call, &a, &b, &mut out);
    let expected = (0..shape.0).flat_map(|row| (0..shape.1).map(move |column| (row, column)));
    for (row, column) in expected {
        assert_eq!(out[call.index((shape.0, shape.1), row, column)], 3.0);
    }
}

#[test]
fn two_threads_computing_at_once_get_the_same_products_as_one() {
    let transpose = (AS_IT_IS, TRANSPOSED);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..5 {
                    check_all::<f32>(ROW_MAJOR, transpose, &[(90, 110, 130), (1, 2000, 300)]);
                }
            });
        }
    });
}

#[test]
fn threads_are_all_cores_until_set() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cores = std::thread::available_parallelism()
        .expect("the number of cores is known")
        .get();
    assert_eq!(blas::threads(), cores);
    blas::set_threads(1);
    assert_eq!(blas::threads(), 1);
    blas::set_threads(0);
    assert_eq!(blas::threads(), cores);
}

#[test]
fn in_order_a_row_has_the_same_bits_alone_and_among_others() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (rows, columns, depth) = (33, 70, 301);
    let a: Vec<f32> = values(rows * (depth + PADDING), 5);
    let b: Vec<f32> = values(depth * (columns + PADDING), 6);
    let product = |a: &[f32], rows: usize| {
        let mut c = vec![0.0; rows * (columns + PADDING)];
        let call = Call {
            order: ROW_MAJOR,
            transpose: (AS_IT_IS, AS_IT_IS),
            shape: (rows, columns, depth),
            alpha: 1.0,
            beta: 0.0,
        };
        f32::gemm(&call, a, &b, &mut c);
        c
    };
    let was = blas::set_in_order(true);
    let together = product(&a, rows);
    let each: Vec<f32> = a.chunks(depth + PADDING).flat_map(|row| product(row, 1)).collect();
    blas::set_in_order(was);
    assert!(!was);
    assert_eq!(together, each);
    let terms = (0..depth).map(|term| a[term] * b[term * (columns + PADDING)]);
    assert_eq!(together[0], terms.fold(0.0, |sum, term| sum + term));
}

/// Computes a product of zeros of this shape, row by row.
fn product_of_zeros((rows, columns, depth): (usize, usize, usize)) {
    let (a, b) = (
        vec![0.0; rows * (depth + PADDING)],
        vec![0.0; depth * (columns + PADDING)],
    );
    let mut c = vec![0.0; rows * (columns + PADDING)];
    let call = Call {
        order: ROW_MAJOR,
        transpose: (AS_IT_IS, AS_IT_IS),
        shape: (rows, columns, depth),
        alpha: 1.0,
        beta: 0.0,
    };
    f32::gemm(&call, &a, &b, &mut c);
}

#[test]
fn measured_products_count_two_operations_for_each_multiply_add() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    product_of_zeros((5, 6, 7));
    blas::measure(true);
    let started = std::time::Instant::now();
    product_of_zeros((64, 48, 32));
    product_of_zeros((1, 300, 200));
    let took = started.elapsed();
    let measured = blas::measure(false);
    assert_eq!(measured.operations, 2 * (64 * 48 * 32 + 300 * 200));
    assert!(
        !measured.busy.is_zero() && measured.busy <= took,
        "{measured:?} of {took:?}"
    );
    product_of_zeros((5, 6, 7));
    assert_eq!(blas::measure(false), blas::Measured::default());
}

#[test]
fn every_thread_of_a_product_counts() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = blas::set_threads(2);
    blas::measure(true);
    let started = std::time::Instant::now();
    product_of_zeros((1024, 1024, 1024));
    let took = started.elapsed();
    let one = blas::measure(true);
    blas::set_threads(1);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| product_of_zeros((256, 256, 256)));
        }
    });
    let three = blas::measure(false);
    let all_took = started.elapsed();
    blas::set_threads(before);
    assert_eq!(one.operations, 2 * 1024 * 1024 * 1024);
    assert_eq!(three.operations, 3 * 2 * 256 * 256 * 256);
    // The product is most of what was done, and each of its threads was in it as long.
    assert!(took < one.busy && one.busy <= 2 * took, "{one:?} of {took:?}");
    assert!(!three.busy.is_zero() && three.busy <= 3 * all_took, "{three:?}");
}
