//! A program that answers lines with lines: asked, watched, and ended with everything that it started.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use thiserror::Error;

use crate::interrupt::Interrupt;

/// Lines of standard error that are kept in mind.
const LAST_LINES: usize = 12;
/// How often the clock and the user's wish are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long the last lines of a program that has ended may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Longest line of standard error that is kept, in bytes.
const LINE_BYTES: usize = 400;

/// Why there is no line.
#[derive(Debug, Error)]
pub enum LineProcessError {
    /// It cannot be run.
    #[error("it cannot be run: {0}")]
    Start(std::io::Error),
    /// It ended.
    #[error("it {}{}", ending(*status), shown(last_lines))]
    Ended {
        /// How, where the system says.
        status: Option<ExitStatus>,
        /// The last lines of its standard error.
        last_lines: Vec<String>,
    },
    /// It took too long and was ended.
    #[error("it did not answer within {seconds:.0} s and was ended{}", shown(last_lines))]
    TimedOut {
        /// How long it had.
        seconds: f64,
        /// The last lines of its standard error.
        last_lines: Vec<String>,
    },
    /// The user ended it.
    #[error("it was interrupted")]
    Interrupted,
}

fn ending(status: Option<ExitStatus>) -> String {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("ended with exit code {code}"),
        // What the system ends for want of memory gets this signal, and no word.
        Some((None, Some(9))) => "was killed (signal 9; a system that runs out of memory does this)".to_owned(),
        Some((None, Some(signal))) => format!("was ended by signal {signal}"),
        Some((None, None)) | None => "ended".to_owned(),
    }
}

/// The last lines, below a headline.
pub fn shown(last_lines: &[String]) -> String {
    if last_lines.is_empty() {
        "\n  found: no word on its standard error".to_owned()
    } else {
        format!("\n  found: {}", last_lines.join("\n         "))
    }
}

/// A program that answers lines with lines, in a process group of its own that ends with this value.
#[derive(Debug)]
pub struct LineProcess {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    interrupt: Interrupt,
}

impl LineProcess {
    /// Runs a command.
    ///
    /// # Errors
    /// [`LineProcessError::Start`].
    pub fn start(command: &mut Command, interrupt: &Interrupt) -> Result<Self, LineProcessError> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(LineProcessError::Start)?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(LineProcessError::Start(std::io::Error::other("a pipe is missing")));
        };
        let (sender, lines) = channel();
        for_each_line(output, move |line| sender.send(line).is_ok());
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&last_lines);
        for_each_line(errors, move |mut line| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if !line.trim().is_empty() {
                line.truncate(line.floor_char_boundary(LINE_BYTES));
                kept.push_back(line);
            }
            if kept.len() > LAST_LINES {
                kept.pop_front();
            }
            true
        });
        Ok(Self {
            child,
            input,
            lines,
            last_lines,
            interrupt: interrupt.clone(),
        })
    }

    /// Writes a line; a program that has ended is told by the answer that does not come.
    pub fn send(&mut self, line: &str) {
        let _ = writeln!(self.input, "{line}").and_then(|()| self.input.flush());
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// It ended, took longer than `timeout`, or the user wishes to stop.
    pub fn next_line(&mut self, timeout: Duration) -> Result<String, LineProcessError> {
        let asked = Instant::now();
        loop {
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.interrupt.is_requested() {
                self.kill();
                return Err(LineProcessError::Interrupted);
            }
            if asked.elapsed() > timeout {
                self.kill();
                return Err(LineProcessError::TimedOut {
                    seconds: timeout.as_secs_f64(),
                    last_lines: self.last_lines(),
                });
            }
        }
    }

    fn ended(&mut self) -> LineProcessError {
        std::thread::sleep(LAST_WORDS);
        // Its standard output is closed, but it may run on.
        let status = self.child.try_wait().ok().flatten();
        self.kill();
        LineProcessError::Ended {
            status,
            last_lines: self.last_lines(),
        }
    }

    fn last_lines(&self) -> Vec<String> {
        let kept = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().cloned().collect()
    }

    fn kill(&mut self) {
        // A group that has ended already needs no signal, and nothing is left to wait for.
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for LineProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Gives each line of a pipe to `take`, until that has enough.
fn for_each_line(pipe: impl Read + Send + 'static, mut take: impl FnMut(String) -> bool + Send + 'static) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if !take(text) {
                return;
            }
        }
    });
}
