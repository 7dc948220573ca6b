//! Colour on a terminal.

use crate::situations::{healthy, stub_adapter};
use mlx_diagnose::report::{Report, to_text};

/// The text without escape sequences that end in `m`.
fn without_colour(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().map(str::to_owned);
    let rest = parts.map(|part| part.split_once('m').map_or(part, |(_, rest)| rest));
    first.into_iter().chain(rest.map(str::to_owned)).collect()
}

#[test]
fn colour_adds_nothing_but_colour() {
    for evidence in [healthy(), stub_adapter()] {
        let report = Report::new(&evidence, Vec::new());
        colored::control::set_override(true);
        let coloured = to_text(&report, 80);
        colored::control::set_override(false);
        let plain = to_text(&report, 80);
        assert!(coloured.contains("\u{1b}["), "no colour in {coloured}");
        let stripped = coloured.lines().map(|line| without_colour(line).trim_end().to_owned());
        let stripped: Vec<String> = stripped.collect();
        assert_eq!(stripped, plain.lines().collect::<Vec<_>>());
    }
}
