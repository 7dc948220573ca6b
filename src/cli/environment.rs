//! `diagnose env`: the machine, and what would be chosen on it.

use anyhow::Result;
use clap::Args;

use super::bounded_numbers::not_negative;
use super::device_arguments::BackendArgument;
use super::output::print;
use super::run::width;
use crate::device::{Selection, describe_machine};
use crate::report::{machine_to_json, machine_to_text};

/// Options of the description of the machine.
#[derive(Debug, Args)]
pub struct EnvironmentArguments {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Where to compute [default: Metal or CUDA, then MLX on the CPU, then PyTorch, the first that works]
    #[arg(long, value_name = "B", value_enum)]
    pub backend: Option<BackendArgument>,
    /// Gigabytes that training is to leave free for the system and other programs
    #[arg(long, value_name = "GB", default_value_t = 8.0, value_parser = not_negative, allow_negative_numbers = true)]
    pub reserve: f64,
}

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
