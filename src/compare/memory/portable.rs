//! Processes and memory where there is no `/proc`, by way of the sysinfo library; what only macOS tells is added there.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, UpdateKind};

use super::super::ProcessSample;
#[cfg(target_os = "macos")]
use super::macos;
use super::{ListedProcess, Reading};

/// Any system.
pub(super) struct System {
    /// `None` where the library does not know the system.
    system: Option<sysinfo::System>,
    #[cfg(target_os = "macos")]
    host: macos::Host,
}

impl System {
    pub(super) fn new() -> Self {
        Self {
            system: sysinfo::System::new().ok(),
            #[cfg(target_os = "macos")]
            host: macos::Host::new(),
        }
    }

    /// Every process, or why they cannot be listed.
    pub(super) fn processes(&mut self) -> Result<Vec<ListedProcess>, String> {
        let Some(system) = &mut self.system else {
            return Err("processes: this system is not known to the library that lists them".to_owned());
        };
        let what = ProcessRefreshKind::nothing()
            .with_memory()
            .with_cmd(UpdateKind::OnlyIfNotSet)
            .without_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
        let listed = system.processes().values().map(|process| ListedProcess {
            pid: process.pid().as_u32(),
            parent: process.parent().map(Pid::as_u32),
            started: process.start_time(),
            name: process.name().to_string_lossy().into_owned(),
        });
        Ok(listed.collect())
    }

    /// The words that a process was started with; none of one that ended or whose words other users may not see.
    pub(super) fn command_line(&self, pid: u32) -> Vec<String> {
        let words = self.process(pid).map(sysinfo::Process::cmd).into_iter().flatten();
        words.map(|word| word.to_string_lossy().into_owned()).collect()
    }

    /// What one process holds.
    pub(super) fn memory(&self, process: &ListedProcess) -> Reading {
        let &ListedProcess { pid, ref name, .. } = process;
        let Some(resident) = self.process(pid).map(sysinfo::Process::memory) else {
            return Reading::Ended;
        };
        // The library leaves at zero what it may not read.
        let resident = Some(resident).filter(|&bytes| bytes > 0);
        let (footprint, wired, reason) = charges(pid);
        let unknown = match (resident, reason) {
            (Some(_), None) => None,
            (_, Some(reason)) => Some(format!("physical footprint of {name} ({pid}): {reason}")),
            (None, None) => Some(format!("resident memory of {name} ({pid})")),
        };
        let sample = ProcessSample {
            pid,
            name: name.clone(),
            resident,
            proportional: None,
            anonymous: None,
            file: None,
            footprint,
            wired,
        };
        Reading::Read { sample, unknown }
    }

    /// Memory that programs can have without swapping.
    pub(super) fn available(&mut self) -> Option<u64> {
        let system = self.system.as_mut()?;
        system.refresh_memory();
        Some(system.available_memory()).filter(|&bytes| bytes > 0)
    }

    /// Memory that cannot be paged out.
    #[cfg(target_os = "macos")]
    pub(super) fn wired(&self) -> Option<u64> {
        self.host.wired()
    }

    /// Only macOS tells.
    #[cfg(not(target_os = "macos"))]
    #[expect(clippy::unused_self)]
    pub(super) fn wired(&self) -> Option<u64> {
        None
    }

    /// Processor seconds of this thread.
    #[cfg(target_os = "macos")]
    pub(super) fn thread_seconds() -> Option<f64> {
        macos::thread_seconds()
    }

    /// Not told in a portable way.
    #[cfg(not(target_os = "macos"))]
    pub(super) fn thread_seconds() -> Option<f64> {
        None
    }

    fn process(&self, pid: u32) -> Option<&sysinfo::Process> {
        self.system.as_ref()?.process(Pid::from_u32(pid))
    }
}

/// Physical footprint and wired memory of a process, and why they are not known.
#[cfg(target_os = "macos")]
fn charges(pid: u32) -> (Option<u64>, Option<u64>, Option<String>) {
    match macos::charges(pid) {
        Ok(charges) => (Some(charges.footprint), Some(charges.wired), None),
        Err(error) => (None, None, Some(error.to_string())),
    }
}

/// Only macOS tells.
#[cfg(not(target_os = "macos"))]
fn charges(_pid: u32) -> (Option<u64>, Option<u64>, Option<String>) {
    (None, None, None)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::super::{ListedProcess, Reading, linux};
    use super::System;

    /// This process as one way of listing sees it.
    fn own(listed: Vec<ListedProcess>) -> ListedProcess {
        let mut listed = listed.into_iter();
        listed.find(|process| process.pid == std::process::id()).unwrap()
    }

    fn resident(reading: Reading) -> u64 {
        let Reading::Read { sample, unknown: _ } = reading else {
            panic!("this process lives")
        };
        sample.resident.unwrap()
    }

    #[test]
    fn both_ways_of_asking_see_this_process_alike() {
        let kernel = linux::System::new();
        let mut library = System::new();
        let by_kernel = own(kernel.processes().unwrap());
        let by_library = own(library.processes().unwrap());
        assert_eq!((by_library.pid, by_library.parent), (by_kernel.pid, by_kernel.parent));
        assert_eq!(library.command_line(by_library.pid), kernel.command_line(by_kernel.pid));
        // Other tests of this process allocate meanwhile.
        let (found, expected) = (
            resident(library.memory(&by_library)),
            resident(kernel.memory(&by_kernel)),
        );
        assert!(found.abs_diff(expected) < expected / 2, "{found} against {expected}");
        let (found, expected) = (library.available().unwrap(), kernel.available().unwrap());
        assert!(found.abs_diff(expected) < expected / 2, "{found} against {expected}");
        assert_eq!((library.wired(), System::thread_seconds()), (None, None));
    }

    #[test]
    fn a_process_that_is_not_listed_ended() {
        let mut library = System::new();
        library.processes().unwrap();
        let nobody = ListedProcess {
            pid: u32::MAX / 2,
            parent: None,
            started: 0,
            name: "nobody".to_owned(),
        };
        assert_eq!(library.memory(&nobody), Reading::Ended);
        assert!(library.command_line(nobody.pid).is_empty());
    }
}
