//! A benchmark for a repository or an issue.

use std::fmt::Write as _;

use super::shown::{change, model, outliers, repeats, shown, spread, system};
use super::summary::not_measured;
use super::{BenchResults, Comparison, PeerComparison, Verdict};

/// The tables of all figures; `plot` is the file of the plot, beside it.
pub fn to_markdown(
    results: &BenchResults,
    comparison: Option<&Comparison>,
    pytorch: &PeerComparison,
    plot: &str,
) -> String {
    let mut page = format!(
        "# Benchmark\n\n{}\n\n{}\n\n{}; outliers lie beyond Tukey's fences.\n",
        escaped(&model(results)),
        escaped(&system(&results.system)),
        sentence(&repeats(results)),
    );
    for warning in results.system.warnings() {
        let _ = writeln!(page, "\n**Warning**: {}.", escaped(&warning));
    }
    if results.interrupted {
        page.push_str("\n**Interrupted**: what follows is what was measured until then.\n");
    }
    let _ = writeln!(page, "\n![every figure with its spread]({plot})");
    for subject in &results.subjects {
        let Some(measured) = subject.outcome.ran().filter(|measured| !measured.figures.is_empty()) else {
            continue;
        };
        let _ = writeln!(
            page,
            "\n## {}\n\n| figure | median | quartiles | outliers | what |\n| --- | ---: | --- | --- | --- |",
            sentence(&subject.title)
        );
        for figure in &measured.figures {
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {} |",
                escaped(&figure.name),
                shown(figure.unit, figure.median),
                spread(figure),
                outliers(figure),
                escaped(&figure.note)
            );
        }
    }
    let lacking = not_measured(results);
    if !lacking.is_empty() {
        page.push_str("\n## Not measured\n\n");
        for line in lacking {
            let _ = writeln!(page, "- {}", escaped(&line));
        }
    }
    match pytorch {
        PeerComparison::Skipped { reason } => {
            let _ = writeln!(page, "\n## PyTorch\n\nSkipped: {}.", escaped(reason));
        }
        PeerComparison::Measured { figures, .. } => {
            page.push_str("\n## PyTorch and others\n\n");
            page.push_str("| figure | program | median | this program is better by |\n| --- | --- | ---: | ---: |\n");
            for figure in figures {
                let advantage = figure
                    .advantage
                    .map_or_else(|| "-".to_owned(), |factor| format!("{factor:.2}x"));
                let _ = writeln!(
                    page,
                    "| {} | {} | {} | {advantage} |",
                    escaped(&figure.measure),
                    escaped(&figure.contestant),
                    shown(figure.unit, figure.median),
                );
            }
        }
    }
    if let Some(comparison) = comparison {
        compared(&mut page, comparison);
    }
    page
}

fn compared(page: &mut String, comparison: &Comparison) {
    let _ = writeln!(
        page,
        "\n## Against the baseline of {}\n\n| figure | then and now | |\n| --- | --- | --- |",
        escaped(&comparison.baseline_began)
    );
    for one in &comparison.changes {
        let verdict = match one.verdict {
            Verdict::Slower => "**slower**",
            Verdict::Faster => "faster",
            Verdict::Same => "the same",
            Verdict::NotJudged => "not judged",
        };
        let _ = writeln!(
            page,
            "| {}/{} | {} | {verdict} |",
            escaped(&one.subject),
            escaped(&one.name),
            change(one)
        );
    }
    for name in &comparison.only_then {
        let _ = writeln!(page, "\nOnly in the baseline: {}", escaped(name));
    }
    for note in &comparison.notes {
        let _ = writeln!(page, "\nNote: {}", escaped(note));
    }
}

/// With a capital at its beginning.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Text of others that cannot end a cell or begin a tag.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace(['\n', '\r'], " ")
}
