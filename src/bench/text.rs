//! A benchmark on a terminal.

use std::fmt::Write as _;

use super::shown::{change, model, outliers, repeats, shown, spread, system};
use super::summary::not_measured;
use super::{BenchResults, Comparison, SUBJECTS, Verdict};

/// The subjects with what they are about, one on each line.
pub fn list_subjects() -> String {
    let width = SUBJECTS.iter().map(|subject| subject.name.len()).max().unwrap_or(0);
    SUBJECTS.iter().fold(String::new(), |mut text, subject| {
        let _ = writeln!(text, "{:width$}  {}", subject.name, subject.title);
        text
    })
}

/// Every figure, what is lacking, and what got slower.
pub fn to_text(results: &BenchResults, comparison: Option<&Comparison>) -> String {
    let mut text = format!(
        "{}\n{}\n{}\n",
        model(results),
        system(&results.system),
        repeats(results)
    );
    for warning in results.system.warnings() {
        let _ = writeln!(text, "warning: {warning}");
    }
    if results.interrupted {
        text.push_str("interrupted: what follows is what was measured until then\n");
    }
    let names = results.figures().map(|(_, figure)| figure.name.len());
    let width = names.max().unwrap_or(0);
    for subject in &results.subjects {
        let Some(measured) = subject.outcome.ran().filter(|measured| !measured.figures.is_empty()) else {
            continue;
        };
        let _ = writeln!(text, "\n{}", subject.title);
        for figure in &measured.figures {
            let median = shown(figure.unit, figure.median);
            let mut line = format!("  {:width$}  {median:>16}  {}", figure.name, spread(figure));
            let outliers = outliers(figure);
            if !outliers.is_empty() {
                let _ = write!(line, "; outliers: {outliers}");
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    let lacking = not_measured(results);
    if !lacking.is_empty() {
        text.push_str("\nnot measured\n");
        for line in lacking {
            let _ = writeln!(text, "  {line}");
        }
    }
    if let Some(comparison) = comparison {
        compared(&mut text, comparison);
    }
    text
}

fn compared(text: &mut String, comparison: &Comparison) {
    let count = |verdict: Verdict| {
        let changes = comparison.changes.iter();
        changes.filter(|change| change.verdict == verdict).count()
    };
    let _ = writeln!(
        text,
        "\nagainst the baseline of {}: {} slower, {} faster, {} the same, {} not judged",
        comparison.baseline_began,
        count(Verdict::Slower),
        count(Verdict::Faster),
        count(Verdict::Same),
        count(Verdict::NotJudged)
    );
    for (verdict, word) in [(Verdict::Slower, "slower"), (Verdict::Faster, "faster")] {
        for one in comparison.changes.iter().filter(|change| change.verdict == verdict) {
            let _ = writeln!(text, "  {word}: {}/{}: {}", one.subject, one.name, change(one));
        }
    }
    for name in &comparison.only_then {
        let _ = writeln!(text, "  only in the baseline: {name}");
    }
    for note in &comparison.notes {
        let _ = writeln!(text, "  note: {note}");
    }
}
