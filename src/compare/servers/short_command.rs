//! Small programs that are run to their end, with bounded time and output.

use std::ffi::OsStr;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::bounds::{ASK, SHORT_OUTPUT};
use super::process_group::ProcessGroup;
use crate::compare::{Failure, FailureKind};
use crate::interrupt::Interrupt;

/// What a program printed, and whether it succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finished {
    /// Whether it ended with exit code 0.
    pub(super) is_success: bool,
    /// Its standard output.
    pub(super) output: String,
    /// Its standard error.
    pub(super) errors: String,
}

/// Runs a program in a process group of its own, which is killed when it takes longer than `limit` or the user ends it.
///
/// # Errors
/// It is not installed, does not end in time, or the user ended it; an exit code is none.
pub(super) fn run(
    program: &OsStr,
    arguments: &[&OsStr],
    limit: Duration,
    interrupt: &Interrupt,
) -> Result<Finished, Failure> {
    let name = program.to_string_lossy();
    let not_run =
        |error: std::io::Error| Failure::of(FailureKind::NotStarted, format!("`{name}` cannot be run: {error}"));
    let mut output = tempfile::tempfile().map_err(not_run)?;
    let mut errors = tempfile::tempfile().map_err(not_run)?;
    let started = Instant::now();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(not_run)?)
        .stderr(errors.try_clone().map_err(not_run)?);
    let mut group = ProcessGroup::start(&mut command).map_err(not_run)?;
    let status = loop {
        if let Some(status) = group.leader().try_wait().map_err(not_run)? {
            break status;
        }
        let given_up = if interrupt.is_requested() {
            Some(Failure::interrupted())
        } else if started.elapsed() > limit {
            let seconds = limit.as_secs();
            let reason = format!("`{name}` did not end within {seconds} s");
            Some(Failure::of(FailureKind::TimedOut, reason))
        } else {
            None
        };
        if let Some(failure) = given_up {
            group.signal(Signal::SIGKILL);
            group.leader().wait().map_err(not_run)?;
            return Err(failure);
        }
        std::thread::sleep(ASK);
    };
    group.leave();
    let read = |file: &mut std::fs::File| {
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.take(SHORT_OUTPUT).read_to_end(&mut bytes))
            .map_err(not_run)?;
        Ok::<_, Failure>(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Finished {
        is_success: status.success(),
        output: read(&mut output)?,
        errors: read(&mut errors)?,
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::time::{Duration, Instant};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::run;
    use crate::compare::FailureKind;
    use crate::interrupt::Interrupt;

    fn shell(script: &str, limit: Duration) -> Result<super::Finished, crate::compare::Failure> {
        let arguments = ["-c", script].map(OsStr::new);
        run(OsStr::new("sh"), &arguments, limit, &Interrupt::default())
    }

    #[test]
    fn what_a_program_prints_is_told_with_its_success() {
        let finished = shell("echo told; echo alas >&2; exit 3", Duration::from_secs(10)).unwrap();
        assert!(!finished.is_success);
        assert_eq!(
            (finished.output.as_str(), finished.errors.as_str()),
            ("told\n", "alas\n")
        );
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let began = Instant::now();
        let failure = shell("sleep 60", Duration::from_millis(50)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_service_that_a_program_starts_is_left_running() {
        let finished = shell("sleep 60 >&2 & echo $!", Duration::from_secs(10)).unwrap();
        let service = Pid::from_raw(finished.output.trim().parse().unwrap());
        kill(service, None).expect("it is still there");
        kill(service, Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_program_that_is_not_there_is_told() {
        let program = OsStr::new("/nowhere/at/all");
        let failure = run(program, &[], Duration::from_secs(1), &Interrupt::default()).unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotStarted);
    }
}
