use anyhow::{Context, Result};

use super::arguments::SelftestArguments;
use super::output::print;
use super::progress::counted_progress;
use crate::interrupt::Interrupt;
use crate::report::{EXIT_FAULT, EXIT_HEALTHY, EXIT_INCOMPLETE};
use crate::selftest::{Catalogue, Extent, SelftestOptions, list, selftest, to_text};

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
