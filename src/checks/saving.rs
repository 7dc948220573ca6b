use std::fmt::Display;
use std::path::Path;

use mlx_rs::module::ModuleParameters;

use super::failure::{CheckFailure, assert, named};
use super::pattern::any_matches;
use crate::param_diff::compare;
use crate::param_snapshot::ParameterSnapshot;
use crate::suggestion::closest;
use crate::temporary_folder::TemporaryFolder;

/// The name of the check.
const CHECK: &str = "survives_saving";

/// Lets `save` write `model` to a new temporary folder and `load` make a model from what is there, and compares the two
/// bit for bit: all parameters, or those that one of the patterns describes, where there are any.
///
/// To find what is not saved, `load` has to begin with other values than those of `model`: another seed.
///
/// # Errors
/// A parameter is lost, new, of another shape or type, or of another value; saving or loading fails; MLX fails.
pub fn survives_saving<M: ModuleParameters, S: Display, L: Display>(
    model: &M,
    patterns: &[&str],
    save: impl FnOnce(&M, &Path) -> Result<(), S>,
    load: impl FnOnce(&Path) -> Result<M, L>,
) -> Result<(), CheckFailure> {
    let failed = |what: &str, error: String| CheckFailure {
        check: CHECK,
        headline: format!("the model cannot be {what}"),
        found: vec![error],
        expected: "a model that is saved and loaded without an error".to_owned(),
        hint: "see that both know the same file names, and write to the folder that they are given".to_owned(),
    };
    let folder = TemporaryFolder::new().map_err(|error| failed("saved", error.to_string()))?;
    // Held before it is saved, in case that changes it.
    let before = ParameterSnapshot::capture(model);
    save(model, folder.path()).map_err(|error| failed("saved", error.to_string()))?;
    let loaded = load(folder.path()).map_err(|error| failed("loaded", error.to_string()))?;
    let after = ParameterSnapshot::capture(&loaded);
    let difference = compare(&before, &after).map_err(|error| CheckFailure::of_mlx(CHECK, &error))?;
    let is_meant = |name: &str| patterns.is_empty() || any_matches(patterns, name);
    let changed = difference
        .compared
        .iter()
        .filter(|one| one.changed_values > 0 && is_meant(&one.name))
        .map(|one| format!("`{}` ({} of {} values)", one.name, one.changed_values, one.values));
    let lost = difference.vanished.iter().filter(|name| is_meant(name)).map(|name| {
        match closest(name, difference.appeared.iter().map(String::as_str)) {
            Some(other) => format!("`{name}` (is `{other}` the same?)"),
            None => format!("`{name}`"),
        }
    });
    let appeared = difference.appeared.iter().filter(|name| is_meant(name));
    let found: Vec<String> = [
        named("another value after loading", changed),
        named("lost, or of another shape or type", lost),
        named(
            "new, or of another shape or type",
            appeared.map(|name| format!("`{name}`")),
        ),
        named(
            "patterns of no parameter",
            super::pattern::idle(patterns, before.parameters().keys().map(String::as_str)),
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(CheckFailure {
        check: CHECK,
        headline: "the model is another one after saving and loading".to_owned(),
        found,
        expected: "the same parameters, bit for bit".to_owned(),
        hint: "save frozen parameters too, and refuse files that lack a name instead of leaving its fresh value"
            .to_owned(),
    })
}

/// [`survives_saving`], for tests.
///
/// # Panics
/// The check fails.
#[track_caller]
pub fn assert_survives_saving<M: ModuleParameters, S: Display, L: Display>(
    model: &M,
    patterns: &[&str],
    save: impl FnOnce(&M, &Path) -> Result<(), S>,
    load: impl FnOnce(&Path) -> Result<M, L>,
) {
    assert(survives_saving(model, patterns, save, load));
}
