use super::failure::{CheckFailure, assert, named};
use super::pattern::{any_matches, idle};
use crate::param_diff::compare;
use crate::param_snapshot::ParameterSnapshot;

/// The name of the check.
const CHECK: &str = "only_changed";

/// Compares two snapshots of a model, bit for bit: every parameter that one of the patterns describes changed, and no
/// other did.
///
/// # Errors
/// A parameter changed that should not have, or the reverse; parameters appeared, vanished or have another shape; a
/// pattern describes no parameter; MLX fails.
pub fn only_changed(
    before: &ParameterSnapshot,
    after: &ParameterSnapshot,
    patterns: &[&str],
) -> Result<(), CheckFailure> {
    let difference = compare(before, after).map_err(|error| CheckFailure::of_mlx(CHECK, &error))?;
    let (expected, others): (Vec<_>, Vec<_>) = difference
        .compared
        .iter()
        .partition(|one| any_matches(patterns, &one.name));
    let strayed = others.iter().filter(|one| one.changed_values > 0);
    let strayed = named(
        "changed and should not have",
        strayed.map(|one| format!("`{}` ({} of {} values)", one.name, one.changed_values, one.values)),
    );
    let still = expected.iter().filter(|one| one.changed_values == 0);
    let still = named(
        "should have changed and did not",
        still.map(|one| format!("`{}`", one.name)),
    );
    let paths = before.parameters().keys().chain(after.parameters().keys());
    let found: Vec<String> = [
        strayed.clone(),
        still.clone(),
        named(
            "appeared or has another shape or type than before",
            quoted(&difference.appeared),
        ),
        named(
            "vanished or has another shape or type than after",
            quoted(&difference.vanished),
        ),
        named("patterns of no parameter", idle(patterns, paths.map(String::as_str))),
    ]
    .into_iter()
    .flatten()
    .collect();
    if found.is_empty() {
        return Ok(());
    }
    let (headline, hint) = match (strayed.is_some(), still.is_some()) {
        (true, _) => (
            "parameters changed that should have stayed as they were",
            "freeze them before training, and give the optimizer trainable parameters only",
        ),
        (false, true) => (
            "parameters did not change that should have",
            "see that they are not frozen, that gradients reach them, and that the optimizer's result is put back",
        ),
        (false, false) => (
            "the parameters are not those that were to be compared",
            "capture both snapshots of the same model, with its adapters, and see that the patterns are its paths",
        ),
    };
    Err(CheckFailure {
        check: CHECK,
        headline: headline.to_owned(),
        found,
        expected: format!("a change of exactly these: {}", patterns.join(", ")),
        hint: hint.to_owned(),
    })
}

/// [`only_changed`], for tests.
///
/// # Panics
/// The check fails.
#[track_caller]
pub fn assert_only_changed(before: &ParameterSnapshot, after: &ParameterSnapshot, patterns: &[&str]) {
    assert(only_changed(before, after, patterns));
}

fn quoted(names: &[String]) -> impl Iterator<Item = String> {
    names.iter().map(|name| format!("`{name}`"))
}
