//! Where the processes of a run are started: the host file of `mlx.launch`.
//!
//! A JSON list with an object for each process: `ssh`, the name by which the machine is reached, and `ips`, its addresses on the
//! network that the processes share: <https://ml-explore.github.io/mlx/build/html/usage/launching_distributed.html>.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::yaml;

/// The first port of a ring over machines, as `mlx.launch` has it.
pub const STARTING_PORT: u16 = 32323;
/// Names of this machine, where no connection is needed.
const THIS_MACHINE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// How often a port is looked for that is free for both kinds of connections.
const ATTEMPTS: usize = 100;

/// The processes of a run, by rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    processes: Vec<Host>,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// Where it is started, by SSH; `None` for this machine.
    pub(super) machine: Option<String>,
    /// Where the others reach it.
    pub(super) address: SocketAddr,
}

/// An entry of the file. What `mlx.launch` needs for other transports is passed over.
#[derive(Debug, Deserialize)]
struct Entry {
    ssh: String,
    #[serde(default)]
    ips: Vec<String>,
}

/// The processes cannot be placed.
#[derive(Debug, Error)]
pub enum HostsError {
    /// The file cannot be read.
    #[error("the host file `{}` cannot be read\n  found: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It says something else than where processes are started.
    #[error(
        "the host file `{}` cannot be used\n  found: {found}\n  expected: a list of {{\"ssh\": \"NAME\", \"ips\": [\"ADDRESS\"]}}, one for each process, as `mlx.launch` takes it",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// This machine has no port left.
    #[error("no free port was found on this machine: {0}")]
    NoPort(std::io::Error),
    /// There are more processes than ports from the first one on.
    #[error(
        "there are not enough ports from {starting_port} on for {processes} processes\n  hint: give a lower `--starting-port`"
    )]
    NotEnoughPorts {
        /// The first.
        starting_port: u16,
        /// How many are needed.
        processes: usize,
    },
}

impl Hosts {
    /// `count` processes on this machine, at ports from `starting_port` on, or at free ones.
    ///
    /// # Errors
    /// There are no such ports.
    pub fn on_this_machine(count: usize, starting_port: Option<u16>) -> Result<Self, HostsError> {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let ports = match starting_port {
            Some(first) => ports_from(first, count)?,
            None => free_ports(count).map_err(HostsError::NoPort)?,
        };
        let host = |port| Host {
            machine: None,
            address: SocketAddr::new(local, port),
        };
        Ok(Self {
            processes: ports.into_iter().map(host).collect(),
        })
    }

