use std::fmt::Write as _;

use super::catalogue::Catalogue;
use super::interval::Rate;
use super::summary::{HarmShown, Matrix, OperatorSummary, Summary};
use crate::rules::wording::counted;

/// Wrong runs that are shown; the JSON has all of them.
const SHOWN_WRONG: usize = 25;

/// The summary for a terminal, within 100 columns.
pub fn to_text(summary: &Summary) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}\n{}\n", summary.program, summary.command);
    if !summary.is_complete() {
        let _ = writeln!(
            text,
            "INCOMPLETE: stopped after {} of {} runs; every figure is of these\n",
            summary.done, summary.planned
        );
    }
    totals(&mut text, summary);
    methods(&mut text, summary);
    operators(&mut text, summary);
    controls(&mut text, summary);
    text.push_str("\nWhat was named (rows: what was so; only counts above zero)\n");
    matrix(&mut text, &summary.matrix);
    wrong(&mut text, summary);
    if !summary.not_built.is_empty() {
        text.push_str("\nNot built yet\n");
        for fault in &summary.not_built {
            let _ = writeln!(text, "  {:<36} needs {}", fault.name, fault.missing);
        }
    }
    let times = &summary.times;
    let _ = writeln!(
        text,
        "\n{} in {:.0} s; a run takes {:.2} s (median) to {:.2} s; its probes {}",
        counted(summary.done, "run"),
        times.seconds,
        times.median_run,
        times.longest_run,
        times.median_probe_share.map_or_else(
            || "were not timed".to_owned(),
            |share| format!("{:.0}% of the rest", 100.0 * share)
        )
    );
    text
}

/// Everything that a self-test can do, a line each.
pub fn list(catalogue: &Catalogue) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "Faults: name, severities from mild to the reference, summary");
    for operator in catalogue.operators {
        let severities: Vec<String> = operator.severities.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "  {:<28} {:<16} {}: {}",
            operator.name,
            severities.join(","),
            operator.family.name(),
            operator.summary
        );
    }
    let _ = writeln!(text, "\nBenign mutants");
    for operator in catalogue.benign {
        let _ = writeln!(text, "  {:<28} {}", operator.name, operator.summary);
    }
    let _ = writeln!(text, "\nHealthy controls");
    for control in catalogue.controls {
        let _ = writeln!(text, "  {:<28} {}", control.name, control.summary);
    }
    let _ = writeln!(text, "\nNot built yet");
    for fault in catalogue.not_built {
        let _ = writeln!(text, "  {:<28} needs {}", fault.name, fault.missing);
    }
    text
}

/// `count/of`, share and interval, for example `81/263  30.8% [25.5, 36.6]`.
pub fn shown(rate: &Rate) -> String {
    match (rate.share, rate.low, rate.high) {
        (Some(share), Some(low), Some(high)) => format!(
            "{}/{}  {:.1}% [{:.1}, {:.1}]",
            rate.count,
            rate.of,
            100.0 * share,
            100.0 * low,
            100.0 * high
        ),
        _ => "no case".to_owned(),
    }
}

/// The figures that matter most, by name.
pub fn headline_figures(summary: &Summary) -> Vec<(&'static str, String)> {
    let faults = &summary.faults;
    vec![
        (
            "operators found in every cell",
            format!("{} of {}", faults.operators_always_found, faults.operators),
        ),
        ("faults found", shown(&faults.found)),
        ("right cause named first", shown(&faults.named)),
        ("faults found, of harmful ones", shown(&faults.found_of_harmful)),
        ("right cause, of harmful ones", shown(&faults.named_of_harmful)),
        ("healthy runs with an error", shown(&summary.healthy.errors)),
        ("healthy runs with a warning", shown(&summary.healthy.warnings)),
        (
            "benign mutants alarmed on",
            shown(&summary.healthy.benign_mutants_alarmed),
        ),
        ("cured by the fix itself", shown(&summary.cures.by_fix)),
        ("cured by repair of the code", shown(&summary.cures.by_repair)),
        ("pairs: both faults are roots", shown(&summary.pairs.both)),
        ("pairs: one of them", shown(&summary.pairs.one)),
        ("pairs: none", shown(&summary.pairs.none)),
    ]
}

