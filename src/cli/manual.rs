//! What shells and `man` know of this program, made from its arguments.

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap::ValueEnum;
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use super::arguments::Arguments;
use super::output::print;
use super::run::check_writable;
use crate::atomic_write::write_file;

/// Shells that have completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ShellArgument {
    /// Bash
    Bash,
    /// Z shell
    Zsh,
    /// Fish
    Fish,
}

/// Prints the completions of a shell.
pub fn completions(shell: ShellArgument) -> Result<()> {
    let shell = match shell {
        ShellArgument::Bash => Shell::Bash,
        ShellArgument::Zsh => Shell::Zsh,
        ShellArgument::Fish => Shell::Fish,
    };
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Writes a page for the program and one for each subcommand, and says how many.
pub fn pages(folder: &Path) -> Result<()> {
    check_writable(folder)?;
    let mut command = Arguments::command();
    // Fills in the names of subcommands and the options that all have.
    command.build();
    let mut written = 0;
    write_page(&command, folder, &mut written)?;
    print(&format!("{written} manual pages: {}\n", folder.display()))
}

fn write_page(command: &clap::Command, folder: &Path, written: &mut usize) -> Result<()> {
    // `diagnose convert adapter` has the page `diagnose-convert-adapter`.
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = folder.join(format!("{name}.1"));
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    write_file(&path, &page).with_context(|| format!("cannot write `{}`", path.display()))?;
    *written += 1;
    for subcommand in command.get_subcommands().filter(|one| one.get_name() != "help") {
        write_page(subcommand, folder, written)?;
    }
    Ok(())
}
