//! Whether a device computes at all, and rightly, before anything depends on it.

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::{matmul, softmax_axis};
use thiserror::Error;

use crate::double_precision::{self, relative_error, values};
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
        &double_precision::product(&left, &right, PRODUCT),
    )?;
    let logits: Vec<f32> = values(SOFTMAX[0] * SOFTMAX[1], 3)
        .into_iter()
        .map(|value| (f64::from(value) * SPREAD) as f32)
        .collect();
    judge(
        "softmax",
        &softmax(&logits)?,
        &double_precision::softmax(&logits, SOFTMAX[1]),
    )
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

fn judge(what: &'static str, found: &[f32], expected: &[f64]) -> std::result::Result<(), StartUpError> {
    let error = relative_error(found, expected);
    if error <= START_UP_ERROR {
        Ok(())
    } else {
        Err(StartUpError::Wrong { what, error })
    }
}

#[cfg(test)]
mod tests {
    use super::{PRODUCT, StartUpError, check, judge};
    use crate::double_precision::{product, values};

    #[test]
    fn the_device_of_the_tests_passes() {
        check().unwrap();
    }

    #[test]
    fn a_wrong_number_and_a_nan_are_seen() {
        let [rows, inner, columns] = PRODUCT;
        let (left, right) = (values(rows * inner, 1), values(inner * columns, 2));
        let exact = product(&left, &right, PRODUCT);
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
