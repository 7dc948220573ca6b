//! `diagnose launch`: what `mlx.launch` does, without Python.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::Args;

use super::output::{note, print, without_controls};
use super::run::listen_for_interrupt;
use crate::distributed::{Hosts, Launch, PrintLine, Program, RankEnd, STARTING_PORT, Stream};
use crate::interrupt::Interrupt;
use crate::report::{EXIT_HEALTHY, EXIT_INCOMPLETE};

/// Examples behind the long help.
const EXAMPLES: &str = "Examples:
  Two processes on this machine:
    diagnose launch -n 2 -- train start ./my-model ./my-data --out pirate
  One on each machine of a host file of mlx.launch, reached by SSH:
    diagnose launch --hosts hosts.json -- train start ./my-model ./my-data --out pirate

Every process reads model and data itself, at the same paths. The first one, rank 0, writes and prints for all.
`mlx.launch ... diagnose train start ...` does the same, and knows MLX's other backends than the ring.";

/// Which processes, and what they run.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct LaunchArguments {
    /// Processes on this machine
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        required_unless_present = "hosts",
        conflicts_with = "hosts"
    )]
    processes: Option<NonZeroUsize>,
    /// A host file of mlx.launch: a JSON list of objects with `ssh`, a name, and `ips`, a list of addresses; one for each process
    #[arg(long, value_name = "FILE")]
    hosts: Option<PathBuf>,
    /// The first process's port, by TCP and UDP; each further process has the next [default: free ports for processes on this
    /// machine alone, 32323 with a host file]
    #[arg(long, value_name = "PORT")]
    starting_port: Option<u16>,
    /// This program's path on every machine [default: as here]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Arguments of this program for each process
    #[arg(last = true, required = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

/// Runs the command and returns the exit code: that of the processes where they have one, 2 where they end differently.
pub fn run(arguments: &LaunchArguments) -> Result<u8> {
    let hosts = match (&arguments.hosts, arguments.processes) {
        (Some(path), _) => Hosts::read(path, arguments.starting_port.unwrap_or(STARTING_PORT))?,
        (None, count) => Hosts::on_this_machine(count.map_or(1, NonZeroUsize::get), arguments.starting_port)?,
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let program = Program {
        path: match &arguments.program {
            Some(path) => path.clone(),
            None => std::env::current_exe().context("this program does not know its own path")?,
        },
        arguments: arguments.arguments.clone(),
        folder: std::env::current_dir().context("the current folder cannot be read")?,
        threads: arguments.processes.map(|processes| (cores / processes.get()).max(1)),
    };
    let interrupt = Interrupt::default();
    listen_for_interrupt(&interrupt)?;
    let line: Arc<PrintLine> = Arc::new(|rank, stream, line| {
        let line = without_controls(format!("[{rank}] {line}"));
        match stream {
            // A reader of this program's output that has gone away is no reason to end the processes.
            Stream::Output => drop(print(&format!("{line}\n"))),
            Stream::Errors => note(&line),
        }
    });
    let ends = Launch::start(&hosts, &program, &line)?
        .wait(&interrupt)
        .map_err(|error| anyhow!("the processes cannot be waited for: {error}"))?;
    for (rank, end) in ends.iter().enumerate() {
        match end {
            RankEnd::Exited(0) => {}
            RankEnd::Exited(code) => note(&format!("rank {rank} ended with exit code {code}")),
            RankEnd::Killed(signal) => note(&format!("rank {rank} was ended by signal {signal}")),
        }
    }
    Ok(common_code(&ends))
}

/// The exit code of those that did not end well, where it is one.
fn common_code(ends: &[RankEnd]) -> u8 {
    let mut codes = ends
        .iter()
        .filter(|end| **end != RankEnd::Exited(0))
        .map(|end| match end {
            RankEnd::Exited(code) => u8::try_from(*code).unwrap_or(EXIT_INCOMPLETE),
            RankEnd::Killed(_) => EXIT_INCOMPLETE,
        });
    let Some(first) = codes.next() else {
        return EXIT_HEALTHY;
    };
    if codes.all(|code| code == first) {
        first
    } else {
        EXIT_INCOMPLETE
    }
}

#[cfg(test)]
mod tests {
    use super::{RankEnd, common_code};

    #[test]
    fn the_exit_code_is_that_of_all_processes_or_says_that_the_run_is_not_complete() {
        use RankEnd::{Exited, Killed};
        for (ends, code) in [
            (vec![Exited(0), Exited(0)], 0),
            (vec![Exited(1), Exited(1)], 1),
            (vec![Exited(0), Exited(1)], 1),
            (vec![Exited(1), Exited(2)], 2),
            (vec![Exited(2), Killed(9)], 2),
            (vec![Killed(15)], 2),
            (vec![Exited(300)], 2),
        ] {
            assert_eq!(common_code(&ends), code, "{ends:?}");
        }
    }
}
