//! Starts the processes of a run, passes on what they print, and ends them together.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::PresenceLimits;
use super::hosts::{Host, Hosts};
use crate::interrupt::Interrupt;
use crate::shell_word::quoted;

/// What starts a process and kills it when this program is gone.
const RANK_SCRIPT: &str = include_str!("rank.sh");
/// Nobody could type a password for each; a network that is cut is noticed.
const SSH_OPTIONS: [&str; 9] = [
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=20",
    "-o",
    "ServerAliveInterval=5",
    "-o",
    "ServerAliveCountMax=3",
];
/// Time between two looks at the processes.
const LOOK: Duration = Duration::from_millis(50);
/// How long a process has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);
/// Beyond the silence after which a process that vanished is lost: time to say so and to end.
const FAREWELL: Duration = Duration::from_secs(3);

/// What every process runs.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its path on every machine.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where it runs, on every machine.
    pub folder: PathBuf,
    /// Threads of a process on this machine, unless the user has said otherwise; `None` for as many as there are cores.
    pub threads: Option<usize>,
}

/// The processes could not be started.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// One could not.
    #[error("rank {rank} cannot be started\n  found: `{program}`: {source}")]
    Start {
        /// Which.
        rank: usize,
        /// What starts it.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankEnd {
    /// By itself, with this code; SSH ends with 255 where it fails.
    Exited(i32),
    /// By a signal.
    Killed(i32),
    /// By the launcher, after another one had failed.
    Stopped,
}

impl RankEnd {
    fn of(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Exited(code),
            None => Self::Killed(status.signal().unwrap_or_default()),
        }
    }

    /// How long the others have to notice this end and to end themselves; `None` where nothing is wrong.
    fn notice(self) -> Option<Duration> {
        match self {
            Self::Exited(0) | Self::Stopped => None,
            // It told them, unless they have not met.
            Self::Exited(_) => Some(GRACE),
            Self::Killed(_) => Some(PresenceLimits::default().silence + FAREWELL),
        }
    }
}

/// Which of its two streams a process wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Errors,
}

/// Takes a line, without its end, that a process printed.
pub type PrintLine = dyn Fn(usize, Stream, &str) + Send + Sync;

/// Processes that run.
#[derive(Debug)]
pub struct Launch {
    processes: Vec<Started>,
}

#[derive(Debug)]
struct Started {
    child: Child,
    /// Its end ends the process.
    lifeline: Option<ChildStdin>,
    readers: Vec<JoinHandle<()>>,
    end: Option<RankEnd>,
}

impl Launch {
    /// Starts `program` once for each of `hosts`; what the processes print goes to `print`, by threads of their own.
    ///
    /// # Errors
    /// One cannot be started; then none runs.
    pub fn start(hosts: &Hosts, program: &Program, print: &Arc<PrintLine>) -> Result<Self, LaunchError> {
        let ring = format!("{}\n", hosts.ring());
        let mut launch = Self { processes: Vec::new() };
        for (rank, host) in hosts.processes().iter().enumerate() {
            let (name, mut command) = command(host, rank, program);
            let started = start(&mut command, rank, &ring, print);
            launch.processes.push(started.map_err(|source| LaunchError::Start {
                rank,
                program: name,
                source,
            })?);
        }
        Ok(launch)
    }

