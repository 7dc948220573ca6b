use std::fmt::Write as _;

use colored::Colorize;

use super::check::Failure;
use super::record::{Outcome, Tally, Verification};
use crate::report::printable_lines;
use crate::rules::wording::counted;

/// Width of the column of categories.
const NAMES: usize = 12;

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
    let _ = writeln!(
        text,
        "  {} ({}), {}, MLX {}, {}\n",
        environment.device, environment.backend, environment.dtype, environment.mlx_version, environment.platform
    );
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

/// Names of checks in their categories, gathered under the reason that they share.
fn skipped(text: &mut String, verification: &Verification) {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for record in &verification.categories {
        for check in &record.checks {
            if let Outcome::Skipped { reason } = &check.outcome {
                let name = format!("{}: {}", record.category.name(), check.name);
                match reasons.iter_mut().find(|(known, _)| known == reason) {
                    Some((_, names)) => names.push(name),
                    None => reasons.push((reason, vec![name])),
                }
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
                Outcome::Crashed { error } => {
                    let error = printable_lines(error);
                    let _ = writeln!(text, "  {} {place}\n    found: {error}", "crashed".red().bold());
                }
                Outcome::Passed { .. } | Outcome::Skipped { .. } => {}
            }
        }
    }
}

fn failure_of(text: &mut String, place: &str, failure: &Failure) {
    // What a device or a file gave may hold anything.
    let headline = printable_lines(&failure.headline);
    let _ = writeln!(text, "  {} {place}\n    {headline}", "failed".red().bold());
    for found in &failure.found {
        let _ = writeln!(text, "    found: {}", printable_lines(found));
    }
    if let Some(expected) = &failure.expected {
        let _ = writeln!(text, "    expected: {}", printable_lines(expected));
    }
    if let Some(hint) = &failure.hint {
        let _ = writeln!(text, "    {} {}", "hint:".cyan(), printable_lines(hint));
    }
}

fn end(text: &mut String, verification: &Verification) {
    let tally = verification.tally();
    let line = if verification.interrupted {
        "incomplete: interrupted before the last check".yellow()
    } else if tally.failed > 0 {
        format!("{} failed", counted(tally.failed, "check")).red().bold()
    } else {
        "every check that was made passed".green()
    };
    let _ = writeln!(text, "\n{line}");
}
