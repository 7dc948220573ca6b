use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use thiserror::Error;

use super::contestant::{Contestant, Start};
use super::protocol::{Answered, Asked, First, Greeting, Job, Loaded, PROTOCOL, Purpose};
use crate::interrupt::Interrupt;
use crate::line_process::{LineProcess, LineProcessError};
use crate::temporary_folder::TemporaryFolder;

/// The Python sides, by the names under which they import each other.
const SCRIPTS: [(&str, &str); 4] = [
    ("bench_worker.py", include_str!("../../scripts/peers/bench_worker.py")),
    (
        "bench_worker_torch.py",
        include_str!("../../scripts/peers/bench_worker_torch.py"),
    ),
    (
        "bench_worker_mlx_lm.py",
        include_str!("../../scripts/peers/bench_worker_mlx_lm.py"),
    ),
    (
        "bench_worker_llama_cpp.py",
        include_str!("../../scripts/peers/bench_worker_llama_cpp.py"),
    ),
];
/// Longest part of a line that is shown.
const SHOWN: usize = 200;

/// Why a contestant did not do a job.
#[derive(Debug, Error)]
pub enum PeerError {
    /// Its process did not answer.
    #[error("asked for `{job}`, {error}")]
    Process {
        /// What it was asked for.
        job: &'static str,
        /// What became of it.
        error: LineProcessError,
    },
    /// It wrote something that is no answer.
    #[error("asked for `{job}`, it wrote something that is no answer\n  found: {found}")]
    Garbled {
        /// What it was asked for.
        job: &'static str,
        /// What it wrote.
        found: String,
    },
    /// It speaks another version of the protocol.
    #[error("it speaks another version of the protocol\n  found: {found}\n  expected: {PROTOCOL}")]
    OtherProtocol {
        /// Its version.
        found: u64,
    },
    /// A package is not installed.
    #[error("not installed\n  found: {0}")]
    Lacking(String),
    /// It refused, or could not do it.
    #[error("asked for `{job}`, it could not: {message}")]
    Refused {
        /// What it was asked for.
        job: &'static str,
        /// Why.
        message: String,
    },
    /// It did another amount of work.
    #[error("asked for `{job}`, it did another amount of work\n  found: {found}\n  expected: {expected}")]
    OtherWork {
        /// What it was asked for.
        job: &'static str,
        /// Tokens, or steps.
        found: usize,
        /// As many as were asked for.
        expected: usize,
    },
    /// Its files cannot be written.
    #[error("its files cannot be written: {0}")]
    Files(#[from] io::Error),
}

impl PeerError {
    /// Whether the user ended it.
    pub fn is_interrupted(&self) -> bool {
        matches!(
            self,
            Self::Process {
                error: LineProcessError::Interrupted,
                ..
            }
        )
    }
}

/// A contestant's process; it ends when this value is dropped, with all that it started.
#[derive(Debug)]
pub struct PeerWorker {
    process: LineProcess,
    asked: u64,
    started: Instant,
    timeout: Duration,
    _scripts: TemporaryFolder,
}

impl PeerWorker {
    /// Starts the process and asks for nothing.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(start: &Start, interrupt: &Interrupt, timeout: Duration) -> Result<Self, PeerError> {
        let scripts = TemporaryFolder::new()?;
        let mut command = command(start, scripts.path())?;
        let started = Instant::now();
        let process =
            LineProcess::start(&mut command, interrupt).map_err(|error| PeerError::Process { job: "start", error })?;
        Ok(Self {
            process,
            asked: 0,
            started,
            timeout,
            _scripts: scripts,
        })
    }

    /// Starts the process and only waits for what it says first.
    ///
    /// # Errors
    /// It lacks something, or is no contestant.
    pub fn probe(start: &Start, interrupt: &Interrupt, timeout: Duration) -> Result<Greeting, PeerError> {
        Self::start(start, interrupt, timeout)?.greeting()
    }

    /// Starts a contestant and loads its model; returns the seconds from the process's start until it can be asked.
    ///
    /// # Errors
    /// It cannot.
    pub fn load(
        contestant: &Contestant,
        purpose: Purpose,
        interrupt: &Interrupt,
        timeout: Duration,
    ) -> Result<(Self, f64), PeerError> {
        let mut worker = Self::start(&contestant.start, interrupt, timeout)?;
        let job = Job::Load {
            model: contestant.model.clone(),
            dtype: contestant.dtype.clone(),
            device: contestant.device.clone(),
            threads: contestant.threads,
            purpose,
        };
        // Asked before it is ready, so that it never waits.
        worker.ask(&job);
        worker.greeting()?;
        let Loaded {} = worker.answer(&job)?;
        let seconds = worker.started.elapsed().as_secs_f64();
        Ok((worker, seconds))
    }

    /// Does a job.
    ///
    /// # Errors
    /// It died, hung, refused, or wrote something else; then it is not to be asked again.
    pub fn call<T: DeserializeOwned>(&mut self, job: &Job) -> Result<T, PeerError> {
        self.ask(job);
        self.answer(job)
    }

    fn greeting(&mut self) -> Result<Greeting, PeerError> {
        let line = self.line("start")?;
        match serde_json::from_str(&line) {
            Ok(First::Ready(greeting)) if greeting.protocol == PROTOCOL => Ok(greeting),
            Ok(First::Ready(greeting)) => Err(PeerError::OtherProtocol {
                found: greeting.protocol,
            }),
            Ok(First::Lacking { error }) => Err(PeerError::Lacking(error.message)),
            Err(_) => Err(garbled("start", &line)),
        }
    }

    fn ask(&mut self, job: &Job) {
        self.asked += 1;
        let asked = Asked {
            id: self.asked,
            job: job.clone(),
        };
        self.process.send(&serde_json::json!(asked).to_string());
    }

    fn answer<T: DeserializeOwned>(&mut self, job: &Job) -> Result<T, PeerError> {
        let job = job.name();
        let line = self.line(job)?;
        match serde_json::from_str(&line) {
            Ok(Answered { id, .. }) if id != Some(self.asked) => Err(garbled(job, &line)),
            Ok(Answered {
                error: Some(refusal), ..
            }) => Err(PeerError::Refused {
                job,
                message: refusal.message,
            }),
            Ok(Answered {
                result: Some(result), ..
            }) => serde_json::from_value(result).map_err(|_| garbled(job, &line)),
            Ok(Answered { .. }) | Err(_) => Err(garbled(job, &line)),
        }
    }

    fn line(&mut self, job: &'static str) -> Result<String, PeerError> {
        self.process
            .next_line(self.timeout)
            .map_err(|error| PeerError::Process { job, error })
    }
}

fn garbled(job: &'static str, line: &str) -> PeerError {
    let mut found = line.to_owned();
    if found.len() > SHOWN {
        found.truncate(found.floor_char_boundary(SHOWN));
        found.push_str("...");
    }
    PeerError::Garbled { job, found }
}

fn command(start: &Start, folder: &Path) -> io::Result<Command> {
    match start {
        Start::Own { program } => {
            let mut command = Command::new(program);
            command.arg("bench-worker");
            Ok(command)
        }
        Start::Script {
            python,
            script,
            environment,
        } => {
            for (name, text) in SCRIPTS {
                std::fs::write(folder.join(name), text)?;
            }
            let mut command = Command::new(&python.0);
            command.arg(folder.join(script)).envs(environment);
            Ok(command)
        }
        Start::Program { program } => Ok(Command::new(program)),
    }
}
