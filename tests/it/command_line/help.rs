//! The help of every command, as it is printed.

use clap::CommandFactory;
use mlx_diagnose::cli::Arguments;

use crate::diagnosis::rules::snapshots;

/// Columns for which the text is wrapped.
const WIDTH: usize = 100;

/// The name and the help of a command and of all below it.
fn pages(command: &mut clap::Command, pages: &mut Vec<(String, String)>) {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    pages.push((name, command.render_long_help().to_string()));
    for below in command
        .get_subcommands_mut()
        .filter(|below| below.get_name() != "help" && !below.is_hide_set())
    {
        self::pages(below, pages);
    }
}

#[test]
fn help_is_as_it_was_reviewed() {
    let mut command = Arguments::command().term_width(WIDTH);
    command.build();
    let mut found = Vec::new();
    pages(&mut command, &mut found);
    assert!(found.len() > 10, "{found:?}");
    snapshots().bind(|| {
        for (name, page) in found {
            insta::assert_snapshot!(format!("help_{name}"), page);
        }
    });
}
