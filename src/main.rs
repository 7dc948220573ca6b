//! The program `diagnose`.

use std::process::ExitCode;

use clap::Parser;
use mlx_diagnose::cli::{Arguments, run};

fn main() -> ExitCode {
    ExitCode::from(run(Arguments::parse()))
}
