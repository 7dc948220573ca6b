//! The matrix products that MLX's CPU backend asks of BLAS.
//!
//! The published Linux library brings the slow reference BLAS. The dynamic
//! linker takes a program's own definition of a symbol first, so the three
//! `cblas_*gemm` functions here replace it in every program that links this
//! crate, with no file changed.

use std::{
    ffi::{c_int, c_void},
    ops::{Add, Mul},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use gemm::{Parallelism, c32};
use num_traits::{One, Zero};

/// Multiply-adds below which a second thread costs more than it saves; about 145 cubed, or 15
/// microseconds of one core with 512-bit vectors (see the example `blas_speed`).
const SERIAL_BELOW_MULTIPLY_ADDS: usize = 3 << 20;
/// The same for products that wait for memory, in elements of the largest matrix: 2 MiB of f32.
const SERIAL_BELOW_ELEMENTS: usize = 1 << 19;
/// The most outputs for which `gemm` takes dot products instead of packing its operands.
const DOT_PRODUCT_OUTPUTS: usize = 256;
/// The most rows (or columns) of a narrow product, by its depth: packing a large operand costs
/// more than it saves there.
const NARROW: usize = 12;
const NARROW_WHEN_DEEP: usize = 32;
const DEEP: usize = 256;
/// Threads start their part at a multiple of this, so that they do not share cache lines.
const PART_MULTIPLE: usize = 32;

static CALLS: AtomicU64 = AtomicU64::new(0);
static THREADS: AtomicUsize = AtomicUsize::new(0);
static IN_ORDER: AtomicBool = AtomicBool::new(false);
static MEASURING: AtomicBool = AtomicBool::new(false);
static METER: Mutex<Measured> = Mutex::new(Measured {
    busy: Duration::ZERO,
    operations: 0,
});

/// How many products this process has computed here rather than in the reference BLAS.
pub fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// What products did while they were measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measured {
    /// Time that threads spent in products, all of them together: a second on two threads is two.
    pub busy: Duration,
    /// Multiplications and additions of the products that ended.
    pub operations: u64,
}

/// Begins to measure products, or ends it; off at first. Returns what those did that ended since it was begun last.
///
/// It costs each product a lock, which no other thread holds for longer than it takes to add two numbers.
pub fn measure(on: bool) -> Measured {
    let mut meter = meter();
    MEASURING.store(on, Ordering::Relaxed);
    std::mem::take(&mut meter)
}

/// The meter; a thread that panicked while it had it left nothing half done.
fn meter() -> MutexGuard<'static, Measured> {
    METER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A product that is measured for as long as this lives.
struct Metered {
    operations: u64,
    threads: u32,
    began: Instant,
}

impl Metered {
    /// A product on so many threads; `None` while nothing is measured.
    fn begin([rows, columns, depth]: [usize; 3], threads: usize) -> Option<Self> {
        MEASURING.load(Ordering::Relaxed).then(|| Self {
            operations: 2 * (rows * columns * depth) as u64,
            threads: u32::try_from(threads).unwrap_or(u32::MAX),
            began: Instant::now(),
        })
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        let busy = self.began.elapsed() * self.threads;
        let mut meter = meter();
        meter.busy += busy;
        meter.operations += self.operations;
    }
}

/// Lets each product use `threads` threads; 0, the initial value, stands for all cores.
///
/// Set it to 1 when several MLX streams compute at the same time. Returns what it was.
pub fn set_threads(threads: usize) -> usize {
    THREADS.swap(threads, Ordering::Relaxed)
}

/// Has every output summed from the first term to the last, whatever the shape of the product, so that a row of `A` gives
/// the same bits alone and among others; slow, and off at first. Returns what it was.
///
/// Blocked products sum in an order that depends on their shape. Tests that tell that difference from a wrong one turn
/// this on.
pub fn set_in_order(in_order: bool) -> bool {
    IN_ORDER.swap(in_order, Ordering::Relaxed)
}

