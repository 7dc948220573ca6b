//! Which processes serve: those that were started here, or those that listen at a port of this machine.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::bounds::LISTENER_AGE;
use crate::compare::client::Address;
use crate::compare::memory::Processes;

/// No process; their numbers begin with 1.
const NOBODY: u32 = 0;

/// The one process that was started here.
#[derive(Debug, Default)]
pub(super) struct StartedProcess(AtomicU32);

impl StartedProcess {
    /// It is this one from now on; `None` once it has ended.
    pub(super) fn set(&self, id: Option<u32>) {
        self.0.store(id.unwrap_or(NOBODY), Ordering::SeqCst);
    }
}

impl Processes for StartedProcess {
    fn roots(&self) -> Vec<u32> {
        match self.0.load(Ordering::SeqCst) {
            NOBODY => Vec::new(),
            id => vec![id],
        }
    }
}

/// Nobody on this machine.
#[derive(Debug)]
struct ElsewhereProcesses;

impl Processes for ElsewhereProcesses {
    fn roots(&self) -> Vec<u32> {
        Vec::new()
    }
}

/// Whoever listens at a port, looked up anew now and then.
#[derive(Debug)]
pub(super) struct ListeningProcesses {
    port: u16,
    known: Mutex<Option<(Instant, Vec<u32>)>>,
}

impl ListeningProcesses {
    /// Those that listen at `port`.
    pub(super) fn new(port: u16) -> Self {
        Self {
            port,
            known: Mutex::new(None),
        }
    }
}

impl Processes for ListeningProcesses {
    fn roots(&self) -> Vec<u32> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((at, ids)) if at.elapsed() < LISTENER_AGE => ids.clone(),
            _ => {
                let ids = system::listeners(self.port);
                *known = Some((Instant::now(), ids.clone()));
                ids
            }
        }
    }
}

/// Those that serve at an address: none where that is another machine.
pub(super) fn processes_at(address: &Address) -> Arc<dyn Processes> {
    if address.is_local() {
        Arc::new(ListeningProcesses::new(address.port()))
    } else {
        Arc::new(ElsewhereProcesses)
    }
}

#[cfg(target_os = "linux")]
mod system {
    //! Source: proc(5), `/proc/net/tcp` and `/proc/PID/fd`.

    use std::collections::BTreeSet;
    use std::fs;

    /// The state of a socket that listens.
    const LISTENS: &str = "0A";

    /// The processes that listen at a port, in order. Those of other users are not told.
    pub(super) fn listeners(port: u16) -> Vec<u32> {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
        // A system without one of the two protocols has no such table.
        let tables = tables.into_iter().filter_map(|path| fs::read_to_string(path).ok());
        let sockets: BTreeSet<String> = tables.flat_map(|table| sockets(&table, port)).collect();
        if sockets.is_empty() {
            return Vec::new();
        }
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut holders: Vec<u32> = ids.filter(|id| holds_one_of(*id, &sockets)).collect();
        holders.sort_unstable();
        holders
    }

    /// Links to the sockets of a table that listen at a port, as `/proc/PID/fd` shows them.
    fn sockets(table: &str, port: u16) -> Vec<String> {
        let rows = table.lines().skip(1);
        rows.filter_map(|row| {
            let mut columns = row.split_whitespace();
            let local = columns.nth(1)?;
            let state = columns.nth(1)?;
            let inode = columns.nth(5)?;
            let (_, listening_port) = local.rsplit_once(':')?;
            let is_it = u16::from_str_radix(listening_port, 16).ok()? == port && state == LISTENS;
            is_it.then(|| format!("socket:[{inode}]"))
        })
        .collect()
    }

    fn holds_one_of(id: u32, sockets: &BTreeSet<String>) -> bool {
        let files = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        let mut links = files.filter_map(|file| fs::read_link(file.path()).ok());
        links.any(|link| link.to_str().is_some_and(|link| sockets.contains(link)))
    }

    #[cfg(test)]
    mod tests {
        use super::sockets;

        #[test]
        fn only_sockets_that_listen_at_the_port_are_taken() {
            let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                 0: 0100007F:04D2 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0 100 0 0\n\
                 1: 0100007F:04D2 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 12 1 0 100 0 0\n\
                 2: 0100007F:04D3 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 13 1 0 100 0 0\n";
            assert_eq!(sockets(table, 1234), ["socket:[11]"]);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    //! Source: lsof(8).

    use std::ffi::OsStr;

    use super::super::bounds::SHORT_COMMAND;
    use super::super::short_command::run;
    use crate::interrupt::Interrupt;

    /// The processes that listen at a port, in order. Those of other users are not told.
    pub(super) fn listeners(port: u16) -> Vec<u32> {
        let port = format!("-iTCP:{port}");
        let arguments = ["-nP", &port, "-sTCP:LISTEN", "-t"].map(OsStr::new);
        let Ok(finished) = run(OsStr::new("lsof"), &arguments, SHORT_COMMAND, &Interrupt::default()) else {
            return Vec::new();
        };
        let mut ids: Vec<u32> = finished
            .output
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::{ListeningProcesses, StartedProcess, processes_at};
    use crate::compare::client::Address;
    use crate::compare::memory::Processes;

    #[test]
    fn who_listens_at_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(ListeningProcesses::new(port).roots(), [std::process::id()]);
    }

    #[test]
    fn another_machine_has_no_processes_here() {
        let elsewhere = Address::read("http://192.0.2.1:1234").unwrap();
        assert!(processes_at(&elsewhere).roots().is_empty());
    }

    #[test]
    fn a_started_process_is_a_root_until_it_ends() {
        let started = StartedProcess::default();
        assert!(started.roots().is_empty());
        started.set(Some(7));
        assert_eq!(started.roots(), [7]);
        started.set(None);
        assert!(started.roots().is_empty());
    }
}