    /// The processes of a host file, at ports from `starting_port` on.
    ///
    /// # Errors
    /// [`HostsError`].
    pub fn read(path: &Path, starting_port: u16) -> Result<Self, HostsError> {
        let foreign = |found: String| HostsError::Foreign {
            path: path.to_owned(),
            found,
        };
        let unreadable = |source| HostsError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let text = yaml::read_file(path).map_err(unreadable)?;
        let text = text.ok_or_else(|| foreign(format!("more than {} bytes", yaml::LARGEST_FILE)))?;
        let entries: Vec<Entry> = serde_json::from_str(&text).map_err(|error| foreign(error.to_string()))?;
        if entries.is_empty() {
            return Err(foreign("no process at all".to_owned()));
        }
        let ports = ports_from(starting_port, entries.len())?;
        let processes = entries.into_iter().zip(ports).enumerate().map(|(rank, (entry, port))| {
            let ip = entry
                .ips
                .first()
                .ok_or_else(|| foreign(format!("no address of process {rank}, `{}`", entry.ssh)))?;
            let ip: IpAddr = ip.parse().map_err(|_| {
                foreign(format!(
                    "`{ip}` as the address of process {rank}, which is no IP address"
                ))
            })?;
            if ip.is_ipv6() {
                return Err(foreign(format!(
                    "`{ip}` as the address of process {rank}: MLX's ring takes IPv4 alone"
                )));
            }
            // SSH would take it for an option.
            if entry.ssh.is_empty() || entry.ssh.starts_with('-') {
                return Err(foreign(format!(
                    "`{}` as the name of process {rank}'s machine",
                    entry.ssh
                )));
            }
            Ok(Host {
                machine: (!THIS_MACHINE.contains(&entry.ssh.as_str())).then_some(entry.ssh),
                address: SocketAddr::new(ip, port),
            })
        });
        Ok(Self {
            processes: processes.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn processes(&self) -> &[Host] {
        &self.processes
    }

    /// The host file of a ring: the addresses of each process, in one line.
    pub(super) fn ring(&self) -> String {
        let addresses: Vec<String> = self
            .processes
            .iter()
            .map(|host| format!("[\"{}\"]", host.address))
            .collect();
        format!("[{}]", addresses.join(", "))
    }
}

fn ports_from(first: u16, count: usize) -> Result<Vec<u16>, HostsError> {
    let ports: Vec<u16> = (first..=u16::MAX).take(count).collect();
    if ports.len() < count {
        return Err(HostsError::NotEnoughPorts {
            starting_port: first,
            processes: count,
        });
    }
    Ok(ports)
}

/// Ports that nobody uses at the moment, neither by TCP nor by UDP.
fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    // Held until all are found, so that none is found twice.
    let mut held: Vec<(TcpListener, UdpSocket)> = Vec::new();
    let mut attempts = 0;
    while held.len() < count {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        match UdpSocket::bind(listener.local_addr()?) {
            Ok(socket) => held.push((listener, socket)),
            Err(error) if attempts == ATTEMPTS => return Err(error),
            Err(_) => attempts += 1,
        }
    }
    held.iter()
        .map(|(listener, _)| Ok(listener.local_addr()?.port()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Hosts, HostsError};

    fn read(text: &str) -> Result<Hosts, HostsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts.json");
        fs::write(&path, text).unwrap();
        Hosts::read(&path, 40000)
    }

    #[test]
    fn the_host_file_of_mlx_launch_is_read() {
        let hosts = read(
            r#"[{"ssh": "localhost", "ips": ["10.0.0.1", "10.1.0.1"], "rdma": [null]},
                {"ssh": "studio-2", "ips": ["10.0.0.2"]}]"#,
        )
        .unwrap();
        let machines: Vec<Option<&str>> = hosts.processes().iter().map(|host| host.machine.as_deref()).collect();
        assert_eq!(machines, [None, Some("studio-2")]);
        assert_eq!(hosts.ring(), r#"[["10.0.0.1:40000"], ["10.0.0.2:40001"]]"#);
    }

    #[test]
    fn a_file_that_places_no_processes_is_refused() {
        for (text, said) in [
            ("[]", "no process at all"),
            (r#"[{"ssh": "one"}]"#, "no address of process 0, `one`"),
            (r#"[{"ssh": "one", "ips": ["one.local"]}]"#, "which is no IP address"),
            (r#"[{"ssh": "one", "ips": ["::1"]}]"#, "takes IPv4 alone"),
            (
                r#"[{"ssh": "-oProxyCommand=x", "ips": ["10.0.0.1"]}]"#,
                "as the name of process 0's machine",
            ),
            (r#"[["10.0.0.1:32323"]]"#, "as `mlx.launch` takes it"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
        let message = Hosts::on_this_machine(3, Some(65534)).unwrap_err().to_string();
        assert!(message.contains("not enough ports"), "{message}");
    }

    #[test]
    fn processes_on_this_machine_have_ports_of_their_own() {
        let hosts = Hosts::on_this_machine(8, None).unwrap();
        let mut ports: Vec<u16> = hosts.processes().iter().map(|host| host.address.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
        assert_eq!(
            Hosts::on_this_machine(2, Some(32323)).unwrap().ring(),
            r#"[["127.0.0.1:32323"], ["127.0.0.1:32324"]]"#
        );
    }
}
