use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mlx_rs::Array;
use mlx_rs::module::{FlattenedModuleParam, ModuleParameters};

use super::failure::{CheckFailure, assert, named};
use super::finite::not_finite;
use super::pattern::{any_matches, idle};
use crate::param_snapshot::ParameterSnapshot;
use crate::readback::largest_magnitude;

/// The name of the check.
const CHECK: &str = "gradients_reach";

/// Looks at the gradients of one backward pass of `model`, by parameter, as `mlx_rs::nn::value_and_grad` and
/// `mlx_rs::transforms::keyed_value_and_grad` give them: every trainable parameter has a gradient of its shape that is
/// finite and not all zero.
///
/// `zero_at_first` are patterns of parameters whose gradient may be zero: at the first step of fresh `LoRA` adapters that
/// of every `lora_a` is, since `lora_b` is zero.
///
/// # Errors
/// A gradient is missing, zero, not finite, of another shape or of no trainable parameter; a pattern describes no
/// parameter; MLX fails.
pub fn gradients_reach(
    model: &impl ModuleParameters,
    gradients: &FlattenedModuleParam,
    zero_at_first: &[&str],
) -> Result<(), CheckFailure> {
    let trainable = ParameterSnapshot::capture_trainable(model).into_parameters();
    let gradients: BTreeMap<&str, &Array> = gradients
        .iter()
        .map(|(name, array)| (Rc::as_ref(name), array))
        .collect();
    let mut kinds = Kinds::default();
    for (name, parameter) in &trainable {
        let shown = format!("`{name}`");
        match gradients.get(name.as_str()) {
            None => kinds.missing.insert(shown),
            Some(gradient) if gradient.shape() != parameter.shape() => {
                let shapes = format!("{shown} ({:?} for {:?})", gradient.shape(), parameter.shape());
                kinds.other_shape.insert(shapes)
            }
            Some(gradient) => {
                let of_mlx = |error| CheckFailure::of_mlx(CHECK, &error);
                match not_finite(gradient).map_err(of_mlx)? {
                    0 if any_matches(zero_at_first, name) => false,
                    0 => largest_magnitude(gradient).map_err(of_mlx)? == 0.0 && kinds.zero.insert(shown),
                    count => kinds
                        .not_finite
                        .insert(format!("{shown} ({count} of {} values)", gradient.size())),
                }
            }
        };
    }
    let unknown = gradients.keys().filter(|name| !trainable.contains_key(**name));
    let found: Vec<String> = [
        named("no gradient", kinds.missing),
        named("a gradient of zeros", kinds.zero),
        named("a gradient with NaN or infinity", kinds.not_finite),
        named("a gradient of another shape", kinds.other_shape),
        named(
            "a gradient of no trainable parameter",
            unknown.map(|name| format!("`{name}`")),
        ),
        named(
            "patterns of no parameter",
            idle(zero_at_first, trainable.keys().map(String::as_str)),
        ),
        trainable.is_empty().then(|| "no trainable parameter at all".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(CheckFailure {
        check: CHECK,
        headline: "gradients do not arrive as they should".to_owned(),
        found,
        expected: format!("a gradient other than zero for each of {} trainable parameters", trainable.len()),
        hint: "compute the loss with the parameters that the function is given, and see that the forward pass uses all of them"
            .to_owned(),
    })
}

/// [`gradients_reach`], for tests.
///
/// # Panics
/// The check fails.
#[track_caller]
pub fn assert_gradients_reach(model: &impl ModuleParameters, gradients: &FlattenedModuleParam, zero_at_first: &[&str]) {
    assert(gradients_reach(model, gradients, zero_at_first));
}

#[derive(Default)]
struct Kinds {
    missing: BTreeSet<String>,
    zero: BTreeSet<String>,
    not_finite: BTreeSet<String>,
    other_shape: BTreeSet<String>,
}
