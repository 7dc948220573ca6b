use std::fmt::Write as _;

use colored::{ColoredString, Colorize};

use super::check::Failure;
use super::record::{CategoryRecord, Outcome, Tally, Verification};
use crate::report::{printable, wrapped};
use crate::rules::wording::counted;

/// Width of the column of categories.
const NAMES: usize = 12;
/// Columns of the page, as those of a report.
const WIDTH: usize = 100;
/// Columns before what is said of a check.
const INDENT: usize = 4;

/// The verification for a terminal: a table by category, what was skipped and why, what is wrong.
///
/// Colour follows the `colored` crate's switch, which honours `NO_COLOR`; without colour nothing is lost.
pub fn to_text(verification: &Verification) -> String {
    let mut text = String::new();
    head(&mut text, verification);
    table(&mut text, verification);
    skipped(&mut text, verification);
    wrong(&mut text, verification);
    end(&mut text, verification);
    text
}

fn head(text: &mut String, verification: &Verification) {
    let environment = &verification.environment;
    let title = format!("mlx-diagnose {}", environment.tool_version);
    let _ = writeln!(text, "{}", title.bold());
    let machine = format!(
        "  {} ({}), {}, MLX {}, {}",
        environment.device, environment.backend, environment.dtype, environment.mlx_version, environment.platform
    );
    let _ = writeln!(text, "{}\n", printable(&machine));
}

fn table(text: &mut String, verification: &Verification) {
    let header = format!("{:<NAMES$} passed  failed  skipped  seconds", "");
    let _ = writeln!(text, "{}", header.trim_end().dimmed());
    for record in &verification.categories {
        row(text, record.category.name(), record.tally(), record.seconds());
    }
    row(text, "all", verification.tally(), verification.seconds);
}

fn row(text: &mut String, name: &str, tally: Tally, seconds: f64) {
    let failed = format!("{:>6}", tally.failed);
    let failed = if tally.failed > 0 {
        failed.red().bold()
    } else {
        failed.normal()
    };
    let _ = writeln!(
        text,
        "{name:<NAMES$} {:>6}  {failed}  {:>7}  {seconds:>7.1}",
        tally.passed, tally.skipped
    );
}

/// Checks in their categories, gathered under the reason that they share; a category of which none was made is one line.
fn skipped(text: &mut String, verification: &Verification) {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for record in &verification.categories {
        for (reason, names) in skipped_in(record) {
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, known)) => known.extend(names),
                None => reasons.push((reason, names)),
            }
        }
    }
    if reasons.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{}", "Skipped".bold());
    for (reason, names) in reasons {
        let _ = writeln!(text, "  {reason}");
        for name in names {
            let _ = writeln!(text, "    {}", name.dimmed());
        }
    }
}

/// What was skipped of a category, by reason.
fn skipped_in(record: &CategoryRecord) -> Vec<(&str, Vec<String>)> {
    let category = record.category.name();
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for check in &record.checks {
        if let Outcome::Skipped { reason } = &check.outcome {
            let name = format!("{category}: {}", check.name);
            match reasons.iter_mut().find(|(known, _)| known == reason) {
                Some((_, names)) => names.push(name),
                None => reasons.push((reason, vec![name])),
            }
        }
    }
    if let [(_, names)] = reasons.as_mut_slice()
        && names.len() == record.checks.len()
    {
        *names = vec![format!("{category}: all {}", counted(names.len(), "check"))];
    }
    reasons
}

fn wrong(text: &mut String, verification: &Verification) {
    if verification.tally().failed == 0 {
        return;
    }
    let _ = writeln!(text, "\n{}", "Failed".bold());
    for record in &verification.categories {
        for check in &record.checks {
            let place = format!("{}: {}", record.category.name(), check.name);
            match &check.outcome {
                Outcome::Failed(failure) => failure_of(text, &place, failure),
                Outcome::Crashed { error } => crash_of(text, &place, error),
                Outcome::Passed { .. } | Outcome::Skipped { .. } => {}
            }
        }
    }
}

fn failure_of(text: &mut String, place: &str, failure: &Failure) {
    let _ = writeln!(text, "  {} {place}", "failed".red().bold());
    entry(text, &"".normal(), &failure.headline);
    for found in &failure.found {
        entry(text, &"found: ".normal(), found);
    }
    if let Some(expected) = &failure.expected {
        entry(text, &"expected: ".normal(), expected);
    }
    if let Some(hint) = &failure.hint {
        entry(text, &"hint: ".cyan(), hint);
    }
}

fn crash_of(text: &mut String, place: &str, error: &str) {
    let _ = writeln!(text, "  {} {place}", "crashed".red().bold());
    entry(
        text,
        &"".normal(),
        "the check itself broke down, which says nothing about what it checks",
    );
    entry(text, &"found: ".normal(), error);
    entry(text, &"hint: ".cyan(), "report it with this output");
}

/// A label with its text, which may come from a device or a file and hold anything; continued under the text.
fn entry(text: &mut String, label: &ColoredString, content: &str) {
    let column = INDENT + label.len();
    for (index, line) in wrapped(content, WIDTH - column).iter().enumerate() {
        if index == 0 {
            let _ = writeln!(text, "{:INDENT$}{label}{line}", "");
        } else {
            let _ = writeln!(text, "{:column$}{line}", "");
        }
    }
}

fn end(text: &mut String, verification: &Verification) {
    let tally = verification.tally();
    let failed = format!("{} failed", counted(tally.failed, "check"));
    let line = match (verification.interrupted, tally.failed > 0) {
        (true, true) => format!("incomplete: interrupted before the last check; {failed}")
            .red()
            .bold(),
        (true, false) => "incomplete: interrupted before the last check".yellow(),
        (false, true) => failed.red().bold(),
        (false, false) => "every check that was made passed".green(),
    };
    let _ = writeln!(text, "\n{line}");
    let with_failures = |record: &&CategoryRecord| record.tally().failed > 0;
    if let [first, _, ..] = verification
        .categories
        .iter()
        .filter(with_failures)
        .collect::<Vec<_>>()
        .as_slice()
    {
        let name = first.category.name();
        let _ = writeln!(
            text,
            "begin with `{name}`: later categories build on what earlier ones check"
        );
    }
}
