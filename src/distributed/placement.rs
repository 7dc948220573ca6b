//! What a launcher tells a process: which transport, its rank, and where the others are.

use std::path::{Path, PathBuf};

use mlx_distributed::Transport;
use thiserror::Error;

use crate::yaml;

/// The rank of a process, from 0.
const RANK: &str = "MLX_RANK";
/// A file with the addresses of a ring, by rank.
const HOST_FILE: &str = "MLX_HOSTFILE";
/// Variables by which MLX's other transports find each other, of which this program has to know no more than that they are
/// there: <https://github.com/ml-explore/mlx/blob/main/python/mlx/_distributed_utils/launch.py>.
const OTHERS: [(&str, Transport); 4] = [
    ("MLX_JACCL_COORDINATOR", Transport::Jaccl),
    ("NCCL_HOST_IP", Transport::Nccl),
    ("OMPI_COMM_WORLD_RANK", Transport::Mpi),
    ("PMI_RANK", Transport::Mpi),
];

/// Where a process stands among those that were started with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// How they reach each other.
    pub transport: Transport,
    /// The number of this process, where the launcher gives it to a ring.
    pub rank: usize,
    /// `IP:PORT` of each process of a ring, by rank, the first of its connections; nothing for other transports.
    pub addresses: Vec<String>,
}

