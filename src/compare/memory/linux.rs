//! Processes and memory as Linux tells them under `/proc` (proc(5); Documentation/filesystems/proc.rst of the kernel).

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use nix::libc::ESRCH;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::super::ProcessSample;
use super::{ListedProcess, Reading};

/// Linux.
pub(super) struct System {
    /// Whether this kernel adds up the mappings of a process (since 4.14, where it is built so).
    has_rollup: bool,
}

impl System {
    pub(super) fn new() -> Self {
        Self {
            has_rollup: Path::new("/proc/self/smaps_rollup").exists(),
        }
    }

    /// Every process, or why they cannot be listed.
    // The other systems need `self` and may fail in other places.
    #[expect(clippy::unused_self)]
    pub(super) fn processes(&self) -> Result<Vec<ListedProcess>, String> {
        let entries = fs::read_dir("/proc").map_err(|error| format!("processes: /proc cannot be listed: {error}"))?;
        Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            // One that ended since the folder was listed has no file any more.
            .filter_map(|pid| fs::read(format!("/proc/{pid}/stat")).ok())
            .filter_map(|stat| listed_process(&stat))
            .collect())
    }

    /// The words that a process was started with; none of one that ended or whose words other users may not see.
    #[expect(clippy::unused_self)]
    pub(super) fn command_line(&self, pid: u32) -> Vec<String> {
        let Ok(bytes) = fs::read(format!("/proc/{pid}/cmdline")) else {
            return Vec::new();
        };
        let words = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
        if words.is_empty() {
            return Vec::new();
        }
        let words = words.split(|&byte| byte == 0);
        words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// What one process holds.
    pub(super) fn memory(&self, process: &ListedProcess) -> Reading {
        let &ListedProcess { pid, ref name, .. } = process;
        let status = match fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(status) => status,
            Err(error) if is_gone(&error) => return Reading::Ended,
            Err(error) => return unreadable(process, &error),
        };
        let Some(resident) = bytes_of(&status, "VmRSS") else {
            // A process that ended and was not waited for has a status without memory.
            return Reading::Ended;
        };
        let (proportional, unknown) = match self.proportional(pid) {
            Proportional::Ended => return Reading::Ended,
            Proportional::Bytes(bytes) => (Some(bytes), None),
            Proportional::Unknown(None) => (
                None,
                Some("proportional share of memory (PSS): this kernel has none".to_owned()),
            ),
            Proportional::Unknown(Some(reason)) => (
                None,
                Some(format!(
                    "proportional share of memory (PSS) of {name} ({pid}): {reason}"
                )),
            ),
        };
        let sample = ProcessSample {
            pid,
            name: name.clone(),
            resident: Some(resident),
            proportional,
            anonymous: bytes_of(&status, "RssAnon"),
            file: bytes_of(&status, "RssFile"),
            footprint: None,
            wired: None,
        };
        Reading::Read { sample, unknown }
    }

    /// The kernel walks the page tables for it: 5 to 7 ms for each GiB in pages of 4 KiB on a virtual machine of 2026, 0.1 ms in
    /// large pages. It lets go of the process whenever that waits (`mmap_lock_is_contended` in `fs/proc/task_mmu.c`, since 5.9).
    fn proportional(&self, pid: u32) -> Proportional {
        if !self.has_rollup {
            return Proportional::Unknown(None);
        }
        match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            // The process has given back its memory and is about to end.
            Ok(text) if text.is_empty() => Proportional::Ended,
            Ok(text) => match bytes_of(&text, "Pss") {
                Some(bytes) => Proportional::Bytes(bytes),
                None => Proportional::Unknown(Some("smaps_rollup has no line `Pss`".to_owned())),
            },
            Err(error) if is_gone(&error) => Proportional::Ended,
            Err(error) => Proportional::Unknown(Some(error.to_string())),
        }
    }

    /// Memory that programs can have without swapping.
    #[expect(clippy::unused_self)]
    pub(super) fn available(&self) -> Option<u64> {
        bytes_of(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable")
    }

    /// Linux tells of none.
    #[expect(clippy::unused_self)]
    pub(super) fn wired(&self) -> Option<u64> {
        None
    }

    /// Processor seconds of this thread.
    pub(super) fn thread_seconds() -> Option<f64> {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).ok()?;
        let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        Some(microseconds as f64 / 1e6)
    }
}

enum Proportional {
    Bytes(u64),
    /// `None` where no process has it.
    Unknown(Option<String>),
    Ended,
}

/// Whether a file of a process is missing since the process is.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}

