//! `diagnose env`: the machine, and what would be chosen on it.

use anyhow::Result;

use super::arguments::EnvironmentArguments;
use super::output::print;
use super::run::width;
use crate::device::{Selection, describe_machine};
use crate::report::{machine_to_json, machine_to_text};

/// Bytes of the unit that the reserve is given in, the one that reports print.
const GIGABYTE: f64 = 1e9;

/// Prints what the machine is.
pub fn run(arguments: &EnvironmentArguments) -> Result<()> {
    let selection = Selection::of(arguments.backend.map(Into::into))?;
    let machine = describe_machine(&selection, (arguments.reserve * GIGABYTE) as u64);
    print(&if arguments.json {
        machine_to_json(&machine)?
    } else {
        machine_to_text(&machine, width())
    })
}