    /// Waits for all; returns how each ended, by rank.
    ///
    /// When the user interrupts this program, every process is. When one fails, the others notice and end by themselves, or
    /// are ended a little later.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn wait(mut self, interrupt: &Interrupt) -> io::Result<Vec<RankEnd>> {
        let mut is_interrupted = false;
        // When the others have had time enough, and what was done about those that are left.
        let mut patience: Option<Instant> = None;
        let mut stopping = Stopping::NotYet;
        loop {
            self.look(stopping)?;
            let ends: Option<Vec<RankEnd>> = self.processes.iter().map(|process| process.end).collect();
            if let Some(ends) = ends {
                return Ok(ends);
            }
            if interrupt.is_requested() && !is_interrupted {
                is_interrupted = true;
                self.signal("INT");
            }
            if patience.is_none() {
                let ends = self.processes.iter().filter_map(|process| process.end);
                patience = ends
                    .filter_map(RankEnd::notice)
                    .max()
                    .map(|notice| Instant::now() + notice);
            }
            if patience.is_some_and(|patience| Instant::now() > patience) {
                patience = Some(Instant::now() + GRACE);
                stopping = match stopping {
                    Stopping::NotYet => {
                        self.signal("TERM");
                        Stopping::Asked
                    }
                    Stopping::Asked => {
                        self.cut_off();
                        Stopping::CutOff
                    }
                    Stopping::CutOff => {
                        self.kill()?;
                        Stopping::CutOff
                    }
                };
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Notes which have ended.
    fn look(&mut self, stopping: Stopping) -> io::Result<()> {
        for process in self.processes.iter_mut().filter(|process| process.end.is_none()) {
            if let Some(status) = process.child.try_wait()? {
                process.part();
                process.end = Some(match stopping {
                    Stopping::NotYet => RankEnd::of(status),
                    _ => RankEnd::Stopped,
                });
            }
        }
        Ok(())
    }

    fn signal(&mut self, name: &str) {
        for lifeline in self
            .processes
            .iter_mut()
            .filter_map(|process| process.lifeline.as_mut())
        {
            // A process that has just ended needs no signal.
            let _ = writeln!(lifeline, "{name}");
        }
    }

    /// Ends the lifelines, which kills the processes wherever they run.
    fn cut_off(&mut self) {
        for process in &mut self.processes {
            process.lifeline = None;
        }
    }

    /// Kills what was started here: an SSH that no longer hears the other side does not end by itself.
    fn kill(&mut self) -> io::Result<()> {
        self.processes
            .iter_mut()
            .filter(|process| process.end.is_none())
            .try_for_each(|process| process.child.kill())
    }
}

impl Started {
    /// Lets the shell beside a process that has ended remove the host file, and waits until it has.
    fn part(&mut self) {
        let Some(mut lifeline) = self.lifeline.take() else {
            return;
        };
        let patience = Instant::now() + FAREWELL;
        // A pipe cannot be written to once its reader is gone.
        while writeln!(lifeline, "ENDED").is_ok() && Instant::now() < patience {
            std::thread::sleep(LOOK / 10);
        }
    }
}

/// How far the launcher has gone to end those that are left.
#[derive(Debug, Clone, Copy)]
enum Stopping {
    NotYet,
    Asked,
    CutOff,
}

impl Drop for Launch {
    fn drop(&mut self) {
        self.cut_off();
        let patience = Instant::now() + GRACE;
        while Instant::now() < patience && self.processes.iter().any(|process| process.end.is_none()) {
            if self.look(Stopping::CutOff).is_err() {
                break;
            }
            std::thread::sleep(LOOK);
        }
        // What cannot be killed has ended.
        let _ = self.kill();
        for process in &mut self.processes {
            let _ = process.child.wait();
            for reader in process.readers.drain(..) {
                // It panics only where `print` does, which has said so.
                let _ = reader.join();
            }
        }
    }
}

/// What starts the process of `rank`, and its name for errors.
fn command(host: &Host, rank: usize, program: &Program) -> (&'static str, Command) {
    let number = rank.to_string();
    let words = [Path::new(&number), &program.folder, &program.path]
        .map(|word| word.display().to_string())
        .into_iter()
        .chain(program.arguments.iter().cloned());
    if let Some(machine) = &host.machine {
        let words: Vec<String> = words.map(|word| quoted(&word)).collect();
        let mut command = Command::new("ssh");
        command.args(SSH_OPTIONS).arg(machine);
        command.arg(format!("sh -c {} rank.sh {}", quoted(RANK_SCRIPT), words.join(" ")));
        return ("ssh", command);
    }
    let mut command = Command::new("sh");
    command.args(["-c", RANK_SCRIPT, "rank.sh"]).args(words);
    if let Some(threads) = program.threads
        && std::env::var_os("RAYON_NUM_THREADS").is_none()
    {
        command.env("RAYON_NUM_THREADS", threads.to_string());
    }
    ("sh", command)
}

fn start(command: &mut Command, rank: usize, ring: &str, print: &Arc<PrintLine>) -> io::Result<Started> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C in the terminal comes by way of this program alone, once.
        .process_group(0)
        .spawn()?;
    let mut lifeline = child.stdin.take();
    if let Some(lifeline) = &mut lifeline {
        // Where the shell has ended at once, its exit code says so.
        let _ = lifeline.write_all(ring.as_bytes());
    }
    let output = child
        .stdout
        .take()
        .map(|pipe| reader(pipe, rank, Stream::Output, print));
    let errors = child
        .stderr
        .take()
        .map(|pipe| reader(pipe, rank, Stream::Errors, print));
    Ok(Started {
        child,
        lifeline,
        readers: output.into_iter().chain(errors).collect(),
        end: None,
    })
}

fn reader(pipe: impl Read + Send + 'static, rank: usize, stream: Stream, print: &Arc<PrintLine>) -> JoinHandle<()> {
    let print = Arc::clone(print);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            print(
                rank,
                stream,
                String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']),
            );
            line.clear();
        }
    })
}
