use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};

/// Whether the terminal says of itself that it shows text and nothing else.
pub fn is_dumb_terminal() -> bool {
    std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb")
}

/// Switches colour off where the terminal has none, unless the user forces it.
///
/// The crate `colored` heeds `NO_COLOR` and pipes, but not `TERM`.
pub fn choose_colour() {
    if is_dumb_terminal() && std::env::var_os("CLICOLOR_FORCE").is_none() {
        colored::control::set_override(false);
    }
}

/// Prints data to standard output; a reader that has gone away is no error.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

/// Prints a line for the user to standard error, where nothing can be done about a failure.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// The text without what steers a terminal: paths and data may hold anything.
pub fn without_controls(mut text: String) -> String {
    text.retain(|character| character == '\n' || !character.is_control());
    text
}
