//! Whether a device computes at all, and rightly, before anything depends on it.

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::{matmul, softmax_axis};
use thiserror::Error;

use crate::readback::vector;
use crate::thresholds::START_UP_ERROR;

/// Rows, inner side and columns of the product: no multiples of the tiles of a kernel.
const PRODUCT: [usize; 3] = [67, 129, 93];
/// Rows and columns of the softmax.
const SOFTMAX: [usize; 2] = [5, 1031];
/// Spread of the softmax's input.
const SPREAD: f64 = 8.0;

/// What is wrong with a device.
#[derive(Debug, Error)]
pub enum StartUpError {
    /// It cannot compute.
    #[error("it cannot compute: {0}")]
    Mlx(#[from] Exception),
    /// It computes something else.
    #[error("its {what} is {error:.1e} off")]
    Wrong {
        /// What was computed.
        what: &'static str,
        /// Largest error, relative to the largest value; NaN where it is not finite.
        error: f64,
    },
}

/// Compares a product and a softmax on MLX's default device with the same in double precision.
pub(super) fn check() -> std::result::Result<(), StartUpError> {
    let [rows, inner, columns] = PRODUCT;
    let (left, right) = (values(rows * inner, 1), values(inner * columns, 2));
    judge(
        "product",
        &product(&left, &right)?,
        &exact_product(&left, &right, PRODUCT),
    )?;
    let logits: Vec<f32> = values(SOFTMAX[0] * SOFTMAX[1], 3)
        .into_iter()
        .map(|value| (f64::from(value) * SPREAD) as f32)
        .collect();
    judge("softmax", &softmax(&logits)?, &exact_softmax(&logits))
}

fn product(left: &[f32], right: &[f32]) -> Result<Vec<f32>> {
    let [rows, inner, columns] = PRODUCT.map(|side| side as i32);
    let left = Array::from_slice(left, &[rows, inner]);
    vector(&matmul(&left, Array::from_slice(right, &[inner, columns]))?)
}

fn softmax(logits: &[f32]) -> Result<Vec<f32>> {
    let logits = Array::from_slice(logits, &SOFTMAX.map(|side| side as i32));
    vector(&softmax_axis(&logits, -1, true)?)
}

fn exact_product(left: &[f32], right: &[f32], [rows, inner, columns]: [usize; 3]) -> Vec<f64> {
    let at = |row: usize, column: usize| -> f64 {
        (0..inner)
            .map(|index| f64::from(left[row * inner + index]) * f64::from(right[index * columns + column]))
            .sum()
    };
    (0..rows * columns)
        .map(|place| at(place / columns, place % columns))
        .collect()
}

fn exact_softmax(logits: &[f32]) -> Vec<f64> {
    logits
        .chunks(SOFTMAX[1])
        .flat_map(|row| {
            let exponentials: Vec<f64> = row.iter().map(|&logit| f64::from(logit).exp()).collect();
            let sum: f64 = exponentials.iter().sum();
            exponentials.into_iter().map(move |value| value / sum)
        })
        .collect()
}

fn judge(what: &'static str, found: &[f32], expected: &[f64]) -> std::result::Result<(), StartUpError> {
    let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .map(|(&found, expected)| (f64::from(found) - expected).abs() / largest)
        // A maximum would pass over a NaN.
        .fold(
            0.0,
            |worst: f64, error| if worst.is_nan() || error <= worst { worst } else { error },
        );
    if found.len() == expected.len() && worst <= START_UP_ERROR {
        Ok(())
    } else {
        Err(StartUpError::Wrong { what, error: worst })
    }
}

/// Numbers within -1 and 1 that look random.
fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            // Numerical Recipes' generator, of which the upper bits are good enough.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f64::from(state >> 8) / f64::from(1 << 23) - 1.0) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{PRODUCT, StartUpError, check, exact_product, judge, values};

    #[test]
    fn the_device_of_the_tests_passes() {
        check().unwrap();
    }

    #[test]
    fn a_wrong_number_and_a_nan_are_seen() {
        let [rows, inner, columns] = PRODUCT;
        let (left, right) = (values(rows * inner, 1), values(inner * columns, 2));
        let exact = exact_product(&left, &right, PRODUCT);
        let right_one: Vec<f32> = exact.iter().map(|&value| value as f32).collect();
        judge("product", &right_one, &exact).unwrap();
        for wrong in [f32::NAN, f32::INFINITY, right_one[7] + 1.0] {
            let mut values = right_one.clone();
            values[7] = wrong;
            let error = judge("product", &values, &exact).unwrap_err();
            assert!(matches!(error, StartUpError::Wrong { what: "product", .. }), "{error}");
        }
        assert!(judge("product", &right_one[1..], &exact).is_err());
    }
}
