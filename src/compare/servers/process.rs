//! A server process of ours, from its start to its end.
//!
//! It has a process group of its own, which is ended with it: by [`ServerProcess::stop`], by dropping it, and by the end of
//! this program.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::bounds::{ASK, GRACE, KILLED, LAST_WORDS, LOG_LINES, LOG_TAIL};
use super::process_group::ProcessGroup;
use crate::compare::{Failure, FailureKind};
use crate::excerpt::beginning;
use crate::interrupt::Interrupt;

/// How a server is started.
#[derive(Debug)]
pub(super) struct Launch<'launch> {
    /// The words of the command.
    pub(super) command: &'launch [String],
    /// Variables that it gets beside ours.
    pub(super) environment: &'launch BTreeMap<String, String>,
    /// Variables of ours that it does not get.
    pub(super) without: &'launch [&'static str],
    /// Folder for its log.
    pub(super) logs: &'launch Path,
    /// Beginning of its log's name.
    pub(super) name: &'launch str,
}

/// A running server.
#[derive(Debug)]
pub(super) struct ServerProcess {
    group: ProcessGroup,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

/// A port of this machine that nobody listens at.
pub(super) fn free_port() -> Result<u16, Failure> {
    let probe = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    let none = |error| Failure::of(FailureKind::NotStarted, format!("no port is free: {error}"));
    Ok(probe.map_err(none)?.port())
}

impl ServerProcess {
    /// Starts a server; what it prints goes into a new file of the folder for logs.
    ///
    /// # Errors
    /// The log cannot be written, or the program cannot be started.
    pub(super) fn start(launch: &Launch) -> Result<Self, Failure> {
        let not_written = |error: std::io::Error| {
            let folder = launch.logs.display();
            Failure::of(
                FailureKind::NotWritten,
                format!("the server's log cannot be written to `{folder}`: {error}"),
            )
        };
        let (log, file) = new_log(launch.logs, launch.name).map_err(not_written)?;
        let [program, arguments @ ..] = launch.command else {
            return Err(Failure::of(FailureKind::NotStarted, "the server's command is empty"));
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(not_written)?)
            .stderr(file);
        for variable in launch.without {
            command.env_remove(variable);
        }
        let group = ProcessGroup::start(command.envs(launch.environment)).map_err(|error| {
            Failure::of(
                FailureKind::NotStarted,
                format!("`{program}` cannot be started: {error}"),
            )
        })?;
        Ok(Self {
            group,
            log,
            ended: None,
        })
    }

    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.group.id()
    }

    /// Where what it prints goes.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Why it is not running any more; `None` while it is.
    pub(super) fn death(&mut self) -> Option<Failure> {
        let status = self.status()?;
        let reason = format!("the server's process ended by itself ({status})");
        Some(self.with_last_words(Failure::of(FailureKind::Died, reason)))
    }

    /// What `failure` of a request was due to: the end of the process where it has one.
    pub(super) fn explain(&mut self, failure: Failure) -> Failure {
        let may_be_death = matches!(failure.kind, FailureKind::BrokenOff | FailureKind::Unreachable);
        let asked = Instant::now();
        while may_be_death && asked.elapsed() < LAST_WORDS {
            if let Some(death) = self.death() {
                return death;
            }
            std::thread::sleep(ASK);
        }
        failure
    }

    /// A failure with the last lines of the log.
    pub(super) fn with_last_words(&self, failure: Failure) -> Failure {
        Failure {
            reason: format!("{}: {}", failure.reason, self.last_words()),
            ..failure.with_hint(format!("read what it printed in `{}`", self.log.display()))
        }
    }

    /// Waits until `is_ready` says so, for at most `seconds`.
    ///
    /// # Errors
    /// It died, took too long, or the user ended it; it is stopped then.
    pub(super) fn wait_until_ready(
        &mut self,
        seconds: f64,
        interrupt: &Interrupt,
        is_ready: &mut dyn FnMut() -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        loop {
            if let Some(death) = self.death() {
                return Err(death);
            }
            if interrupt.is_requested() {
                return Err(Failure::interrupted());
            }
            if is_ready()? {
                return Ok(());
            }
            if started.elapsed().as_secs_f64() > seconds {
                return Err(Failure::of(
                    FailureKind::TimedOut,
                    format!("the server was not ready within {seconds} s: {}", self.last_words()),
                )
                .with_hint("give it more time with `limits.load`"));
            }
            std::thread::sleep(ASK);
        }
    }

    /// Asks the whole group to end, and kills it when it does not.
    ///
    /// # Errors
    /// It had died before, or had to be killed.
    pub(super) fn stop(&mut self) -> Result<(), Failure> {
        if let Some(death) = self.death() {
            self.group.signal(Signal::SIGKILL);
            return Err(death);
        }
        self.group.signal(Signal::SIGTERM);
        let ended_in_time = self.has_ended_within(GRACE);
        // What it left running has nothing more to do.
        self.group.signal(Signal::SIGKILL);
        if ended_in_time {
            return Ok(());
        }
        let seconds = GRACE.as_secs();
        if self.has_ended_within(KILLED) {
            let reason = format!("the server did not end within {seconds} s of being asked to, and was killed");
            return Err(Failure::of(FailureKind::TimedOut, reason));
        }
        let reason = format!("the server's process {} cannot be killed", self.id());
        Err(Failure::of(FailureKind::TimedOut, reason))
    }

    fn status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            // A process that cannot be waited for is not there.
            self.ended = self.group.leader().try_wait().ok().flatten();
        }
        self.ended
    }

    fn has_ended_within(&mut self, limit: Duration) -> bool {
        let asked = Instant::now();
        loop {
            if self.status().is_some() {
                return true;
            }
            if asked.elapsed() >= limit {
                return false;
            }
            std::thread::sleep(ASK);
        }
    }

    /// The last lines of its log, on one line.
    fn last_words(&self) -> String {
        match tail(&self.log) {
            Ok(text) => {
                let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
                let last = lines.len().saturating_sub(LOG_LINES);
                beginning(&lines.get(last..).unwrap_or(&[]).join(" | "))
            }
            Err(error) => format!("its log cannot be read: {error}"),
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.group.signal(Signal::SIGKILL);
        self.has_ended_within(KILLED);
    }
}

/// A new file `NAME-N.log`.
fn new_log(folder: &Path, name: &str) -> std::io::Result<(PathBuf, File)> {
    std::fs::create_dir_all(folder)?;
    let mut number = 1_usize;
    loop {
        let path = folder.join(format!("{name}-{number}.log"));
        match OpenOptions::new().append(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