/// The environment is not that of a launcher.
#[derive(Debug, Error)]
pub enum PlacementError {
    /// A variable is missing beside one that is there.
    #[error(
        "the environment of a distributed run is incomplete\n  found: `{there}` without `{missing}`\n  hint: start every process by `mlx.launch`"
    )]
    Incomplete {
        /// The variable that is there.
        there: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// The rank is no number, or there are not as many processes.
    #[error("the rank of this process cannot be used\n  found: {RANK}=`{found}`\n  expected: {expected}")]
    Rank {
        /// The variable's text.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// The host file cannot be read.
    #[error("the host file `{}` cannot be read\n  found: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The host file is not one of a ring.
    #[error("the host file `{}` is not one of a ring\n  found: {found}\n  expected: a list of `[\"IP:PORT\", ...]` for each process", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
}

impl Placement {
    /// What the environment of this process says; `None` where it was started alone.
    ///
    /// # Errors
    /// [`PlacementError`].
    pub fn of_environment() -> Result<Option<Self>, PlacementError> {
        Self::read(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn read(variable: impl Fn(&'static str) -> Option<String>) -> Result<Option<Self>, PlacementError> {
        let other = OTHERS.into_iter().find(|(name, _)| variable(name).is_some());
        let (rank, host_file) = (variable(RANK), variable(HOST_FILE));
        if let Some((_, transport)) = other
            && host_file.is_none()
        {
            // MLX reads rank and size itself.
            return Ok(Some(Self {
                transport,
                rank: rank.as_deref().map_or(Ok(0), |rank| parsed(rank, None))?,
                addresses: Vec::new(),
            }));
        }
        match (rank, host_file) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(PlacementError::Incomplete {
                there: HOST_FILE,
                missing: RANK,
            }),
            // `mlx.launch` writes an empty host file for one process, or names none.
            (Some(rank), None) if rank == "0" => Ok(None),
            (Some(_), None) => Err(PlacementError::Incomplete {
                there: RANK,
                missing: HOST_FILE,
            }),
            (Some(rank), Some(path)) => {
                let addresses = ring(Path::new(&path))?;
                if addresses.len() < 2 {
                    return Ok(None);
                }
                Ok(Some(Self {
                    transport: Transport::Ring,
                    rank: parsed(&rank, Some(addresses.len()))?,
                    addresses,
                }))
            }
        }
    }
}

/// A rank below `size`, where that is known.
fn parsed(rank: &str, size: Option<usize>) -> Result<usize, PlacementError> {
    let number = rank
        .parse()
        .ok()
        .filter(|&number| size.is_none_or(|size| number < size));
    number.ok_or_else(|| PlacementError::Rank {
        found: rank.to_owned(),
        expected: match size {
            Some(size) => format!("a number below {size}, as many as the host file has processes"),
            None => "a number from 0".to_owned(),
        },
    })
}

/// The first address of each process.
fn ring(path: &Path) -> Result<Vec<String>, PlacementError> {
    let foreign = |found: String| PlacementError::Foreign {
        path: path.to_owned(),
        found,
    };
    let unreadable = |source| PlacementError::Unreadable {
        path: path.to_owned(),
        source,
    };
    // A thousand hosts take some 50 kB.
    let text = yaml::read_file(path).map_err(unreadable)?;
    let text = text.ok_or_else(|| foreign(format!("more than {} bytes", yaml::LARGEST_FILE)))?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let processes: Vec<Vec<String>> = serde_json::from_str(&text).map_err(|error| foreign(error.to_string()))?;
    processes
        .into_iter()
        .enumerate()
        .map(|(rank, addresses)| {
            let first = addresses.into_iter().next();
            first.ok_or_else(|| foreign(format!("no address of process {rank}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tempfile::NamedTempFile;

    use super::{Placement, PlacementError, Transport};

    fn file(text: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn read(variables: &[(&str, &str)]) -> Result<Option<Placement>, PlacementError> {
        Placement::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn in_ring(rank: &str, hosts: &str) -> Result<Option<Placement>, PlacementError> {
        let file = file(hosts);
        read(&[("MLX_RANK", rank), ("MLX_HOSTFILE", file.path().to_str().unwrap())])
    }

    #[test]
    fn a_process_that_was_started_alone_has_no_place() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[("MLX_RANK", "0")]).unwrap(), None);
        assert_eq!(in_ring("0", "").unwrap(), None);
        assert_eq!(in_ring("0", r#"[["127.0.0.1:32323"]]"#).unwrap(), None);
    }

    #[test]
    fn the_file_that_mlx_launch_writes_is_read() {
        let hosts = r#"[["10.0.0.1:32323", "10.0.0.1:32324"], ["10.0.0.2:32325", "10.0.0.2:32326"]]"#;
        let expected = Placement {
            transport: Transport::Ring,
            rank: 1,
            addresses: vec!["10.0.0.1:32323".to_owned(), "10.0.0.2:32325".to_owned()],
        };
        assert_eq!(in_ring("1", hosts).unwrap(), Some(expected));
    }

    #[test]
    fn other_transports_are_known_by_their_variables() {
        let transport = |variables: &[(&str, &str)]| read(variables).unwrap().unwrap().transport;
        assert_eq!(
            transport(&[("MLX_RANK", "1"), ("MLX_JACCL_COORDINATOR", "10.0.0.1:32323")]),
            Transport::Jaccl
        );
        assert_eq!(transport(&[("OMPI_COMM_WORLD_RANK", "1")]), Transport::Mpi);
        assert_eq!(
            transport(&[("MLX_RANK", "1"), ("NCCL_HOST_IP", "10.0.0.1")]),
            Transport::Nccl
        );
    }

    #[test]
    fn an_environment_that_is_not_whole_is_refused() {
        let two = r#"[["127.0.0.1:1"], ["127.0.0.1:2"]]"#;
        for (refused, said) in [
            (read(&[("MLX_RANK", "1")]), "`MLX_RANK` without `MLX_HOSTFILE`"),
            (read(&[("MLX_HOSTFILE", "hosts")]), "`MLX_HOSTFILE` without `MLX_RANK`"),
            (in_ring("2", two), "a number below 2"),
            (in_ring("one", two), "MLX_RANK=`one`"),
            (in_ring("0", r#"[["127.0.0.1:1"], []]"#), "no address of process 1"),
            (in_ring("0", r#"{"hosts": []}"#), "a list of"),
            (
                read(&[("MLX_RANK", "0"), ("MLX_HOSTFILE", "/no/such/file")]),
                "cannot be read",
            ),
        ] {
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
    }
}
