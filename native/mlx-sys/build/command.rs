//! Running other programs.

use std::process::Command;

/// How much of a failed program's output an error shows.
const SHOWN_LINES: usize = 12;

pub fn new(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// The last lines of a program's output, indented to stand below `found:`.
pub fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    if shown.is_empty() {
        "no output".into()
    } else {
        shown.join("\n    ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_long_output_is_shown() {
        let lines: Vec<String> = (0..40).map(|line| format!("line {line}\n")).collect();
        let shown = last_lines(lines.join("\n").as_bytes());
        assert!(shown.starts_with("line 28\n    line 29"), "{shown}");
        assert!(shown.ends_with("line 39"), "{shown}");
    }

    #[test]
    fn silence_is_named() {
        assert_eq!(last_lines(b"\n \n"), "no output");
    }
}
