use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// Memory of this process as the system counts it, in bytes; `None` where it does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMemory {
    /// In physical memory now.
    pub resident: Option<u64>,
    /// The most that ever was.
    pub peak: Option<u64>,
}

/// Reads this process's memory.
pub fn process_memory() -> ProcessMemory {
    let resident = resident();
    ProcessMemory {
        resident,
        // The system counts the two at different moments.
        peak: peak().max(resident),
    }
}

fn resident() -> Option<u64> {
    let own = sysinfo::get_current_pid().ok()?;
    let mut system = System::new().ok()?;
    let what = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, what);
    system
        .process(own)
        .map(sysinfo::Process::memory)
        .filter(|&bytes| bytes > 0)
}

/// The kernel's high-water mark of this program: `getrusage` also counts what the parent held when it started this process.
#[cfg(target_os = "linux")]
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(1024 * kilobytes)
}

/// `getrusage` counts kilobytes, and bytes on a Mac (its manual page on each).
#[cfg(all(unix, not(target_os = "linux")))]
fn peak() -> Option<u64> {
    const UNIT: u64 = if cfg!(target_os = "macos") { 1 } else { 1024 };
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok()?;
    u64::try_from(usage.max_rss())
        .ok()
        .filter(|&count| count > 0)
        .map(|count| count * UNIT)
}

#[cfg(not(unix))]
fn peak() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::process_memory;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_is_counted_as_the_kernel_does() {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let kernel = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let memory = process_memory();
        // Other tests of this process allocate meanwhile.
        let near = |found: Option<u64>, expected: u64| found.unwrap().abs_diff(expected) < expected / 2;
        assert!(near(memory.resident, kernel("VmRSS:")), "{memory:?}");
        assert!(near(memory.peak, kernel("VmHWM:")), "{memory:?}");
        assert!(memory.peak >= memory.resident, "{memory:?}");
    }
}
