use std::fmt;

use mlx_rs::error::Exception;
use thiserror::Error;

use crate::evidence::Listing;

/// What a check found.
///
/// Printed as a headline, then what was found and expected, then what to do, with the first tensors by name and the
/// number of the others.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct CheckFailure {
    /// The name of the check's function.
    pub check: &'static str,
    /// One line that stands alone.
    pub headline: String,
    /// What is wrong, one entry for each kind.
    pub found: Vec<String>,
    /// What a healthy model has.
    pub expected: String,
    /// What to do.
    pub hint: String,
}

impl CheckFailure {
    /// MLX failed while the check was made.
    pub(super) fn of_mlx(check: &'static str, error: &Exception) -> Self {
        Self {
            check,
            headline: format!("the check `{check}` could not be made"),
            found: vec![error.what().to_owned()],
            expected: "a model that MLX can compute".to_owned(),
            hint: "evaluate the model's parameters and its output first, and see which of them fails".to_owned(),
        }
    }
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.headline)?;
        for found in &self.found {
            write!(formatter, "\n  found: {found}")?;
        }
        write!(formatter, "\n  expected: {}\n  hint: {}", self.expected, self.hint)
    }
}

/// `what: first, second and 3 more`, where there is any name.
pub(super) fn named(what: &str, names: impl IntoIterator<Item = String>) -> Option<String> {
    let names: Listing = names.into_iter().collect();
    (!names.is_empty()).then(|| format!("{what}: {names}"))
}

/// Ends a test with the failure's words.
#[track_caller]
pub(super) fn assert(result: Result<(), CheckFailure>) {
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
