//! Passes over f32 that a compiler turns into the processor's vectors.
//!
//! Every function here is inlined into the closure that [`with_vectors`] compiles once for each generation of processors;
//! the closure itself has to say `#[inline(always)]`, or it is compiled for the oldest.
//! Sums and maxima are taken in [`LANES`] parts side by side, since floating-point addition may not be reordered.

use std::sync::LazyLock;

use pulp::Arch;

/// Values that are summed side by side.
pub(crate) const LANES: usize = 32;

static ARCH: LazyLock<Arch> = LazyLock::new(Arch::new);

/// Runs `work` compiled for the widest vectors that the processor has.
#[inline(always)]
pub(crate) fn with_vectors<T>(work: impl FnOnce() -> T) -> T {
    ARCH.dispatch(work)
}

/// `e^x` to about an ulp, without a branch; NaN stays NaN, and beyond +-87 the result is that at +-87.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LIMIT: f32 = 87.0;
    /// Adding it leaves the nearest integer in the lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    // ln 2 in two parts: products of the first with small integers are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons instead of `clamp`, `min` and `max`, which lose a NaN.
    let x = if x < -LIMIT { -LIMIT } else { x };
    let x = if x > LIMIT { LIMIT } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDING);
    let integer = shifted - ROUNDING;
    let rest = integer.mul_add(-LN_2_HIGH, x);
    let rest = integer.mul_add(-LN_2_LOW, rest);
    // The series of the exponential; within +-ln(2)/2 the first term left out is 5e-9.
    let mut sum = 1.0 / 5_040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = rest.mul_add(sum, coefficient);
    }
    f32::from_bits(sum.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The sum of `term` over the elements of `values`.
#[inline(always)]
pub(crate) fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (parts, rest) = values.as_chunks::<LANES>();
    for part in parts {
        for (sum, value) in sums.iter_mut().zip(part) {
            *sum += term(*value);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += term(*value);
    }
    halved(sums, |one, other| one + other)
}

/// The sum of the products of two lists of one length.
#[inline(always)]
pub(crate) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<LANES>(), right.as_chunks::<LANES>());
    for (one, other) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] = one[lane].mul_add(other[lane], sums[lane]);
        }
    }
    for ((sum, one), other) in sums.iter_mut().zip(left_rest).zip(right_rest) {
        *sum = one.mul_add(*other, *sum);
    }
    halved(sums, |one, other| one + other)
}

/// The largest of `values`; of a NaN nothing is seen.
#[inline(always)]
pub(crate) fn largest(values: &[f32]) -> f32 {
    let larger = |one: f32, other: f32| if other > one { other } else { one };
    let mut found = [f32::NEG_INFINITY; LANES];
    let (parts, rest) = values.as_chunks::<LANES>();
    for part in parts {
        for (largest, value) in found.iter_mut().zip(part) {
            *largest = larger(*largest, *value);
        }
    }
    for (largest, value) in found.iter_mut().zip(rest) {
        *largest = larger(*largest, *value);
    }
    halved(found, larger)
}

/// Replaces every value by `e^(value - shift)` and returns the sum of these.
#[inline(always)]
pub(crate) fn exponentials(values: &mut [f32], shift: f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (parts, rest) = values.as_chunks_mut::<LANES>();
    for part in parts {
        for (sum, value) in sums.iter_mut().zip(part) {
            *value = exp(*value - shift);
            *sum += *value;
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *value = exp(*value - shift);
        *sum += *value;
    }
    halved(sums, |one, other| one + other)
}

/// `values * factor`, in place.
#[inline(always)]
pub(crate) fn scale(values: &mut [f32], factor: f32) {
    for value in values {
        *value *= factor;
    }
}

#[inline(always)]
pub(crate) fn halved(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = join(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}