/// The number of threads a large product uses.
pub fn threads() -> usize {
    match THREADS.load(Ordering::Relaxed) {
        0 => rayon::current_num_threads(),
        threads => threads,
    }
}

/// `C = alpha * op(A) * op(B) + beta * C` in f32.
///
/// `op(A)` is `m` x `k`, `op(B)` is `k` x `n`, `C` is `m` x `n`. `order` is 101 (row major) or
/// 102 (column major); `transpose_*` is 111 (as it is), 112 (transposed) or 113 (conjugated and
/// transposed). With `beta` zero `C` is not read. Ends the process on any other order or
/// transpose, on a negative size, and on a leading dimension that is too small.
///
/// # Safety
/// The pointers must be valid for the matrices that the sizes and leading dimensions describe,
/// and `C` must not overlap `A` or `B`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cblas_sgemm(
    order: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    lda: c_int,
    b: *const f32,
    ldb: c_int,
    beta: f32,
    c: *mut f32,
    ldc: c_int,
) {
    let product = Product {
        rows: size("m", m),
        columns: size("n", n),
        depth: size("k", k),
        alpha,
        left: Operand::new("A", order, transpose_a, (m, k), a, lda),
        right: Operand::new("B", order, transpose_b, (k, n), b, ldb),
        beta,
        out: Output::new(order, (m, n), c, ldc),
        threads: threads(),
    };
    // SAFETY: the caller's promise is passed on.
    unsafe { product.compute() };
}

/// [`cblas_sgemm`] in f64.
///
/// # Safety
/// As for [`cblas_sgemm`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cblas_dgemm(
    order: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f64,
    a: *const f64,
    lda: c_int,
    b: *const f64,
    ldb: c_int,
    beta: f64,
    c: *mut f64,
    ldc: c_int,
) {
    let product = Product {
        rows: size("m", m),
        columns: size("n", n),
        depth: size("k", k),
        alpha,
        left: Operand::new("A", order, transpose_a, (m, k), a, lda),
        right: Operand::new("B", order, transpose_b, (k, n), b, ldb),
        beta,
        out: Output::new(order, (m, n), c, ldc),
        threads: threads(),
    };
    // SAFETY: the caller's promise is passed on.
    unsafe { product.compute() };
}

/// [`cblas_sgemm`] in complex64: every pointer is to pairs of f32.
///
/// # Safety
/// As for [`cblas_sgemm`]; `alpha` and `beta` must point to one complex number each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cblas_cgemm(
    order: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *const c_void,
    lda: c_int,
    b: *const c_void,
    ldb: c_int,
    beta: *const c_void,
    c: *mut c_void,
    ldc: c_int,
) {
    // SAFETY: the caller promises that both point to a complex number.
    let (alpha, beta) = unsafe { (*alpha.cast::<c32>(), *beta.cast::<c32>()) };
    let product = Product {
        rows: size("m", m),
        columns: size("n", n),
        depth: size("k", k),
        alpha,
        left: Operand::new("A", order, transpose_a, (m, k), a.cast::<c32>(), lda),
        right: Operand::new("B", order, transpose_b, (k, n), b.cast::<c32>(), ldb),
        beta,
        out: Output::new(order, (m, n), c.cast::<c32>(), ldc),
        threads: threads(),
    };
    // SAFETY: the caller's promise is passed on.
    unsafe { product.compute() };
}

/// A matrix that is read; strides count elements and are not negative.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    /// The first element.
    pub data: *const f32,
    /// From a row to the next.
    pub row_stride: usize,
    /// From a column to the next.
    pub column_stride: usize,
}

impl Matrix {
    /// The matrix with rows of neighbouring columns from the first of `values` on.
    pub const fn of_rows(values: &[f32], row_stride: usize) -> Self {
        Self {
            data: values.as_ptr(),
            row_stride,
            column_stride: 1,
        }
    }

