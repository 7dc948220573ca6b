//! The program `diagnose`.

use std::process::ExitCode;

use allowance::LimitedAllocator;
use clap::Parser;
use mlx_diagnose::cli::{Arguments, run};

/// Chat templates of others are run within an allowance.
#[global_allocator]
static ALLOCATOR: LimitedAllocator = LimitedAllocator;

fn main() -> ExitCode {
    allowance::watch_time();
    ExitCode::from(run(Arguments::parse()))
}
