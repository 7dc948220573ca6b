//! Text as markup that is HTML and XML at once.

use std::fmt::Write as _;

use crate::report::wrap::{printable, steers};

/// Text in an element or an attribute, its line breaks kept; what could steer a page is left out.
pub(crate) fn escaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '"' => result.push_str("&quot;"),
            '\'' => result.push_str("&#39;"),
            '\n' | '\t' => result.push(character),
            _ if steers(character) => {}
            _ => result.push(character),
        }
    }
    result
}

/// A sentence of a finding on one line; what stands between backticks is code.
pub(super) fn prose(text: &str) -> String {
    let line = printable(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    let parts: Vec<&str> = line.split('`').collect();
    // The last backtick of an odd number opens nothing.
    let is_closed = parts.len() % 2 == 1;
    let mut result = String::new();
    for (index, part) in parts.iter().enumerate() {
        let is_last = index + 1 == parts.len();
        if index % 2 == 0 {
            result.push_str(&escaped(part));
        } else if is_last && !is_closed {
            result.push('`');
            result.push_str(&escaped(part));
        } else {
            let _ = write!(result, "<code>{}</code>", escaped(part));
        }
    }
    result
}

/// A section under a heading of the second level; empty without content.
pub(super) fn section(id: &str, title: &str, content: &str) -> String {
    if content.is_empty() {
        return String::new();
    }
    format!(
        "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n{content}</section>\n"
    )
}

/// A table with a header cell at the start of each row, in a box that scrolls where the page is narrow.
///
/// Every cell is markup already; `numbers` are the columns that are set to the right.
pub(super) fn table(label: &str, head: &[&str], rows: &[Vec<String>], numbers: &[usize]) -> String {
    let class = |column: usize| {
        if numbers.contains(&column) {
            " class=\"number\""
        } else {
            ""
        }
    };
    let kind = if numbers.is_empty() { "" } else { " class=\"figures\"" };
    let mut text =
        format!("<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"{label}\"><table{kind}>\n");
    if !head.is_empty() {
        text.push_str("<thead><tr>");
        for (column, title) in head.iter().enumerate() {
            let _ = write!(text, "<th scope=\"col\"{}>{title}</th>", class(column));
        }
        text.push_str("</tr></thead>\n");
    }
    text.push_str("<tbody>\n");
    for row in rows {
        text.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let class = class(column);
            if column == 0 {
                let _ = write!(text, "<th scope=\"row\"{class}>{cell}</th>");
            } else {
                let _ = write!(text, "<td{class}>{cell}</td>");
            }
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table></div>\n");
    text
}

/// Something to unfold; `summary` and `content` are markup.
pub(super) fn folded(summary: &str, content: &str) -> String {
    format!("<details><summary>{summary}</summary>\n{content}</details>\n")
}

/// The same, unfolded until the reader folds it.
pub(super) fn unfolded(summary: &str, content: &str) -> String {
    format!("<details open=\"open\"><summary>{summary}</summary>\n{content}</details>\n")
}
