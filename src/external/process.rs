use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::interrupt::Interrupt;

/// Lines of the output that are kept in mind.
const LAST_LINES: usize = 12;
/// How often the clock and the user's wish are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Time that a process group has to end by itself once it is asked to.
const GRACE: Duration = Duration::from_secs(5);

/// How a watched program came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It ended by itself, with this code; `None` when a signal ended it.
    Exited(Option<i32>),
    /// It was ended for taking too long.
    TimedOut,
    /// It was ended because the user asked for it.
    Interrupted,
}

/// A program that has come to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// How.
    pub ending: Ending,
    /// The last lines that it printed, without colours.
    pub last_lines: Vec<String>,
    /// Seconds that it ran.
    pub seconds: f64,
}

/// A command for `sh`, and the bounds it runs within.
#[derive(Debug)]
pub struct Watched<'run> {
    /// The command.
    pub command: &'run str,
    /// Where its output is kept.
    pub log: &'run Path,
    /// Longest time it may take.
    pub timeout: Duration,
    /// The user's wish to stop.
    pub interrupt: &'run Interrupt,
}

/// Runs a command in a process group of its own, keeps its output, and shows each line to `observe`.
///
/// Nothing of it is left behind: at a timeout and at the user's wish the whole group is ended.
///
/// # Errors
/// The log cannot be written, or `sh` cannot be started.
pub fn run(watched: &Watched, observe: &mut dyn FnMut(&str)) -> std::io::Result<Finished> {
    let started = Instant::now();
    let mut log = File::create(watched.log)?;
    // One pipe for both, so that their lines stay in order.
    let (reader, writer) = std::io::pipe()?;
    let mut child = Command::new("sh")
        .args(["-c", watched.command])
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()?;
    let lines = lines_of(reader);
    let mut last_lines = VecDeque::new();
    let mut ending = None;
    loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => {
                log.write_all(&line)?;
                let text = String::from_utf8_lossy(&line);
                let text = console::strip_ansi_codes(text.trim_end()).into_owned();
                if !text.trim().is_empty() {
                    observe(&text);
                    last_lines.push_back(text);
                    if last_lines.len() > LAST_LINES {
                        last_lines.pop_front();
                    }
                }
            }
            // The pipe is closed, or nothing was printed: then the program may have ended and left a child with the pipe.
            Err(reason) => {
                if let Some(status) = child.try_wait()? {
                    ending.get_or_insert(Ending::Exited(status.code()));
                    break;
                }
                if reason == RecvTimeoutError::Disconnected {
                    std::thread::sleep(LOOK);
                }
            }
        }
        let asked = if watched.interrupt.is_requested() {
            Some(Ending::Interrupted)
        } else if started.elapsed() > watched.timeout {
            Some(Ending::TimedOut)
        } else {
            None
        };
        if let Some(asked) = asked {
            ending = Some(asked);
            end(&mut child)?;
            break;
        }
    }
    // What the program left running has nothing more to do.
    signal(&child, Signal::SIGKILL);
    Ok(Finished {
        ending: ending.unwrap_or(Ending::Exited(None)),
        last_lines: last_lines.into(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The lines of a pipe, each with its end; a progress bar's carriage returns end lines too.
fn lines_of(reader: std::io::PipeReader) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if sender.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Asks the group to end, and ends it when it does not.
fn end(child: &mut Child) -> std::io::Result<ExitStatus> {
    signal(child, Signal::SIGTERM);
    let asked = Instant::now();
    while asked.elapsed() < GRACE {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(LOOK);
    }
    signal(child, Signal::SIGKILL);
    child.wait()
}

fn signal(child: &Child, signal: Signal) {
    // A group that has ended already needs no signal.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), signal);
}
