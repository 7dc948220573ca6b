//! Processes that were to end with their server.

use std::collections::BTreeSet;

use super::System;
use crate::compare::MemorySample;

/// Those of the processes in `samples` that are still there, as `NAME (PID)`; none where the system does not list processes,
/// which the samples tell already.
///
/// A number that was given again belongs to a process of another name, as far as names tell.
pub fn survivors(samples: &[MemorySample]) -> Vec<String> {
    let seen: BTreeSet<(u32, &str)> = samples
        .iter()
        .flat_map(|sample| &sample.processes)
        .map(|process| (process.pid, process.name.as_str()))
        .collect();
    let system = &mut System::new();
    let listed = system.processes().unwrap_or_default();
    let mut still: Vec<_> = listed
        .iter()
        .filter(|process| seen.contains(&(process.pid, process.name.as_str())))
        .collect();
    still.sort_by_key(|process| process.pid);
    still
        .iter()
        .map(|process| format!("{} ({})", process.name, process.pid))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::survivors;
    use crate::compare::{MemorySample, ProcessSample};

    fn seen(pid: u32, name: &str) -> Vec<MemorySample> {
        let process = ProcessSample {
            pid,
            name: name.to_owned(),
            resident: None,
            proportional: None,
            anonymous: None,
            file: None,
            footprint: None,
            wired: None,
        };
        vec![MemorySample {
            at: 0.0,
            processes: vec![process],
            available: None,
            wired: None,
        }]
    }

    #[test]
    fn a_process_survives_until_it_has_ended_and_another_one_with_its_number_does_not() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = child.id();
        assert_eq!(survivors(&seen(id, "another")), [""; 0]);
        assert_eq!(survivors(&seen(id, "sleep")), [format!("sleep ({id})")]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(survivors(&seen(id, "sleep")), [""; 0]);
    }
}
