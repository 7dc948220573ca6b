//! Which process holds the model.

use std::collections::BTreeMap;

use super::super::{MemorySample, ProcessSample};

/// The process that grew most between the first sample and the one in which all together hold most, as `NAME (PID)`; `None`
/// where none grew.
pub(super) fn holder(samples: &[MemorySample]) -> Option<String> {
    let first = samples.first()?;
    // The first of equals: `max_by_key` would take the last.
    let maximum = samples
        .iter()
        .rev()
        .max_by_key(|sample| sample.charged())
        .filter(|sample| sample.charged().is_some())?;
    let before: BTreeMap<u32, u64> = first.processes.iter().filter_map(with_charge).collect();
    let (process, growth) = maximum
        .processes
        .iter()
        .rev()
        .filter_map(|process| {
            let before = before.get(&process.pid).copied().unwrap_or(0);
            Some((process, process.charged()?.saturating_sub(before)))
        })
        .max_by_key(|&(_, growth)| growth)?;
    (growth > 0).then(|| format!("{} ({})", process.name, process.pid))
}

fn with_charge(process: &ProcessSample) -> Option<(u32, u64)> {
    Some((process.pid, process.charged()?))
}

#[cfg(test)]
mod tests {
    use super::holder;
    use crate::compare::{MemorySample, ProcessSample};

    fn sample(at: f64, processes: &[(u32, &str, Option<u64>)]) -> MemorySample {
        MemorySample {
            at,
            processes: processes
                .iter()
                .map(|&(pid, name, resident)| ProcessSample {
                    pid,
                    name: name.to_owned(),
                    resident,
                    proportional: None,
                    anonymous: None,
                    file: None,
                    footprint: None,
                    wired: None,
                })
                .collect(),
            available: None,
            wired: None,
        }
    }

    #[test]
    fn the_one_that_grew_most_holds_the_model_not_the_largest() {
        let samples = [
            sample(0.0, &[(1, "gui", Some(900)), (2, "worker", Some(10))]),
            sample(
                0.1,
                &[(1, "gui", Some(950)), (2, "worker", Some(700)), (3, "log", Some(20))],
            ),
            sample(0.2, &[(1, "gui", Some(990))]),
        ];
        assert_eq!(holder(&samples).as_deref(), Some("worker (2)"));
    }

    #[test]
    fn a_process_that_came_later_grew_from_nothing() {
        let samples = [
            sample(0.0, &[(1, "shell", Some(100))]),
            sample(0.1, &[(1, "shell", Some(101)), (7, "server", Some(80))]),
        ];
        assert_eq!(holder(&samples).as_deref(), Some("server (7)"));
    }

    #[test]
    fn of_two_that_grew_alike_the_lower_number_is_named() {
        let samples = [
            sample(0.0, &[]),
            sample(0.1, &[(4, "a", Some(5)), (9, "b", Some(5))]),
            sample(0.2, &[(4, "a", Some(5)), (9, "b", Some(5))]),
        ];
        assert_eq!(holder(&samples).as_deref(), Some("a (4)"));
    }

    #[test]
    fn nobody_holds_it_where_nobody_grew_or_nothing_is_known() {
        assert_eq!(holder(&[]), None);
        assert_eq!(holder(&[sample(0.0, &[(1, "a", None)])]), None);
        let steady = sample(0.0, &[(1, "a", Some(5))]);
        assert_eq!(holder(&[steady.clone(), steady]), None);
    }
}
