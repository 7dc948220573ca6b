//! The thread that looks: a sample at every tick of a grid.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::super::client::Clock;
use super::super::{MemoryRecord, MemorySample};
use super::holder::holder;
use super::tree::with_descendants;
use super::{ListedProcess, Processes, Reading, System};

/// Share of one core's time that looking may take.
///
/// A fifth: large models in small pages take the kernel a third of a second to add up; one look after the other would take the
/// core from the server that is watched.
const SHARE_OF_A_CORE: f64 = 0.2;

/// Takes samples until the other end of `ended` is dropped.
pub(super) fn sample_until(
    ended: &Receiver<()>,
    processes: &dyn Processes,
    clock: Clock,
    interval: Duration,
) -> (MemoryRecord, Vec<MemorySample>) {
    let mut looking = Sampler::new(processes, clock);
    let mut samples = Vec::new();
    let mut missed = 0;
    let mut tick: u128 = 0;
    let began = Instant::now();
    loop {
        let before = System::thread_seconds();
        samples.push(looking.sample());
        let spent = before
            .zip(System::thread_seconds())
            .map_or(0.0, |(before, after)| after - before);
        let next = next_tick(began.elapsed(), spent, interval);
        missed += (next - tick - 1) as usize;
        tick = next;
        let due = Duration::from_nanos((tick * interval.as_nanos()) as u64);
        if ended.recv_timeout(due.saturating_sub(began.elapsed())) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
    let cost = System::thread_seconds();
    if cost.is_none() {
        looking.unknown.insert("what taking samples of memory cost".to_owned());
    }
    if samples.iter().all(|sample| sample.processes.is_empty()) {
        looking
            .unknown
            .insert("memory of the server: no process of it was seen on this machine".to_owned());
    }
    let record = MemoryRecord {
        interval_ms: milliseconds(interval),
        taken: samples.len(),
        missed,
        cost_seconds: cost.unwrap_or(0.0),
        holder: holder(&samples),
        unknown: looking.unknown.into_iter().collect(),
    };
    (record, samples)
}

/// The first tick after `elapsed` that leaves the rest of a core's time to others, where the last sample took `spent` seconds
/// of it.
fn next_tick(elapsed: Duration, spent: f64, interval: Duration) -> u128 {
    let rest = Duration::from_secs_f64(spent.max(0.0) * (1.0 / SHARE_OF_A_CORE - 1.0));
    (elapsed + rest).as_nanos() / interval.as_nanos() + 1
}

pub(super) fn milliseconds(interval: Duration) -> u64 {
    interval.as_millis() as u64
}

struct Sampler<'a> {
    processes: &'a dyn Processes,
    clock: Clock,
    system: System,
    own: u32,
    /// Whether a process is the server's by its command line: reading that of every process for each sample would cost more
    /// than all else. A process that runs another program has another name.
    owned: BTreeMap<(u32, u64, String), bool>,
    /// What the system does not tell, each said once.
    unknown: BTreeSet<String>,
}

impl<'a> Sampler<'a> {
    fn new(processes: &'a dyn Processes, clock: Clock) -> Self {
        Self {
            processes,
            clock,
            system: System::new(),
            own: std::process::id(),
            owned: BTreeMap::new(),
            unknown: BTreeSet::new(),
        }
    }

    fn sample(&mut self) -> MemorySample {
        let at = self.clock.now();
        let listed = match self.system.processes() {
            Ok(listed) => listed,
            Err(reason) => {
                self.unknown.insert(reason);
                Vec::new()
            }
        };
        let mut roots: BTreeSet<u32> = self.processes.roots().into_iter().collect();
        roots.extend(self.owned(&listed));
        let mut processes = Vec::new();
        for process in with_descendants(&listed, &roots, self.own) {
            if let Reading::Read { sample, unknown } = self.system.memory(process) {
                processes.push(sample);
                self.unknown.extend(unknown);
            }
        }
        MemorySample {
            at,
            processes,
            available: self.system.available(),
            wired: self.system.wired(),
        }
    }

    fn owned(&mut self, listed: &[ListedProcess]) -> Vec<u32> {
        let known = std::mem::take(&mut self.owned);
        for process in listed.iter().filter(|process| process.pid != self.own) {
            let key = (process.pid, process.started, process.name.clone());
            let owned = known.get(&key).copied();
            let owned = owned.unwrap_or_else(|| self.processes.owns(&self.system.command_line(process.pid)));
            self.owned.insert(key, owned);
        }
        let owned = self.owned.iter().filter(|&(_, &owned)| owned);
        owned.map(|((pid, _, _), _)| *pid).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::next_tick;

    const INTERVAL: Duration = Duration::from_millis(100);

    fn after(elapsed_ms: u64, spent: f64) -> u128 {
        next_tick(Duration::from_millis(elapsed_ms), spent, INTERVAL)
    }

    #[test]
    fn a_quick_look_is_followed_by_the_next_tick() {
        assert_eq!(after(302, 0.002), 4);
        assert_eq!(after(302, 0.0), 4);
    }

    #[test]
    fn a_look_that_overran_a_tick_is_followed_by_the_first_after_it() {
        assert_eq!(after(555, 0.0), 6);
    }

    #[test]
    fn a_dear_look_is_followed_by_four_times_its_cost_in_rest() {
        // 330 ms of work that ended at 330 ms: nothing before 1650 ms.
        assert_eq!(after(330, 0.33), 17);
    }
}