    /// The matrix with rows and columns exchanged.
    #[must_use]
    pub const fn transposed(self) -> Self {
        Self {
            data: self.data,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    fn operand(self) -> Operand<f32> {
        Operand {
            data: self.data,
            row_stride: self.row_stride as isize,
            column_stride: self.column_stride as isize,
            conjugate: false,
        }
    }
}

/// A matrix that is written; otherwise as [`Matrix`], with neighbouring columns side by side.
#[derive(Debug, Clone, Copy)]
pub struct MatrixMut {
    /// The first element.
    pub data: *mut f32,
    /// From a row to the next.
    pub row_stride: usize,
}

impl MatrixMut {
    /// As [`Matrix::of_rows`].
    pub const fn of_rows(values: &mut [f32], row_stride: usize) -> Self {
        Self {
            data: values.as_mut_ptr(),
            row_stride,
        }
    }
}

/// Does `work` for each number below `parts`, each on a thread of its own; the first on this one, which saves a wake-up.
pub fn for_each_part(parts: usize, work: impl Fn(usize) + Sync) {
    if parts == 0 {
        return;
    }
    rayon::in_place_scope(|scope| {
        let work = &work;
        for part in 1..parts {
            scope.spawn(move |_| work(part));
        }
        work(0);
    });
}

/// `out = alpha * left * right + beta * out` in f32 for matrices of any strides, on at most `threads` threads.
///
/// `left` is `rows` x `depth`, `right` `depth` x `columns`. With `beta` zero `out` is not read.
///
/// # Safety
/// The pointers must be valid for these sizes and strides, and `out` must overlap neither `left` nor `right`.
pub unsafe fn multiply(
    [rows, columns, depth]: [usize; 3],
    alpha: f32,
    left: Matrix,
    right: Matrix,
    beta: f32,
    out: MatrixMut,
    threads: usize,
) {
    let product = Product {
        rows,
        columns,
        depth,
        alpha,
        left: left.operand(),
        right: right.operand(),
        beta,
        out: Output {
            data: out.data,
            row_stride: out.row_stride as isize,
            column_stride: 1,
        },
        threads,
    };
    // SAFETY: the caller's promise is passed on.
    unsafe { product.compute() };
}

/// What `gemm` computes with, and how this module scales.
trait Scalar: Copy + PartialEq + Zero + One + Add<Output = Self> + Mul<Output = Self> + Send + Sync + 'static {
    fn conjugate(self) -> Self;
}

impl Scalar for f32 {
    fn conjugate(self) -> Self {
        self
    }
}

impl Scalar for f64 {
    fn conjugate(self) -> Self {
        self
    }
}

impl Scalar for c32 {
    fn conjugate(self) -> Self {
        self.conj()
    }
}

/// A matrix that is read; strides count elements.
#[derive(Clone, Copy)]
struct Operand<T> {
    data: *const T,
    row_stride: isize,
    column_stride: isize,
    conjugate: bool,
}

impl<T: Scalar> Operand<T> {
    unsafe fn at(&self, row: usize, column: usize) -> T {
        // SAFETY: the caller keeps (row, column) inside the matrix.
        let value = unsafe {
            *self
                .data
                .offset(row as isize * self.row_stride + column as isize * self.column_stride)
        };
        if self.conjugate { value.conjugate() } else { value }
    }
}

impl<T> Operand<T> {
    fn new(
        name: &str,
        order: c_int,
        transpose: c_int,
        (rows, columns): (c_int, c_int),
        data: *const T,
        leading_dimension: c_int,
    ) -> Self {
        let transposed = match transpose {
            111 => false,
            112 | 113 => true,
            found => panic!("cblas gemm: transpose of {name} is {found}, expected 111, 112 or 113"),
        };
        // A transposed matrix lies in memory with its rows and columns exchanged.
        let stored = if transposed { (columns, rows) } else { (rows, columns) };
        let (row_stride, column_stride) = strides(name, order, stored, leading_dimension);
        let (row_stride, column_stride) = if transposed {
            (column_stride, row_stride)
        } else {
            (row_stride, column_stride)
        };
        Self {
            data,
            row_stride,
            column_stride,
            conjugate: transpose == 113,
        }
    }
}

/// The matrix that is written; strides count elements.
#[derive(Clone, Copy)]
struct Output<T> {
    data: *mut T,
    row_stride: isize,
    column_stride: isize,
}

impl<T> Output<T> {
    fn new(order: c_int, shape: (c_int, c_int), data: *mut T, leading_dimension: c_int) -> Self {
        let (row_stride, column_stride) = strides("C", order, shape, leading_dimension);
        Self {
            data,
            row_stride,
            column_stride,
        }
    }
}

/// `out = alpha * left * right + beta * out`.
#[derive(Clone, Copy)]
struct Product<T> {
    rows: usize,
    columns: usize,
    depth: usize,
    alpha: T,
    left: Operand<T>,
    right: Operand<T>,
    beta: T,
    out: Output<T>,
    /// Threads it may use.
    threads: usize,
}

// SAFETY: threads only ever get products whose outputs do not overlap.
unsafe impl<T: Send> Send for Product<T> {}
// SAFETY: as above; the operands are only read.
unsafe impl<T: Sync> Sync for Product<T> {}

impl<T: Scalar> Product<T> {
    /// # Safety
    /// Every pointer must be valid for its shape and strides, and `out` overlap neither operand.
    unsafe fn compute(self) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        if self.rows == 0 || self.columns == 0 {
            return;
        }
        let _metered = Metered::begin([self.rows, self.columns, self.depth], self.threads_used());
        // SAFETY: the caller's promise is passed on.
        unsafe {
            if self.depth == 0 || self.alpha.is_zero() {
                self.scale_output();
            } else if IN_ORDER.load(Ordering::Relaxed) {
                self.multiply_in_order();
            } else if let Some(block) = self.block_length() {
                self.multiply_in_blocks(block);
            } else {
                self.multiply(self.parallelism());
            }
        }
    }

