use mlx_rs::module::ModuleParameters;
use mlx_rs::ops::{ne, subtract};
use mlx_rs::{Array, Dtype};

use super::failure::{CheckFailure, assert, named};
use super::pattern::matches;
use crate::param_diff::bits;
use crate::param_snapshot::ParameterSnapshot;
use crate::readback::{largest_magnitude, scalar};

/// The name of the check.
const CHECK: &str = "adapter_is_identity";

/// Compares the output of a model with fresh adapters with that of its base on the same input: bit for bit the same.
///
/// `zero_at_first` are patterns of the adapters' tensors that start at zero, for example `*.lora_b`; those that do not are
/// named.
///
/// # Errors
/// The outputs differ, a tensor that should be zero is not, or no tensor is described; MLX fails.
pub fn adapter_is_identity(
    adapted: &impl ModuleParameters,
    output_of_base: &Array,
    output_of_adapted: &Array,
    zero_at_first: &[&str],
) -> Result<(), CheckFailure> {
    let of_mlx = |error| CheckFailure::of_mlx(CHECK, &error);
    let mut nonzero = Vec::new();
    let parameters = ParameterSnapshot::capture(adapted).into_parameters();
    for pattern in zero_at_first {
        for (name, array) in parameters.iter().filter(|(name, _)| matches(pattern, name)) {
            let largest = largest_magnitude(array).map_err(of_mlx)?;
            if largest != 0.0 {
                nonzero.push(format!("`{name}` (up to {largest:.3e})"));
            }
        }
    }
    let idle = super::pattern::idle(zero_at_first, parameters.keys().map(String::as_str));
    let found: Vec<String> = [
        different(output_of_base, output_of_adapted).map_err(of_mlx)?,
        named("not zero", nonzero),
        named("patterns of no parameter", idle),
    ]
    .into_iter()
    .flatten()
    .collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(CheckFailure {
        check: CHECK,
        headline: "fresh adapters change the model".to_owned(),
        found,
        expected: "the same output as the base, bit for bit".to_owned(),
        hint:
            "start one of each pair of low-rank matrices at zero, turn dropout off, and leave the base's weights alone"
                .to_owned(),
    })
}

/// [`adapter_is_identity`], for tests.
///
/// # Panics
/// The check fails.
#[track_caller]
pub fn assert_adapter_is_identity(
    adapted: &impl ModuleParameters,
    output_of_base: &Array,
    output_of_adapted: &Array,
    zero_at_first: &[&str],
) {
    assert(adapter_is_identity(
        adapted,
        output_of_base,
        output_of_adapted,
        zero_at_first,
    ));
}

/// How two outputs differ; `None` when they are the same.
fn different(base: &Array, adapted: &Array) -> mlx_rs::error::Result<Option<String>> {
    if base.shape() != adapted.shape() || base.dtype() != adapted.dtype() {
        return Ok(Some(format!(
            "an output of {:?} in {:?} where the base has {:?} in {:?}",
            adapted.shape(),
            adapted.dtype(),
            base.shape(),
            base.dtype()
        )));
    }
    let changed: u32 = scalar(&ne(bits(base)?, bits(adapted)?)?.as_dtype(Dtype::Uint32)?.sum(None)?)?;
    if changed == 0 {
        return Ok(None);
    }
    let largest = largest_magnitude(&subtract(
        adapted.as_dtype(Dtype::Float32)?,
        base.as_dtype(Dtype::Float32)?,
    )?)?;
    Ok(Some(format!(
        "{changed} of {} values of the output differ, by up to {largest:.3e}",
        base.size()
    )))
}
