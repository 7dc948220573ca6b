//! `diagnose launch`: what `mlx.launch` does, without Python.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow};
use clap::{Args, CommandFactory};

use super::arguments::Arguments;
use super::output::{note, print, without_controls};
use super::run::listen_for_interrupt;
use crate::distributed::{Hosts, Launch, PrintLine, Program, RankEnd, STARTING_PORT, Stream};
use crate::report::{EXIT_HEALTHY, EXIT_INCOMPLETE};

/// Examples behind the long help.
const EXAMPLES: &str = "Examples:
  Two processes on this machine:
    diagnose launch -n 2 -- train start ./my-model ./my-data --out pirate
  A diagnosis that two processes train together:
    diagnose launch -n 2 -- --model ./my-model --data ./my-data
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
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    starting_port: Option<u16>,
    /// This program's path on every machine [default: as here]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Arguments of this program for each process
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

fn is_subcommand(word: &str) -> bool {
    let command = Arguments::command();
    command.get_subcommands().any(|known| known.get_name() == word)
}

/// Runs the command and returns the exit code: that of the processes where they have one, 2 where they end differently.
pub fn run(arguments: &LaunchArguments) -> Result<u8> {
    let hosts = match (&arguments.hosts, arguments.processes) {
        (Some(path), _) => Hosts::read(path, arguments.starting_port.unwrap_or(STARTING_PORT))?,
        (None, count) => Hosts::on_this_machine(count.map_or(1, NonZeroUsize::get), arguments.starting_port)?,
    };
    let first = arguments.arguments.first().filter(|_| arguments.program.is_none());
    if let Some(word) = first.filter(|word| *word != "train" && is_subcommand(word)) {
        return Err(anyhow!(
            "processes share the work of a diagnosis and of `diagnose train` alone\n  found: `{word}`\n  expected: the options of a diagnosis, `train start`, `train quick` or `train resume`"
        ));
    }
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
    let interrupt = listen_for_interrupt()?;
    let is_lost = Arc::new(AtomicBool::new(false));
    let lost = Arc::clone(&is_lost);
    let line: Arc<PrintLine> = Arc::new(move |rank, stream, line| {
        // What rank 0 prints is the result of all, which may be a document.
        let is_result = rank == 0 && matches!(stream, Stream::Output);
        let line = if is_result {
            line.to_owned()
        } else {
            format!("[{rank}] {line}")
        };
        let line = without_controls(line);
        match stream {
            Stream::Output if print(&format!("{line}\n")).is_err() => lost.store(true, Ordering::Relaxed),
            Stream::Output => {}
            Stream::Errors => note(&line),
        }
    });
    let ends = Launch::start(&hosts, &program, &line)?
        .wait(&interrupt)
        .map_err(|error| anyhow!("the processes cannot be waited for: {error}"))?;
    for text in told(&ends, &program.path) {
        note(&text);
    }
    if is_lost.load(Ordering::Relaxed) {
        return Err(anyhow!(
            "what the processes printed cannot be written to standard output"
        ));
    }
    Ok(common_code(&ends))
}

/// How those ended that did not end well.
fn told(ends: &[RankEnd], program: &Path) -> Vec<String> {
    if let [RankEnd::Exited(code), others @ ..] = ends
        && *code != 0
        && !others.is_empty()
        && others.iter().all(|end| *end == RankEnd::Exited(*code))
    {
        return vec![format!(
            "all ranks ended with exit code {code}{}",
            meaning(*code, program)
        )];
    }
    let of_rank = |(rank, end): (usize, &RankEnd)| match end {
        RankEnd::Exited(0) => None,
        RankEnd::Exited(code) => Some(format!(
            "rank {rank} ended with exit code {code}{}",
            meaning(*code, program)
        )),
        RankEnd::Killed(signal) => Some(format!("rank {rank} was ended by signal {signal}")),
        RankEnd::Stopped => Some(format!("rank {rank} was ended by the launcher")),
    };
    ends.iter().enumerate().filter_map(of_rank).collect()
}

/// What shells and SSH mean by a code that this program does not have.
fn meaning(code: i32, program: &Path) -> String {
    match code {
        126 | 127 => format!(
            ": `{}` cannot be run there\n  hint: give its path by `--program`",
            program.display()
        ),
        255 => "\n  hint: where it is on another machine, SSH failed".to_owned(),
        _ => String::new(),
    }
}

/// The exit code of those that failed, where it is one of this program's and the same for all.
fn common_code(ends: &[RankEnd]) -> u8 {
    let mut codes = ends.iter().filter_map(|end| match end {
        RankEnd::Exited(0) | RankEnd::Stopped => None,
        RankEnd::Exited(code) => Some(u8::try_from(*code).map_or(EXIT_INCOMPLETE, |code| code.min(EXIT_INCOMPLETE))),
        RankEnd::Killed(_) => Some(EXIT_INCOMPLETE),
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
    use std::path::Path;

    use super::{RankEnd, common_code, told};

    #[test]
    fn the_exit_code_is_that_of_all_processes_or_says_that_the_run_is_not_complete() {
        use RankEnd::{Exited, Killed, Stopped};
        for (ends, code) in [
            (vec![Exited(0), Exited(0)], 0),
            (vec![Exited(1), Exited(1)], 1),
            (vec![Exited(0), Exited(1)], 1),
            (vec![Exited(1), Exited(2)], 2),
            (vec![Exited(2), Killed(9)], 2),
            (vec![Killed(15)], 2),
            (vec![Exited(127), Exited(255)], 2),
            (vec![Stopped, Exited(1)], 1),
        ] {
            assert_eq!(common_code(&ends), code, "{ends:?}");
        }
    }

    #[test]
    fn what_all_have_in_common_is_said_once() {
        use RankEnd::{Exited, Killed, Stopped};
        let said = |ends: &[RankEnd]| told(ends, Path::new("/opt/diagnose")).join("\n");
        assert_eq!(said(&[Exited(0), Exited(0)]), "");
        assert_eq!(said(&[Exited(2), Exited(2)]), "all ranks ended with exit code 2");
        assert_eq!(
            said(&[Stopped, Exited(0), Killed(9)]),
            "rank 0 was ended by the launcher\nrank 2 was ended by signal 9"
        );
        assert!(
            said(&[Exited(127)]).starts_with("rank 0 ended with exit code 127: `/opt/diagnose` cannot be run there")
        );
    }
}