    /// Threads that work on it.
    fn threads_used(&self) -> usize {
        if self.depth == 0 || self.alpha.is_zero() || IN_ORDER.load(Ordering::Relaxed) {
            1
        } else if self.block_length().is_some() {
            self.parts().1
        } else {
            match self.parallelism() {
                Parallelism::None => 1,
                Parallelism::Rayon(0) => rayon::current_num_threads(),
                Parallelism::Rayon(threads) => threads,
            }
        }
    }

    /// The definition, term by term.
    unsafe fn multiply_in_order(self) {
        for row in 0..self.rows {
            for column in 0..self.columns {
                let mut sum = T::zero();
                for term in 0..self.depth {
                    // SAFETY: the three indices lie inside the matrices.
                    sum = unsafe { sum + self.left.at(row, term) * self.right.at(term, column) };
                }
                // SAFETY: (row, column) lies inside the output.
                unsafe {
                    let element = self.out_at(row, column);
                    let scaled = self.alpha * sum;
                    *element = if self.beta.is_zero() {
                        scaled
                    } else {
                        scaled + self.beta * *element
                    };
                }
            }
        }
    }

    /// The piece of the longer side that `gemm` does best in one serial call; `None` when the
    /// whole product is best left to it.
    fn block_length(&self) -> Option<usize> {
        let narrow = self.rows.min(self.columns);
        let long = self.rows.max(self.columns);
        let limit = if self.depth < DEEP { NARROW } else { NARROW_WHEN_DEEP };
        let contiguous = self.left.column_stride == 1 && self.right.row_stride == 1;
        if contiguous && narrow <= limit && has_dot_product_kernels() {
            Some(DOT_PRODUCT_OUTPUTS / narrow)
        } else if narrow == 1 || self.depth <= 2 {
            Some(long)
        } else {
            None
        }
    }

    /// How many of the longer side each thread takes, and how many threads that makes.
    fn parts(&self) -> (usize, usize) {
        let long = self.rows.max(self.columns);
        let elements = self.depth.max(self.rows.min(self.columns)) * long;
        let threads = if elements < SERIAL_BELOW_ELEMENTS {
            1
        } else {
            self.threads
        };
        let part = long.div_ceil(threads).next_multiple_of(PART_MULTIPLE);
        (part, long.div_ceil(part))
    }

