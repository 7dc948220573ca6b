//! The program `diagnose`.

use std::process::ExitCode;

use clap::Parser;
use mlx_diagnose::cli::{run, Arguments};

fn main() -> ExitCode {
    ExitCode::from(run(Arguments::parse()))
}
