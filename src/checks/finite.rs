use mlx_rs::error::Exception;
use mlx_rs::module::ModuleParameters;
use mlx_rs::ops::{ne, subtract};
use mlx_rs::{Array, Dtype};

use super::failure::{CheckFailure, assert, named};
use crate::param_snapshot::ParameterSnapshot;
use crate::readback::scalar;

/// The name of the check.
const CHECK: &str = "finite";

/// Looks for NaN and infinity in every parameter of `model`.
///
/// # Errors
/// There is one; MLX fails.
pub fn finite(model: &impl ModuleParameters) -> Result<(), CheckFailure> {
    let mut broken = Vec::new();
    for (name, array) in ParameterSnapshot::capture(model).parameters() {
        match not_finite(array).map_err(|error| CheckFailure::of_mlx(CHECK, &error))? {
            0 => {}
            count => broken.push(format!("`{name}` ({count} of {} values)", array.size())),
        }
    }
    match named("NaN or infinity", broken) {
        None => Ok(()),
        Some(found) => Err(CheckFailure {
            check: CHECK,
            headline: "parameters are not finite".to_owned(),
            found: vec![found],
            expected: "finite values in every parameter".to_owned(),
            hint: "look for the first step whose loss or gradient is not finite: lower the learning rate, or clip gradients"
                .to_owned(),
        }),
    }
}

/// [`finite`], for tests.
///
/// # Panics
/// The check fails.
#[track_caller]
pub fn assert_finite(model: &impl ModuleParameters) {
    assert(finite(model));
}

/// Values that are NaN or infinite; integers never are.
pub(super) fn not_finite(array: &Array) -> Result<u32, Exception> {
    match array.dtype() {
        Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 => {
            // Of these alone the difference from themselves is not zero.
            let rest = subtract(array, array)?;
            scalar(&ne(&rest, Array::from_f32(0.0))?.as_dtype(Dtype::Uint32)?.sum(None)?)
        }
        _ => Ok(0),
    }
}