    /// Products that wait for memory: two threads read faster than one, and `gemm` would use one.
    unsafe fn multiply_in_blocks(self, block: usize) {
        let long = self.rows.max(self.columns);
        let (part, parts) = self.parts();
        let multiply_part = |index: usize| {
            let end = ((index + 1) * part).min(long);
            for start in (index * part..end).step_by(block) {
                let product = self.slice(start, block.min(end - start));
                // SAFETY: slices of a valid product are valid, and their outputs do not overlap.
                unsafe { product.multiply(Parallelism::None) };
            }
        };
        if parts == 1 {
            return multiply_part(0);
        }
        for_each_part(parts, multiply_part);
    }

    /// The product restricted to some rows, or columns when there are more of them.
    fn slice(mut self, start: usize, length: usize) -> Self {
        let start = start as isize;
        if self.rows >= self.columns {
            self.rows = length;
            self.left.data = self.left.data.wrapping_offset(start * self.left.row_stride);
            self.out.data = self.out.data.wrapping_offset(start * self.out.row_stride);
        } else {
            self.columns = length;
            self.right.data = self.right.data.wrapping_offset(start * self.right.column_stride);
            self.out.data = self.out.data.wrapping_offset(start * self.out.column_stride);
        }
        self
    }

    /// `out = beta * out`, which for a zero `beta` does not read `out`.
    unsafe fn scale_output(self) {
        for row in 0..self.rows {
            for column in 0..self.columns {
                // SAFETY: (row, column) lies inside the output.
                unsafe {
                    let element = self.out_at(row, column);
                    *element = if self.beta.is_zero() {
                        T::zero()
                    } else {
                        self.beta * *element
                    };
                }
            }
        }
    }

    fn parallelism(&self) -> Parallelism {
        let multiply_adds = self.rows.saturating_mul(self.columns).saturating_mul(self.depth);
        if multiply_adds < SERIAL_BELOW_MULTIPLY_ADDS {
            return Parallelism::None;
        }
        match self.threads {
            1 => Parallelism::None,
            threads => Parallelism::Rayon(threads),
        }
    }

    unsafe fn multiply(self, parallelism: Parallelism) {
        // SAFETY: the caller's promise is passed on; sizes are not zero and strides not negative.
        unsafe {
            gemm::gemm(
                self.rows,
                self.columns,
                self.depth,
                self.out.data,
                self.out.column_stride,
                self.out.row_stride,
                !self.beta.is_zero(),
                self.left.data,
                self.left.column_stride,
                self.left.row_stride,
                self.right.data,
                self.right.column_stride,
                self.right.row_stride,
                // The crate names the two factors the other way round.
                self.beta,
                self.alpha,
                false,
                self.left.conjugate,
                self.right.conjugate,
                parallelism,
            );
        }
    }

    unsafe fn out_at(&self, row: usize, column: usize) -> *mut T {
        // SAFETY: the caller keeps (row, column) inside the output.
        unsafe {
            self.out
                .data
                .offset(row as isize * self.out.row_stride + column as isize * self.out.column_stride)
        }
    }
}

/// Whether `gemm` has dot-product kernels for this processor.
fn has_dot_product_kernels() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

fn size(name: &str, value: c_int) -> usize {
    usize::try_from(value).unwrap_or_else(|_| panic!("cblas gemm: {name} is {value}, expected at least 0"))
}

/// Strides between rows and between columns of a matrix as it lies in memory.
fn strides(name: &str, order: c_int, (rows, columns): (c_int, c_int), leading_dimension: c_int) -> (isize, isize) {
    let (strides, minimum) = match order {
        101 => ((leading_dimension as isize, 1), columns),
        102 => ((1, leading_dimension as isize), rows),
        found => panic!("cblas gemm: order is {found}, expected 101 or 102"),
    };
    assert!(
        leading_dimension >= minimum.max(1),
        "cblas gemm: the leading dimension of {name} is {leading_dimension}, expected at least {}",
        minimum.max(1)
    );
    strides
}
