//! llama.cpp's server through the package xllamacpp (<https://pypi.org/project/xllamacpp/>), in a virtual environment of our
//! own where no python has it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::bounds::INSTALLATION;
use super::python_modules::{can_import, python_with};
use super::short_command::run;
use crate::atomic_write::UnfinishedFolder;
use crate::compare::cache_folder::cache_folder;
use crate::compare::{Failure, FailureKind};
use crate::excerpt::beginning;
use crate::interrupt::Interrupt;

/// The package's name, also that of its module.
pub(super) const PACKAGE: &str = "xllamacpp";
/// The version that is installed; its last part is llama.cpp's build.
const VERSION: &str = "2026.10.11549";

/// A python that has the package.
///
/// # Errors
/// None has it, and no environment can be made.
pub(super) fn python(environment: &BTreeMap<String, String>, interrupt: &Interrupt) -> Result<OsString, Failure> {
    if let Some(python) = python_with(PACKAGE, environment, interrupt)? {
        return Ok(python);
    }
    let folder = cache_folder()?.join("llama-cpp").join(VERSION);
    let python = python_of(&folder);
    if can_import(python.as_os_str(), PACKAGE, interrupt)? {
        return Ok(python.into_os_string());
    }
    install(&folder, interrupt)?;
    Ok(python.into_os_string())
}

/// Makes the environment under another name, then renames it.
fn install(folder: &Path, interrupt: &Interrupt) -> Result<(), Failure> {
    let not_written = |error: std::io::Error| {
        Failure::of(
            FailureKind::NotWritten,
            format!(
                "llama.cpp's package cannot be installed in `{}`: {error}",
                folder.display()
            ),
        )
        .with_hint("free some disk space, or set `XDG_CACHE_HOME` to a folder that can be written to")
    };
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent).map_err(not_written)?;
    }
    if folder.exists() {
        // Its python has gone or lost the package: an environment does not survive a new version of its python.
        std::fs::remove_dir_all(folder).map_err(not_written)?;
    }
    let unfinished = UnfinishedFolder::for_target(folder).map_err(not_written)?;
    let venv = [OsStr::new("-m"), OsStr::new("venv"), unfinished.path().as_os_str()];
    step(OsStr::new("python3"), &venv, interrupt).map_err(|failure| {
        failure.with_hint(
            "install Python 3.9 or newer with its module venv (Debian and Ubuntu: `apt install python3-venv`), or put \
             `llama-server` on the path",
        )
    })?;
    let requirement = format!("{PACKAGE}=={VERSION}");
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        &requirement,
    ]
    .map(OsStr::new);
    step(python_of(unfinished.path()).as_os_str(), &pip, interrupt).map_err(|failure| {
        failure.with_hint(format!(
            "check the network, put `llama-server` on the path, or name a python that has {PACKAGE} in \
             `MLX_DIAGNOSE_PYTHON`"
        ))
    })?;
    match unfinished.finish() {
        // Another run was faster, with the same result.
        Err(_) if can_import(python_of(folder).as_os_str(), PACKAGE, interrupt)? => Ok(()),
        finished => finished.map_err(not_written),
    }
}

fn step(program: &OsStr, arguments: &[&OsStr], interrupt: &Interrupt) -> Result<(), Failure> {
    let finished = run(program, arguments, INSTALLATION, interrupt)?;
    if finished.is_success {
        return Ok(());
    }
    let mut lines = finished.output.lines().chain(finished.errors.lines());
    let last = lines.rfind(|line| !line.trim().is_empty()).unwrap_or("");
    Err(Failure::of(
        FailureKind::NotStarted,
        format!("llama.cpp's server cannot be installed: {}", beginning(last)),
    ))
}

fn python_of(environment: &Path) -> PathBuf {
    environment.join("bin").join("python")
}
