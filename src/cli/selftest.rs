use std::io::IsTerminal;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use super::arguments::SelftestArguments;
use super::output::{note, print};
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
        out: arguments.out,
    };
    let summary = selftest(&catalogue, &options, interrupt, &mut *progress())?;
    print(&to_text(&summary))?;
    Ok(if !summary.is_complete() {
        EXIT_INCOMPLETE
    } else if summary.is_satisfactory() {
        EXIT_HEALTHY
    } else {
        EXIT_FAULT
    })
}

/// A moving line on a terminal, a plain line now and then elsewhere.
fn progress() -> Box<dyn FnMut(usize, usize, &str)> {
    if !std::io::stderr().is_terminal() {
        return Box::new(|done, planned, name| {
            if done % RUNS_PER_LINE == 0 || done == planned {
                note(&format!("{done} of {planned} runs: {name}"));
            }
        });
    }
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {eta} {wide_msg}");
    let bar = ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    Box::new(move |done, planned, name| {
        bar.set_length(planned as u64);
        bar.set_position(done as u64);
        bar.set_message(name.to_owned());
        if done == planned {
            bar.finish_and_clear();
        }
    })
}
