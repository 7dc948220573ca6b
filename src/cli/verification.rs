//! `diagnose verify`: whether this program and its MLX compute here what they should.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};

use super::device_arguments::BackendArgument;
use super::output::print;
use super::progress::counted_progress;
use super::run::{check_writable, listen_for_interrupt};
use super::verify;
use super::verify::Verify;
use crate::atomic_write::write_file;
use crate::report::{EXIT_FAULT, EXIT_HEALTHY, EXIT_INCOMPLETE};
use crate::verification::{Category, Verification, VerificationOptions, list, to_json, to_junit, to_text};

/// The results for programs, in the folder of `--out`.
const RESULTS: &str = "verification.json";
/// The results for test reports.
const TEST_REPORT: &str = "verification.xml";
/// Checks between two lines of progress where there is no terminal.
const CHECKS_PER_LINE: usize = 25;

/// Options of the verification.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct VerificationArguments {
    /// A single figure instead of the checks.
    #[command(subcommand)]
    pub figure: Option<Verify>,
    /// List the categories and their checks, and make none
    #[arg(long, conflicts_with_all = ["only", "backend", "format", "out"])]
    pub list: bool,
    /// Only these categories, of those that --list names
    #[arg(long, value_name = "CATEGORY,...", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Where to compute: metal, cuda or cpu [default: the first of them that works]
    #[arg(long, value_name = "B", value_enum, hide_possible_values = true)]
    pub backend: Option<BackendArgument>,
    /// Format on standard output
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = VerificationFormat::Text)]
    pub format: VerificationFormat,
    /// Folder for verification.json and verification.xml
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Ways to print a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VerificationFormat {
    /// For a terminal
    Text,
    /// For programs
    Json,
    /// For test reports: XML with a test case for each check
    Junit,
}

/// Makes the checks or computes a figure, and returns the exit code.
pub fn run(arguments: VerificationArguments) -> Result<u8> {
    if let Some(figure) = arguments.figure {
        return verify::run(figure).map(|()| EXIT_HEALTHY);
    }
    if arguments.list {
        print(&list())?;
        return Ok(EXIT_HEALTHY);
    }
    let options = options(&arguments)?;
    if let Some(folder) = &arguments.out {
        check_writable(folder)?;
    }
    let interrupt = listen_for_interrupt()?;
    let verification =
        crate::verification::verify(&options, &interrupt, &mut counted_progress("checks", CHECKS_PER_LINE))?;
    let written = arguments
        .out
        .as_deref()
        .map_or(Ok(()), |folder| write(folder, &verification));
    print(&match arguments.format {
        VerificationFormat::Text => to_text(&verification),
        VerificationFormat::Json => to_json(&verification)?,
        VerificationFormat::Junit => to_junit(&verification)?,
    })?;
    written.map(|()| exit_code(&verification))
}

fn options(arguments: &VerificationArguments) -> Result<VerificationOptions> {
    if arguments.backend == Some(BackendArgument::Torch) {
        return Err(anyhow!(
            "MLX is what is verified, and not PyTorch\n  found: `--backend torch`\n  hint: `diagnose --cross-check torch` \
             compares the two"
        ));
    }
    let only = arguments.only.iter().map(|name| name.parse::<Category>());
    Ok(VerificationOptions {
        backend: arguments.backend.map(Into::into),
        only: only.collect::<Result<_, _>>()?,
    })
}

fn write(folder: &Path, verification: &Verification) -> Result<()> {
    for (name, text) in [
        (RESULTS, to_json(verification)?),
        (TEST_REPORT, to_junit(verification)?),
    ] {
        let path = folder.join(name);
        write_file(&path, text.as_bytes()).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

fn exit_code(verification: &Verification) -> u8 {
    if verification.interrupted {
        EXIT_INCOMPLETE
    } else if verification.tally().failed > 0 {
        EXIT_FAULT
    } else {
        EXIT_HEALTHY
    }
}
