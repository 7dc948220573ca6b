//! The program `diagnose`.

use std::process::ExitCode;

use clap::Parser;
use memory_allowance::LimitedAllocator;
use mlx_diagnose::cli::{Arguments, run};

/// Chat templates of others are run within an allowance.
#[global_allocator]
static ALLOCATOR: LimitedAllocator = LimitedAllocator;

fn main() -> ExitCode {
    ExitCode::from(run(Arguments::parse()))
}
