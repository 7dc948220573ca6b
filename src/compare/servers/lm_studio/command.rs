//! LM Studio's command `lms`.
//!
//! Source: <https://lmstudio.ai/docs/cli>.

use std::ffi::OsStr;
use std::time::Duration;

use serde_json::Value;

use crate::compare::servers::bounds::SHORT_COMMAND;
use crate::compare::servers::short_command::{Finished, run};
use crate::compare::servers::{LoadRequest, Surroundings};
use crate::compare::{Failure, FailureKind};
use crate::excerpt::beginning;
use crate::interrupt::Interrupt;

/// The program.
const PROGRAM: &str = "lms";

/// Whether it is there.
pub(super) fn is_installed(interrupt: &Interrupt) -> bool {
    let finished = run(OsStr::new(PROGRAM), &[OsStr::new("version")], SHORT_COMMAND, interrupt);
    finished.is_ok_and(|finished| finished.is_success)
}

/// Loads a model, under its own name as identifier.
pub(super) fn load(key: &str, request: &LoadRequest, surroundings: &Surroundings) -> Result<(), Failure> {
    let (context_length, parallel) = (request.context_length.to_string(), request.parallel.to_string());
    let arguments = [
        "load",
        key,
        "--exact",
        "--yes",
        "--identifier",
        key,
        "--context-length",
        &context_length,
        "--parallel",
        &parallel,
    ];
    let limit = Duration::try_from_secs_f64(surroundings.limits.load).unwrap_or(Duration::MAX);
    let program = OsStr::new(PROGRAM);
    let finished = run(program, &arguments.map(OsStr::new), limit, &surroundings.interrupt)?;
    succeeded(&finished, FailureKind::NotLoaded, "load a model")
}

/// Unloads an instance, also where the user has ended the run.
pub(super) fn unload(identifier: &str) -> Result<(), Failure> {
    let arguments = ["unload", identifier].map(OsStr::new);
    let finished = run(OsStr::new(PROGRAM), &arguments, SHORT_COMMAND, &Interrupt::default())?;
    succeeded(&finished, FailureKind::ServerError, "unload a model")
}

/// The process of the headless LM Studio; `None` where there is none, or no such command.
pub(super) fn daemon(interrupt: &Interrupt) -> Option<u32> {
    let arguments = ["daemon", "status", "--json"].map(OsStr::new);
    let finished = run(OsStr::new(PROGRAM), &arguments, SHORT_COMMAND, interrupt).ok()?;
    let status: Value = serde_json::from_str(&finished.output).ok()?;
    let is_running = status.get("status").and_then(Value::as_str) == Some("running");
    let id = status.get("pid").and_then(Value::as_u64).filter(|_| is_running)?;
    u32::try_from(id).ok()
}

fn succeeded(finished: &Finished, kind: FailureKind, what: &str) -> Result<(), Failure> {
    if finished.is_success {
        return Ok(());
    }
    let said = if finished.errors.trim().is_empty() {
        &finished.output
    } else {
        &finished.errors
    };
    Err(Failure::of(
        kind,
        format!("`{PROGRAM}` could not {what}: {}", beginning(said)),
    ))
}