fn totals(text: &mut String, summary: &Summary) {
    for (name, value) in headline_figures(summary) {
        let _ = writeln!(text, "  {name:<32} {value}");
    }
    for cure in &summary.cures.failed {
        let left = if cure.roots.is_empty() {
            "nothing named".to_owned()
        } else {
            cure.roots.join(", ")
        };
        let _ = writeln!(
            text,
            "  not cured: {}: fix of {}, then {}: {left}",
            cure.run, cure.rule, cure.ending
        );
    }
}

fn methods(text: &mut String, summary: &Summary) {
    let _ = writeln!(
        text,
        "\n{:<56} {:>7} {:>7} {:>8}",
        "Method", "found", "named", "alarmed"
    );
    for method in &summary.methods {
        let _ = writeln!(
            text,
            "{:<56} {:>7} {:>7} {:>8}",
            method.name,
            percent(&method.found),
            method.named.as_ref().map_or_else(|| "-".to_owned(), percent),
            percent(&method.alarmed)
        );
    }
    text.push_str("found and named: of fault runs; alarmed: of healthy runs, which is always wrong\n");
}

/// The share alone, for example `98.7%`.
pub fn percent(rate: &Rate) -> String {
    rate.share
        .map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", 100.0 * share))
}

fn operators(text: &mut String, summary: &Summary) {
    if summary.operators.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n{:<36} {:>7} {:>7} {:>9}  harm",
        "Operator", "found", "named", "smallest"
    );
    for operator in &summary.operators {
        let _ = writeln!(
            text,
            "{:<36} {:>7} {:>7} {:>9}  {}",
            operator.name,
            format!("{}/{}", operator.found.count, operator.found.of),
            format!("{}/{}", operator.named.count, operator.named.of),
            smallest(operator),
            harm(&operator.harm)
        );
    }
}

/// The smallest severity found, as a cell of a table.
pub fn smallest(operator: &OperatorSummary) -> String {
    operator
        .smallest_found
        .map_or_else(|| "none".to_owned(), |severity| format!("{severity}"))
}

/// The harm in a few words.
pub fn harm(harm: &HarmShown) -> String {
    match harm {
        HarmShown::NotMeasured => "not measured".to_owned(),
        HarmShown::NotShown => "not shown (benign)".to_owned(),
        HarmShown::Shown(harm) => match harm.difference {
            Some(difference) => format!("{} +{difference:.2}", harm.measure),
            None => format!("{} lost", harm.measure),
        },
    }
}

fn controls(text: &mut String, summary: &Summary) {
    if summary.controls.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n{:<36} {:>5} {:>7} {:>9}",
        "Healthy control", "runs", "errors", "warnings"
    );
    for control in &summary.controls {
        let accused: Vec<String> = control
            .accused_of
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        let line = format!(
            "{:<36} {:>5} {:>7} {:>9}  {}",
            control.name,
            control.errors.of,
            control.errors.count,
            control.warnings.count,
            accused.join(", ")
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn matrix(text: &mut String, matrix: &Matrix) {
    for (row, counts) in matrix.rows.iter().zip(&matrix.counts) {
        let said: Vec<String> = matrix
            .columns
            .iter()
            .zip(counts)
            .filter(|(_, count)| **count > 0)
            .map(|(column, count)| format!("{column} {count}"))
            .collect();
        let _ = writeln!(text, "  {row:<36} {}", said.join(", "));
    }
}

fn wrong(text: &mut String, summary: &Summary) {
    if summary.wrong.is_empty() {
        return;
    }
    let _ = writeln!(text, "\nMissed, misnamed or falsely accused: {}", summary.wrong.len());
    for run in summary.wrong.iter().take(SHOWN_WRONG) {
        let said = match (&run.error, run.roots.as_slice()) {
            (Some(error), _) => error.lines().next().unwrap_or(error).to_owned(),
            (None, []) => "nothing named".to_owned(),
            (None, roots) => roots.join(", "),
        };
        let _ = writeln!(text, "  {}: {}: {said}", run.run, run.ending);
    }
    if summary.wrong.len() > SHOWN_WRONG {
        let _ = writeln!(text, "  and {} more", summary.wrong.len() - SHOWN_WRONG);
    }
}
