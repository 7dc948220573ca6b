//! The memory of a server's processes while it serves.
//!
//! A thread of its own looks at regular moments: which processes there are (`tree`), what the system charges each with
//! (`linux`, or `portable` with `macos`), and at the end which of them grew most (`holder`).

mod holder;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(any(not(target_os = "linux"), test))]
mod portable;
mod sampler;
mod survivors;
mod tree;

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::client::Clock;
use super::{MemoryRecord, MemorySample};

pub use survivors::survivors;

#[cfg(target_os = "linux")]
use linux::System;
#[cfg(not(target_os = "linux"))]
use portable::System;

/// Watches processes until it is stopped or dropped.
#[derive(Debug)]
pub struct MemoryWatch {
    interval: Duration,
    running: Option<Running>,
    /// Why there is no thread.
    not_started: Option<String>,
}

#[derive(Debug)]
struct Running {
    thread: JoinHandle<(MemoryRecord, Vec<MemorySample>)>,
    /// The thread ends when this is dropped.
    end: Sender<()>,
}

/// Which processes are watched; asked anew for every sample.
pub trait Processes: Send + Sync {
    /// Processes that serve, each with all its descendants.
    fn roots(&self) -> Vec<u32>;

    /// Whether a process belongs to the server though it descends from none of its roots.
    fn owns(&self, command_line: &[String]) -> bool {
        let _ = command_line;
        false
    }
}

impl MemoryWatch {
    /// Begins to watch, a sample every `interval` by `clock`, a millisecond at least.
    ///
    /// Samples keep to a grid: what falls due while another is taken is left out and counted, and so is what would take more
    /// than a fifth of a core. A thread that cannot be started is told when the watch ends.
    pub fn start(processes: Arc<dyn Processes>, clock: Clock, interval: Duration) -> Self {
        let interval = interval.max(Duration::from_millis(1));
        let (end, ended) = mpsc::channel();
        let started = thread::Builder::new()
            .name("memory-watch".to_owned())
            .spawn(move || sampler::sample_until(&ended, processes.as_ref(), clock, interval));
        let (running, not_started) = match started {
            Ok(thread) => (Some(Running { thread, end }), None),
            Err(error) => (None, Some(format!("memory was not watched: {error}"))),
        };
        Self {
            interval,
            running,
            not_started,
        }
    }

    /// Ends it; returns how it went, and every sample.
    #[must_use]
    pub fn stop(mut self) -> (MemoryRecord, Vec<MemorySample>) {
        let reason = match self.end() {
            Some(Ok(watched)) => return watched,
            Some(Err(_)) => Some("memory was not watched to the end: the thread that does it failed".to_owned()),
            None => self.not_started.take(),
        };
        let record = MemoryRecord {
            interval_ms: sampler::milliseconds(self.interval),
            taken: 0,
            missed: 0,
            cost_seconds: 0.0,
            holder: None,
            unknown: reason.into_iter().collect(),
        };
        (record, Vec::new())
    }

    fn end(&mut self) -> Option<thread::Result<(MemoryRecord, Vec<MemorySample>)>> {
        let Running { thread, end } = self.running.take()?;
        drop(end);
        Some(thread.join())
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        // Nobody is left who could be told how it went.
        let _ = self.end();
    }
}

/// A process as the system lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ListedProcess {
    pid: u32,
    parent: Option<u32>,
    /// When it began, in units of the system; a number that is given again has another.
    started: u64,
    name: String,
}

/// What the system tells of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reading {
    /// It ended meanwhile.
    Ended,
    /// It lives.
    Read {
        sample: super::ProcessSample,
        /// What the system keeps to itself.
        unknown: Option<String>,
    },
}
