use std::io::{ErrorKind, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use thiserror::Error;

/// Most bytes that are read of a program's output.
const LONGEST_OUTPUT: u64 = 1 << 20;
/// How often is looked whether a program has ended.
const LOOK: Duration = Duration::from_millis(5);
/// Time that a program has to end once its output is over.
const GRACE: Duration = Duration::from_secs(1);

/// Why a program of the system said nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProgramError {
    /// It is not installed, or cannot be started.
    #[error("`{program}` cannot be run: {reason}")]
    NotRun {
        /// Its name.
        program: String,
        /// What the system said.
        reason: String,
    },
    /// It ended with an error.
    #[error("`{program}` failed: {reason}")]
    Failed {
        /// Its name.
        program: String,
        /// The first line that it said, or its status.
        reason: String,
    },
    /// It did not end in time; drivers in trouble hang.
    #[error("`{program}` gave no answer in {seconds} s")]
    TimedOut {
        /// Its name.
        program: String,
        /// The time that it had.
        seconds: u64,
    },
}

/// Runs a program of the system and gives what it prints.
pub(super) type RunProgram<'run> = dyn Fn(&str, &[&str]) -> Result<String, ProgramError> + 'run;

/// What `program` prints within `limit`; it is ended when it takes longer.
///
/// A program that fails has said something all the same where it printed anything: `sysctl` does so for names it does not
/// know.
pub(super) fn output(program: &str, arguments: &[&str], limit: Duration) -> Result<String, ProgramError> {
    let not_run = |error: std::io::Error| ProgramError::NotRun {
        program: program.to_owned(),
        reason: match error.kind() {
            ErrorKind::NotFound => "it is not installed".to_owned(),
            _ => error.to_string(),
        },
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(not_run)?;
    let Some(stdout) = child.stdout.take() else {
        return Err(not_run(std::io::Error::other("it has no output")));
    };
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.take(LONGEST_OUTPUT).read_to_end(&mut bytes);
        // Nobody listens any more once the time is up.
        let _ = sender.send(read.map(|_| bytes));
    });
    let Ok(read) = receiver.recv_timeout(limit) else {
        child.kill().and_then(|()| child.wait()).map_err(not_run)?;
        return Err(ProgramError::TimedOut {
            program: program.to_owned(),
            seconds: limit.as_secs(),
        });
    };
    let text = String::from_utf8_lossy(&read.map_err(not_run)?).into_owned();
    let status = ended(&mut child).map_err(not_run)?;
    if !status.success() && text.trim().is_empty() {
        return Err(ProgramError::Failed {
            program: program.to_owned(),
            reason: status.to_string(),
        });
    }
    Ok(text)
}

/// The status of a program whose output is over: it has ended, or is ended.
fn ended(child: &mut Child) -> std::io::Result<ExitStatus> {
    let waited = Instant::now();
    while waited.elapsed() < GRACE {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(LOOK);
    }
    child.kill()?;
    child.wait()
}

#[cfg(test)]
mod tests {
    use super::{ProgramError, output};
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn what_a_program_prints_is_read() {
        assert_eq!(output("echo", &["a", "b"], LIMIT), Ok("a b\n".to_owned()));
    }

    #[test]
    fn a_program_that_is_not_there_or_fails_says_so() {
        let error = output("no-such-program-of-mlx-diagnose", &[], LIMIT).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`no-such-program-of-mlx-diagnose` cannot be run: it is not installed"
        );
        assert_eq!(
            output("false", &[], LIMIT).unwrap_err().to_string(),
            "`false` failed: exit status: 1"
        );
        // `sysctl` fails where it knows only some of the names.
        assert_eq!(
            output("sh", &["-c", "echo known; exit 1"], LIMIT),
            Ok("known\n".to_owned())
        );
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let error = output("sleep", &["600"], Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, ProgramError::TimedOut { .. }), "{error}");
    }

    #[test]
    fn a_program_that_never_stops_printing_is_cut() {
        let printed = output("yes", &[], LIMIT).unwrap();
        assert_eq!(printed.len(), 1 << 20);
    }
}
