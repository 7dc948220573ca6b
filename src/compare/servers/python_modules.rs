//! Which python has the packages that a server needs.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::bounds::PYTHON_QUESTION;
use super::short_command::run;
use crate::compare::{Failure, FailureKind};
use crate::interrupt::Interrupt;
use crate::python::Python;

/// The first python that can import `module`: the one that the server's environment names, the one that ours names, and
/// `python3` of the path; `None` where none can.
///
/// # Errors
/// The user ended it.
pub(super) fn python_with(
    module: &str,
    environment: &BTreeMap<String, String>,
    interrupt: &Interrupt,
) -> Result<Option<OsString>, Failure> {
    let of_server = environment.get(Python::VARIABLE).map(OsString::from);
    let mut candidates: Vec<OsString> = of_server.into_iter().collect();
    candidates.extend([Python::from_environment().0, OsString::from("python3")]);
    candidates.dedup();
    for python in candidates {
        if can_import(&python, module, interrupt)? {
            return Ok(Some(python));
        }
    }
    Ok(None)
}

/// Whether `python` has `module`; one that is not there or does not answer has not.
pub(super) fn can_import(python: &OsStr, module: &str, interrupt: &Interrupt) -> Result<bool, Failure> {
    let question = format!("import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)");
    match run(
        python,
        &[OsStr::new("-c"), OsStr::new(&question)],
        PYTHON_QUESTION,
        interrupt,
    ) {
        Ok(finished) => Ok(finished.is_success),
        Err(failure) if failure.kind == FailureKind::Interrupted => Err(failure),
        Err(_) => Ok(false),
    }
}

/// The version of a package that `python` has; `None` where it does not tell.
///
/// # Errors
/// The user ended it.
pub(super) fn version_of(python: &OsStr, package: &str, interrupt: &Interrupt) -> Result<Option<String>, Failure> {
    let question = format!("import importlib.metadata; print(importlib.metadata.version('{package}'))");
    match run(
        python,
        &[OsStr::new("-c"), OsStr::new(&question)],
        PYTHON_QUESTION,
        interrupt,
    ) {
        Ok(finished) => Ok(finished
            .is_success
            .then(|| format!("{package} {}", finished.output.trim()))),
        Err(failure) if failure.kind == FailureKind::Interrupted => Err(failure),
        Err(_) => Ok(None),
    }
}
