//! Which of all processes belong to a server.

use std::collections::{BTreeMap, BTreeSet};

use super::ListedProcess;

/// `roots` and all that descend from them, ordered by number.
///
/// This program (`own`) and what descends from it belong only where they are named: a server that was started here is, while a
/// server's terminal from which this program was called has it among its descendants.
pub(super) fn with_descendants<'a>(
    listed: &'a [ListedProcess],
    roots: &BTreeSet<u32>,
    own: u32,
) -> Vec<&'a ListedProcess> {
    let by_number: BTreeMap<u32, &ListedProcess> = listed.iter().map(|process| (process.pid, process)).collect();
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for process in listed {
        if let Some(parent) = process.parent {
            children.entry(parent).or_default().push(process.pid);
        }
    }
    let mut found = BTreeMap::new();
    let mut pending: Vec<u32> = roots.iter().copied().collect();
    while let Some(pid) = pending.pop() {
        let Some(process) = by_number.get(&pid) else { continue };
        if (pid == own && !roots.contains(&own)) || found.insert(pid, *process).is_some() {
            continue;
        }
        pending.extend(children.get(&pid).into_iter().flatten());
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::ListedProcess;
    use super::with_descendants;

    /// Number and parent.
    fn listed(processes: &[(u32, u32)]) -> Vec<ListedProcess> {
        processes
            .iter()
            .map(|&(pid, parent)| ListedProcess {
                pid,
                parent: (parent > 0).then_some(parent),
                started: 0,
                name: format!("process {pid}"),
            })
            .collect()
    }

    fn numbers(processes: &[(u32, u32)], roots: &[u32], own: u32) -> Vec<u32> {
        let listed = listed(processes);
        let roots: BTreeSet<u32> = roots.iter().copied().collect();
        with_descendants(&listed, &roots, own)
            .iter()
            .map(|process| process.pid)
            .collect()
    }

    #[test]
    fn every_generation_below_a_root_belongs() {
        let processes = [(1, 0), (30, 2), (2, 1), (3, 1), (40, 30), (5, 3)];
        assert_eq!(numbers(&processes, &[2], 99), [2, 30, 40]);
    }

    #[test]
    fn a_root_below_another_is_counted_once() {
        assert_eq!(numbers(&[(1, 0), (2, 1), (3, 2)], &[1, 2], 99), [1, 2, 3]);
    }

    #[test]
    fn a_root_that_ended_has_nothing() {
        assert!(numbers(&[(1, 0), (2, 1)], &[7], 99).is_empty());
    }

    #[test]
    fn this_program_belongs_only_where_it_is_named() {
        let processes = [(1, 0), (2, 1), (3, 2), (4, 1)];
        assert_eq!(numbers(&processes, &[1], 2), [1, 4]);
        assert_eq!(numbers(&processes, &[2], 2), [2, 3]);
        assert_eq!(numbers(&processes, &[1, 3], 2), [1, 3, 4]);
    }

    #[test]
    fn parents_that_go_in_a_circle_end() {
        assert_eq!(numbers(&[(1, 2), (2, 1)], &[1], 99), [1, 2]);
    }
}
