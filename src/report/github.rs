use std::fmt::Write as _;

use super::regression;
use super::wrap::printable;
use super::{Report, ReportedFinding, Verdict};
use crate::rules::Severity;
use crate::rules::wording::counted;

/// The report as workflow commands of GitHub Actions, one line each, which it shows as annotations; then the verdict on a
/// plain line.
///
/// Roots are errors and warnings with what they explain in their message, notes are notices. What exits with 1 or 2
/// without a finding is an error of its own.
pub fn to_github(report: &Report) -> String {
    let mut commands: Vec<String> = report
        .roots()
        .map(|root| {
            let level = match root.severity {
                Severity::Error => Level::Error,
                Severity::Warning => Level::Warning,
                Severity::Info => Level::Notice,
            };
            command(level, &title(root), &root_message(report, root))
        })
        .collect();
    for signal in report.signals.iter().filter(|signal| signal.explained_by.is_none()) {
        commands.push(command(Level::Error, signal.name, std::slice::from_ref(&signal.text)));
    }
    if report.verdict == Verdict::Incomplete {
        commands.push(command(
            Level::Error,
            report.verdict.name(),
            std::slice::from_ref(&report.headline),
        ));
    }
    let moved = baseline(report);
    let is_unmoved = moved.is_none();
    commands.extend(moved);
    for note in report.notes() {
        commands.push(command(Level::Notice, &title(note), &note_message(note)));
    }
    if report.verdict == Verdict::Healthy && is_unmoved {
        commands.push(command(
            Level::Notice,
            report.verdict.name(),
            std::slice::from_ref(&report.headline),
        ));
    }
    commands.push(plain(&format!("{}: {}", report.verdict.name(), report.headline)));
    commands.join("\n") + "\n"
}

#[derive(Clone, Copy)]
enum Level {
    Error,
    Warning,
    Notice,
}

fn command(level: Level, title: &str, lines: &[String]) -> String {
    let name = match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Notice => "notice",
    };
    format!("::{name} title={}::{}", property(title), data(lines))
}

fn title(finding: &ReportedFinding) -> String {
    format!("{} {}", finding.code, finding.name)
}

fn root_message(report: &Report, root: &ReportedFinding) -> Vec<String> {
    let mut lines = vec![
        root.headline.clone(),
        format!("found: {}", root.found),
        format!("expected: {}", root.expected),
    ];
    lines.extend(root.location.iter().map(|location| format!("where: {location}")));
    for fix in &root.fixes {
        lines.push(format!("hint: {}", fix.text));
        lines.extend(fix.command.iter().map(|command| format!("  {command}")));
    }
    let folded: Vec<String> = report
        .explained_by(root.name)
        .map(|finding| format!("{} ({})", finding.name, finding.code))
        .collect();
    if !folded.is_empty() {
        lines.push(format!("explains: {}", folded.join(", ")));
    }
    lines.push(format!("more: diagnose explain {}", root.name));
    lines
}

fn note_message(note: &ReportedFinding) -> Vec<String> {
    vec![
        note.headline.clone(),
        format!("found: {}", note.found),
        format!("more: diagnose explain {}", note.name),
    ]
}

/// One command for all values that moved: a step shows ten annotations of a level.
fn baseline(report: &Report) -> Option<String> {
    const SHOWN: usize = 12;
    let comparison = report.regression.as_ref()?;
    if comparison.moved.is_empty() {
        return None;
    }
    let mut lines = vec![regression::summary(comparison)];
    lines.extend(regression::environment(&comparison.environment));
    for movement in comparison.moved.iter().take(SHOWN) {
        lines.push(format!("{}: {}", movement.path, regression::moved(movement)));
    }
    if comparison.moved.len() > SHOWN {
        lines.push(format!("and {} more", counted(comparison.moved.len() - SHOWN, "value")));
    }
    Some(command(Level::Error, "moved from the baseline", &lines))
}

/// The message of a command, its lines joined; GitHub decodes `%25`, `%0D` and `%0A` there.
fn data(lines: &[String]) -> String {
    let lines: Vec<String> = lines
        .iter()
        .flat_map(|line| line.lines())
        .map(|line| printable(line).replace('%', "%25"))
        .collect();
    lines.join("%0A")
}

/// The value of a property, in which `:` and `,` would end it.
fn property(text: &str) -> String {
    let mut result = String::new();
    for character in text.chars() {
        match character {
            '%' | '\r' | '\n' | ':' | ',' => {
                let _ = write!(result, "%{:02X}", u32::from(character));
            }
            _ => result.push_str(&printable(character.encode_utf8(&mut [0; 4]))),
        }
    }
    result
}

/// A line that is no command in either of the forms that runners know, `::name::` at its start and `##[name]` anywhere.
fn plain(text: &str) -> String {
    let line = printable(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    line.replace("##[", "## [")
}
