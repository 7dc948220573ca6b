//! A report for a repository or an issue.

use std::fmt::Write as _;

use super::document::{Block, Document, Prose, Span, Table};
use super::markup::on_one_line;
use crate::compare::Record;
use crate::compare::analysis::{Analysis, Samples};

/// The report as GitHub's Markdown, with the pictures beside it under `plots/`.
pub fn to_markdown(record: &Record, samples: &Samples, analysis: &Analysis) -> String {
    render(&Document::new(record, samples, analysis))
}

pub(super) fn render(document: &Document) -> String {
    let mut page = format!("# {}\n\n{}\n", document.title, prose(&document.subtitle));
    for section in &document.sections {
        let _ = writeln!(page, "\n## {}", section.title);
        for block in &section.blocks {
            page.push('\n');
            write_block(&mut page, block);
        }
    }
    page
}

fn write_block(page: &mut String, block: &Block) {
    let _ = match block {
        Block::Heading(text) => writeln!(page, "### {}", prose(text)),
        Block::Finding { label, text, .. } => writeln!(page, "**{}**: {}", escaped(label), prose(text)),
        Block::Paragraph(text) => writeln!(page, "{}", prose(text)),
        Block::List(items) => items.iter().try_for_each(|item| writeln!(page, "- {}", prose(item))),
        Block::Table(table) => write_table(page, table),
        Block::Plot(plot) => writeln!(page, "![{}]({})", escaped(&plot.title), plot.file),
    };
}

fn write_table(page: &mut String, table: &Table) -> std::fmt::Result {
    let titles: Vec<&str> = table.columns.iter().map(|column| column.title).collect();
    let rules = table
        .columns
        .iter()
        .map(|column| if column.is_number { "---:" } else { "---" });
    writeln!(page, "| {} |", titles.join(" | "))?;
    writeln!(page, "| {} |", rules.collect::<Vec<&str>>().join(" | "))?;
    for row in &table.rows {
        // A bar ends a cell even within code.
        let cells: Vec<String> = row.iter().map(|cell| prose(cell).replace('|', "\\|")).collect();
        writeln!(page, "| {} |", cells.join(" | "))?;
    }
    Ok(())
}

fn prose(text: &Prose) -> String {
    let spans = text.0.iter().map(|span| match span {
        Span::Plain(text) => escaped(text),
        Span::Strong(text) => format!("**{}**", escaped(text)),
        Span::Code(text) => code(text),
    });
    spans.collect()
}

/// Code between more backticks than it has in a row itself.
fn code(text: &str) -> String {
    let text = on_one_line(text);
    let longest = text
        .split(|character| character != '`')
        .map(str::len)
        .max()
        .unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let is_edged = text.starts_with('`') || text.ends_with('`');
    let space = if is_edged { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

/// Text of others that cannot begin a tag, a link, code or emphasis.
fn escaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for character in on_one_line(text).chars() {
        match character {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '\\' | '`' | '*' | '[' | ']' => {
                result.push('\\');
                result.push(character);
            }
            _ => result.push(character),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::{code, escaped};

    #[test]
    fn text_of_others_stays_text() {
        assert_eq!(
            escaped("<img src=x> *a* [b](c) `d` e_f & g\nh"),
            "&lt;img src=x> \\*a\\* \\[b\\](c) \\`d\\` e_f &amp; g h"
        );
    }

    #[test]
    fn code_may_hold_backticks() {
        assert_eq!(code("llama-server -m x"), "`llama-server -m x`");
        assert_eq!(code("a `b` ``c``"), "``` a `b` ``c`` ```");
    }
}