fn unreadable(process: &ListedProcess, error: &io::Error) -> Reading {
    let &ListedProcess { pid, ref name, .. } = process;
    let sample = ProcessSample {
        pid,
        name: name.clone(),
        resident: None,
        proportional: None,
        anonymous: None,
        file: None,
        footprint: None,
        wired: None,
    };
    Reading::Read {
        sample,
        unknown: Some(format!("memory of {name} ({pid}): {error}")),
    }
}

/// Reads a line of `/proc/PID/stat`: `PID (NAME) STATE PARENT ... STARTED ...`, of which the name may hold anything but a zero
/// byte, spaces and parentheses among it.
fn listed_process(stat: &[u8]) -> Option<ListedProcess> {
    /// Places behind the name: the state is field 3, the parent 4, the start 22.
    const PARENT: usize = 1;
    const STARTED: usize = 19;
    let opening = stat.iter().position(|&byte| byte == b'(')?;
    let closing = stat.iter().rposition(|&byte| byte == b')')?;
    let number = str::from_utf8(stat.get(..opening)?).ok()?;
    let name = stat.get(opening + 1..closing)?;
    let fields: Vec<&str> = str::from_utf8(stat.get(closing + 1..)?)
        .ok()?
        .split_whitespace()
        .collect();
    let parent: u32 = fields.get(PARENT)?.parse().ok()?;
    Some(ListedProcess {
        pid: number.trim().parse().ok()?,
        parent: (parent > 0).then_some(parent),
        started: fields.get(STARTED)?.parse().ok()?,
        name: String::from_utf8_lossy(name).into_owned(),
    })
}

/// The number behind `NAME:` in lines as `NAME:   1234 kB`, in bytes.
fn bytes_of(text: &str, name: &str) -> Option<u64> {
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kilobytes: u64 = lines.next()?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::super::{ListedProcess, Reading};
    use super::{System, bytes_of, listed_process};

    const FIELDS: &str = "S 41 1 1 0 -1 4194304 102 0 0 0 0 0 0 0 20 0 1 0 135448 3133440 383";

    fn stat(name: &str) -> Vec<u8> {
        format!("42 ({name}) {FIELDS}").into_bytes()
    }

    #[test]
    fn a_name_may_hold_spaces_and_parentheses() {
        for name in ["sleep", "a (b) c", ") S 1 (", "", "tmux: server"] {
            let expected = ListedProcess {
                pid: 42,
                parent: Some(41),
                started: 135_448,
                name: name.to_owned(),
            };
            assert_eq!(listed_process(&stat(name)), Some(expected));
        }
    }

    #[test]
    fn a_name_that_is_no_text_is_shown_as_far_as_it_is() {
        let mut line = stat("x");
        line[4] = 0xff;
        assert_eq!(listed_process(&line).unwrap().name, "\u{fffd}");
    }

    #[test]
    fn a_line_that_is_cut_lists_nothing() {
        for line in [
            "",
            "42",
            "42 (sleep",
            "42 (sleep)",
            "42 (sleep) S",
            "x (sleep) S 1",
            ")42(",
        ] {
            assert_eq!(listed_process(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn a_line_is_found_by_its_whole_name() {
        let text = "Pss_Dirty:           112 kB\nPss:                 318 kB\nVmRSS:\t    1728 kB\n";
        assert_eq!(bytes_of(text, "Pss"), Some(318 * 1024));
        assert_eq!(bytes_of(text, "VmRSS"), Some(1728 * 1024));
        assert_eq!(bytes_of(text, "Vm"), None);
        assert_eq!(bytes_of("Pss: 18446744073709551615 kB", "Pss"), None);
    }

    #[test]
    fn a_process_that_ended_and_was_not_waited_for_is_left_out() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let system = System::new();
        let pid = child.id();
        let process = loop {
            let listed = system.processes().unwrap();
            let process = listed.into_iter().find(|process| process.pid == pid).unwrap();
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            if state.contains(") Z ") {
                break process;
            }
            std::thread::yield_now();
        };
        assert_eq!(system.memory(&process), Reading::Ended);
        child.wait().unwrap();
        assert_eq!(system.memory(&process), Reading::Ended);
    }

    #[test]
    fn the_words_of_a_command_stay_apart() {
        let mut child = std::process::Command::new("sleep").args(["5", "0.5"]).spawn().unwrap();
        let system = System::new();
        let mut words = Vec::new();
        // Until the program is replaced the words are those of this one.
        for _ in 0..1000 {
            words = system.command_line(child.id());
            if words.first().is_some_and(|word| word == "sleep") {
                break;
            }
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(words, ["sleep", "5", "0.5"]);
    }
}
