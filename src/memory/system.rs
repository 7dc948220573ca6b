use sysinfo::System;

/// Memory of the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemMemory {
    /// Installed.
    pub total: u64,
    /// Free for programs without swapping.
    pub available: u64,
}

/// Reads the machine's memory; `None` where the system does not tell.
pub fn system_memory() -> Option<SystemMemory> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let memory = SystemMemory {
        total: system.total_memory(),
        available: system.available_memory(),
    };
    // What cannot be read is left at zero.
    (memory.total > 0).then_some(memory)
}

#[cfg(test)]
mod tests {
    use super::system_memory;

    #[test]
    fn no_more_is_available_than_is_installed() {
        let memory = system_memory().unwrap();
        assert!(0 < memory.available && memory.available <= memory.total, "{memory:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_installed_memory_is_the_kernels() {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find(|line| line.starts_with("MemTotal:")).unwrap();
        let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert_eq!(system_memory().unwrap().total, kilobytes * 1024);
    }
}
