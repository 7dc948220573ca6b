//! The two-by-two: every trainer with every generator.

use std::fmt::Write as _;

use super::markup::{escaped, folded, prose, table};
use crate::evidence::CellState;
use crate::report::Swap;
use crate::report::swap::{answered_by, trained_by};

/// The cells, what they say, and the answers behind them.
pub(super) fn swap(swap: &Swap) -> String {
    /// Characters of an answer that are shown.
    const SHOWN: usize = 300;
    let mut text = format!("<p>{}.</p>\n", prose(&swap.text));
    for (what, name) in swap.names() {
        let _ = writeln!(text, "<p class=\"aside\">{what}: <code>{}</code></p>", escaped(name));
    }
    let columns = swap.columns();
    let mut head = vec!["trained by"];
    head.extend(columns.iter().map(|generator| answered_by(*generator)));
    let rows: Vec<Vec<String>> = swap
        .rows()
        .into_iter()
        .map(|trainer| {
            let mut row = vec![trained_by(trainer).to_owned()];
            row.extend(columns.iter().map(|generator| {
                swap.cell(trainer, *generator).map_or_else(String::new, |cell| {
                    let (class, mark) = match cell.state {
                        CellState::Works => ("ok", "✓"),
                        CellState::Absent => ("aside", "–"),
                        _ => ("error", "✕"),
                    };
                    format!("<span class=\"status {class}\">{mark} {}</span>", prose(&cell.text))
                })
            }));
            row
        })
        .collect();
    text.push_str(&table("Two by two", &head, &rows, &[]));
    if !swap.beside.is_empty() {
        let rows: Vec<Vec<String>> = swap
            .beside
            .iter()
            .map(|figure| {
                vec![
                    figure.what.to_owned(),
                    escaped(&figure.theirs),
                    escaped(&figure.reference),
                ]
            })
            .collect();
        text.push_str(&table(
            "Beside the reference",
            &["figure", "theirs", "reference"],
            &rows,
            &[],
        ));
    }
    for (index, prompt) in swap.prompts.iter().enumerate() {
        let rows: Vec<Vec<String>> = swap
            .cells
            .iter()
            .map(|cell| vec![cell.place(), escaped(&cell.answer(index, SHOWN))])
            .collect();
        text.push_str(&folded(&escaped(prompt), &table("Answers", &[], &rows, &[])));
    }
    text
}
