use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::output::print;
use super::progress::counted_progress;
use crate::interrupt::Interrupt;
use crate::report::{EXIT_FAULT, EXIT_HEALTHY, EXIT_INCOMPLETE};
use crate::selftest::{Catalogue, Extent, SelftestOptions, list, selftest, to_text};

/// Options of the self-test.
#[derive(Debug, Args)]
pub struct SelftestArguments {
    /// List the faults and healthy controls, and run nothing
    #[arg(long, conflicts_with_all = ["quick", "full", "out", "only"])]
    pub list: bool,
    /// Every fault once and 32 healthy runs: minutes [default]
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// The whole design, with severities, pairs and longer runs: an hour
    #[arg(long)]
    pub full: bool,
    /// Folder for selftest.json, selftest.md, matrix.svg and the evidence of runs that went wrong
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Only these faults and healthy controls
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub only: Vec<String>,
}

/// Runs between two lines of progress where there is no terminal.
const RUNS_PER_LINE: usize = 25;

/// Runs the self-test, prints its summary and returns the exit code.
pub fn run(arguments: SelftestArguments, interrupt: &Interrupt) -> Result<u8> {
    let catalogue = Catalogue::built_in();
    if arguments.list {
        print(&list(&catalogue))?;
        return Ok(EXIT_HEALTHY);
    }
    let options = SelftestOptions {
        extent: if arguments.full { Extent::Full } else { Extent::Quick },
        seed: arguments.seed,
        only: arguments.only,
        program: std::env::current_exe().context("this program does not know its own path")?,
        out: arguments.out,
    };
    let summary = selftest(
        &catalogue,
        &options,
        interrupt,
        &mut counted_progress("runs", RUNS_PER_LINE),
    )?;
    print(&to_text(&summary))?;
    Ok(if !summary.is_complete() {
        EXIT_INCOMPLETE
    } else if summary.is_satisfactory() {
        EXIT_HEALTHY
    } else {
        EXIT_FAULT
    })
}
