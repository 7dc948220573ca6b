//! A report as a page for a browser.

use std::fmt::Write as _;

use super::document::{Block, Document, Prose, Section, Span, Table, Tone};
use super::markup::escaped;
use super::plots::Plot;
use crate::compare::Record;
use crate::compare::analysis::{Analysis, Samples};

/// No request of any kind, no script: only the style that the page carries.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

const STYLE: &str = include_str!("page.css");

/// The report as one page that needs nothing else: no script, no font, no request.
///
/// The markup is XML too, so that a strict parser reads it.
pub fn to_html(record: &Record, samples: &Samples, analysis: &Analysis) -> String {
    render(&Document::new(record, samples, analysis))
}

pub(super) fn render(document: &Document) -> String {
    let title = escaped(&document.title);
    let links = document
        .sections
        .iter()
        .map(|section| format!("<li><a href=\"#{}\">{}</a></li>", section.id, section.title));
    let links: String = links.collect();
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta \
         http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\"/>\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"/>\n<meta name=\"color-scheme\" content=\"light dark\"/>\n<meta \
         name=\"referrer\" content=\"no-referrer\"/>\n<title>{title} - \
         mlx-diagnose</title>\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n<header>\n<p class=\"program\">mlx-diagnose \
         compare</p>\n<h1>{title}</h1>\n<p class=\"aside\">{}</p>\n<nav \
         aria-label=\"Sections\"><ul>{links}</ul></nav>\n</header>\n<main>\n",
        Plot::STYLE,
        prose(&document.subtitle),
    );
    for section in &document.sections {
        write_section(&mut page, section);
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn write_section(page: &mut String, section: &Section) {
    let Section { id, title, blocks } = section;
    let _ = writeln!(
        page,
        "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>"
    );
    for block in blocks {
        write_block(page, block);
    }
    page.push_str("</section>\n");
}

fn write_block(page: &mut String, block: &Block) {
    let _ = match block {
        Block::Heading(text) => writeln!(page, "<h3>{}</h3>", prose(text)),
        Block::Finding { tone, label, text } => writeln!(
            page,
            "<p class=\"finding\"><span class=\"label {}\">{}</span> {}</p>",
            class(*tone),
            escaped(label),
            prose(text)
        ),
        Block::Paragraph(text) => writeln!(page, "<p>{}</p>", prose(text)),
        Block::List(items) => {
            page.push_str("<ul>\n");
            for item in items {
                let _ = writeln!(page, "<li>{}</li>", prose(item));
            }
            writeln!(page, "</ul>")
        }
        Block::Table(table) => write_table(page, table),
        Block::Plot(plot) => writeln!(
            page,
            "<figure class=\"scroll\" tabindex=\"0\">\n{}</figure>",
            plot.to_element()
        ),
    };
}

fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "good",
        Tone::Bad => "bad",
        Tone::Doubtful => "doubtful",
        Tone::Neutral => "neutral",
    }
}

/// A table in a box that scrolls where the page is narrow.
fn write_table(page: &mut String, table: &Table) -> std::fmt::Result {
    let class = |column: usize| {
        let is_number = table.columns.get(column).is_some_and(|column| column.is_number);
        if is_number { " class=\"number\"" } else { "" }
    };
    writeln!(
        page,
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"{}\"><table>\n<thead><tr>",
        escaped(&table.label)
    )?;
    for (index, column) in table.columns.iter().enumerate() {
        write!(page, "<th scope=\"col\"{}>{}</th>", class(index), column.title)?;
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        page.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            let cell = prose(cell);
            match index {
                0 => write!(page, "<th scope=\"row\">{cell}</th>")?,
                _ => write!(page, "<td{}>{cell}</td>", class(index))?,
            }
        }
        page.push_str("</tr>\n");
    }
    writeln!(page, "</tbody></table></div>")
}

fn prose(text: &Prose) -> String {
    let spans = text.0.iter().map(|span| match span {
        Span::Plain(text) => escaped(text),
        Span::Strong(text) => format!("<strong>{}</strong>", escaped(text)),
        Span::Code(text) => format!("<code>{}</code>", escaped(text)),
    });
    spans.collect()
}
