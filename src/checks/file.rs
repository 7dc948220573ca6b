use std::path::Path;

use mlx_rs::module::ModuleParameters;

use super::failure::{CheckFailure, assert, named};
use super::pattern::{any_matches, idle};
use crate::model::stored_shapes;
use crate::param_snapshot::ParameterSnapshot;
use crate::suggestion::closest;

/// The name of the check.
const CHECK: &str = "file_is_covered";

/// Compares the parameters of `model` with the header of a safetensors file that was made for it: the same names with the
/// same shapes. `others` are patterns of tensors that the model is right to have no parameter for, or the file to lack:
/// tables of rotary frequencies, adapters.
///
/// # Errors
/// A tensor has no parameter, a parameter no tensor, or another shape; the file cannot be read.
pub fn file_is_covered(model: &impl ModuleParameters, file: &Path, others: &[&str]) -> Result<(), CheckFailure> {
    let failure = |headline: &str, found: Vec<String>| CheckFailure {
        check: CHECK,
        headline: headline.to_owned(),
        found,
        expected: "a parameter for each tensor of the file, with its name and shape".to_owned(),
        hint: "mark modules and arrays with `#[param]`, and give fields the names of the file".to_owned(),
    };
    let stored =
        stored_shapes(file).map_err(|error| failure("the weight file cannot be read", vec![error.to_string()]))?;
    let parameters = ParameterSnapshot::capture(model).into_parameters();
    let known = |name: &str| any_matches(others, name);
    let without_parameter = stored
        .keys()
        .filter(|name| !parameters.contains_key(*name) && !known(name))
        .map(|name| {
            let unmatched = parameters.keys().filter(|one| !stored.contains_key(*one));
            match closest(name, unmatched.map(String::as_str)) {
                Some(other) => format!("`{name}` (did you mean it by `{other}`?)"),
                None => format!("`{name}`"),
            }
        });
    let without_tensor = parameters
        .keys()
        .filter(|name| !stored.contains_key(*name) && !known(name))
        .map(|name| format!("`{name}`"));
    let other_shape = stored.iter().filter_map(|(name, tensor)| {
        let shape: Vec<usize> = parameters
            .get(name)?
            .shape()
            .iter()
            .map(|&size| size as usize)
            .collect();
        (shape != tensor.shape && !known(name)).then(|| format!("`{name}` ({shape:?} for {:?})", tensor.shape))
    });
    let all = stored.keys().chain(parameters.keys()).map(String::as_str);
    let found: Vec<String> = [
        named("tensors without a parameter", without_parameter),
        named("parameters without a tensor", without_tensor),
        named("parameters of another shape", other_shape),
        named("patterns of neither", idle(others, all)),
    ]
    .into_iter()
    .flatten()
    .collect();
    if found.is_empty() {
        Ok(())
    } else {
        Err(failure(
            "the model's parameters are not those of its weight file",
            found,
        ))
    }
}

/// [`file_is_covered`], for tests.
///
/// # Panics
/// The check fails.
#[track_caller]
pub fn assert_file_is_covered(model: &impl ModuleParameters, file: &Path, others: &[&str]) {
    assert(file_is_covered(model, file, others));
}
