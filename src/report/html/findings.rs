//! What was found: root causes with what they explain, notes, and signals without a cause.

use std::fmt::Write as _;

use super::markup::{escaped, folded, prose};
use crate::report::{Report, ReportedFinding};
use crate::rules::{Fix, find};

/// Every root cause with its evidence and its fixes.
pub(super) fn findings(report: &Report) -> String {
    report.roots().map(|root| finding(report, root)).collect()
}

fn finding(report: &Report, root: &ReportedFinding) -> String {
    let severity = root.severity.name();
    let mut text = format!(
        "<article class=\"finding {severity}\">\n<h3>{} <span class=\"name\">{}</span></h3>\n<p class=\"lead\">{}</p>\n<dl \
         class=\"facts\">\n",
        label(root),
        escaped(root.name),
        prose(&root.headline)
    );
    let facts = [
        ("found", Some(&root.found)),
        ("expected", Some(&root.expected)),
        ("where", root.location.as_ref()),
    ];
    for (name, fact) in facts {
        if let Some(fact) = fact {
            let _ = writeln!(text, "<dt>{name}</dt><dd>{}</dd>", prose(fact));
        }
    }
    text.push_str("</dl>\n");
    text.push_str(&fixes(&root.fixes));
    let folded: Vec<&ReportedFinding> = report.explained_by(root.name).collect();
    if !folded.is_empty() {
        text.push_str("<h4>This explains</h4>\n<ul class=\"folded\">\n");
        for finding in folded {
            let _ = writeln!(
                text,
                "<li>{} <span class=\"name\">{}</span> {} <span class=\"aside\">({})</span></li>",
                label(finding),
                escaped(finding.name),
                prose(&finding.headline),
                prose(&finding.found)
            );
        }
        text.push_str("</ul>\n");
    }
    text.push_str(&read_on(root));
    text.push_str("</article>\n");
    text
}

/// Severity and code; the colour repeats the word.
fn label(finding: &ReportedFinding) -> String {
    format!(
        "<span class=\"label {severity}\">{severity} <span class=\"code\">{}</span></span>",
        escaped(finding.code),
        severity = finding.severity.name()
    )
}

fn fixes(fixes: &[Fix]) -> String {
    let mut text = String::new();
    for (index, fix) in fixes.iter().enumerate() {
        if index == 0 {
            text.push_str("<h4>What to do</h4>\n<ol class=\"fixes\">\n");
        }
        let _ = write!(text, "<li>{}", prose(&fix.text));
        if let Some(command) = &fix.command {
            let _ = write!(text, "\n{}", command_block(command));
        }
        text.push_str("</li>\n");
    }
    if !fixes.is_empty() {
        text.push_str("</ol>\n");
    }
    text
}

/// A command that one click selects as a whole.
fn command_block(command: &str) -> String {
    format!("<pre class=\"command\"><code>{}</code></pre>", escaped(command))
}

fn read_on(finding: &ReportedFinding) -> String {
    let mut text = format!(
        "<p class=\"aside\">More: <code>diagnose explain {}</code></p>\n",
        escaped(finding.name)
    );
    let references = find(finding.name).map_or_else(|_| Vec::new(), crate::rules::Rule::references);
    if references.is_empty() {
        return text;
    }
    let mut links = "<ul class=\"references\">\n".to_owned();
    for reference in &references {
        let _ = writeln!(
            links,
            "<li><a href=\"{address}\" rel=\"noreferrer noopener\">{address}</a></li>",
            address = escaped(reference)
        );
    }
    links.push_str("</ul>\n");
    text.push_str(&folded("References", &links));
    text
}

/// What is worth knowing and never held against a run.
pub(super) fn notes(report: &Report) -> String {
    let mut text = String::new();
    for note in report.notes() {
        let _ = writeln!(
            text,
            "<li>{} <span class=\"name\">{}</span> {} <span class=\"aside\">({})</span></li>",
            label(note),
            escaped(note.name),
            prose(&note.headline),
            prose(&note.found)
        );
    }
    listed(&text)
}

/// Measurements that no healthy run shows and no finding accounts for.
pub(super) fn signals(report: &Report) -> String {
    let mut text = String::new();
    for signal in report.signals.iter().filter(|signal| signal.explained_by.is_none()) {
        let _ = writeln!(
            text,
            "<li><span class=\"label warning\">unexplained</span> <span class=\"name\">{}</span> {}</li>",
            escaped(signal.name),
            prose(&signal.text)
        );
    }
    listed(&text)
}

fn listed(items: &str) -> String {
    if items.is_empty() {
        return String::new();
    }
    format!("<ul class=\"folded\">\n{items}</ul>\n")
}
