use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::WorkerError;
use crate::interrupt::Interrupt;
use crate::python::Python;

/// Lines of standard error that are kept in mind.
const LAST_LINES: usize = 12;
/// How often the clock and the user's wish are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long the last lines of a program that has ended may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A program that answers lines with lines, in a process group of its own that ends with this value.
#[derive(Debug)]
pub(super) struct LineProcess {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    interrupt: Interrupt,
}

impl LineProcess {
    /// Runs a script.
    pub(super) fn start(python: &Python, script: &Path, interrupt: &Interrupt) -> Result<Self, WorkerError> {
        let mut child = Command::new(&python.0)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|source| WorkerError::NoPython {
                python: python.name(),
                source,
            })?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(std::io::Error::other("a pipe is missing").into());
        };
        let (sender, lines) = channel();
        for_each_line(output, move |line| sender.send(line).is_ok());
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&last_lines);
        for_each_line(errors, move |line| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if !line.trim().is_empty() {
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

    /// Writes a line for `request` and waits for the line that answers it.
    pub(super) fn exchange(
        &mut self,
        request: &'static str,
        line: &str,
        timeout: Duration,
    ) -> Result<String, WorkerError> {
        // A program that has ended is told by the answer that does not come.
        if writeln!(self.input, "{line}")
            .and_then(|()| self.input.flush())
            .is_err()
        {
            return Err(self.ended(request));
        }
        self.next_line(request, timeout)
    }

    /// Waits for a line.
    pub(super) fn next_line(&mut self, request: &'static str, timeout: Duration) -> Result<String, WorkerError> {
        let asked = Instant::now();
        loop {
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(request)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.interrupt.is_requested() {
                self.kill();
                return Err(WorkerError::Interrupted);
            }
            if asked.elapsed() > timeout {
                self.kill();
                return Err(WorkerError::TimedOut {
                    request,
                    seconds: timeout.as_secs_f64(),
                    last_lines: self.last_lines(),
                });
            }
        }
    }

    fn ended(&mut self, request: &'static str) -> WorkerError {
        std::thread::sleep(LAST_WORDS);
        self.kill();
        WorkerError::Ended {
            request,
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
