use std::fmt::Write as _;

use super::summary::Summary;
use super::text::{harm, headline_figures, percent, shown, smallest};

/// The summary for a repository or an issue; `picture` is the file of the matrix, beside it.
pub fn to_markdown(summary: &Summary, picture: &str) -> String {
    let mut page = String::new();
    let _ = writeln!(page, "# Self-test\n\n{}, `{}`\n", summary.program, summary.command);
    if !summary.is_complete() {
        let _ = writeln!(
            page,
            "**Incomplete**: stopped after {} of {} runs; every figure is of these.\n",
            summary.done, summary.planned
        );
    }
    page.push_str("| figure | value, with its 95% interval (Wilson) |\n| --- | --- |\n");
    for (name, value) in headline_figures(summary) {
        let _ = writeln!(page, "| {name} | {value} |");
    }
    methods(&mut page, summary);
    let _ = writeln!(page, "\n## Faults\n\n![what was named for each fault]({picture})\n");
    operators(&mut page, summary);
    curves(&mut page, summary);
    controls(&mut page, summary);
    wrong(&mut page, summary);
    not_built(&mut page, summary);
    let times = &summary.times;
    let _ = writeln!(
        page,
        "\n## Cost\n\n{} runs in {:.0} s; median {:.2} s, longest {:.2} s.",
        summary.done, times.seconds, times.median_run, times.longest_run
    );
    page
}

fn methods(page: &mut String, summary: &Summary) {
    page.push_str(
        "\n## Against other ways to watch a run\n\nThe same runs. The others are computed from the evidence of the run, in \
         their favour where it holds less than they would see; a run that they cannot judge counts as not alarmed.\n\n\
         | method | faults found | cause named | healthy runs alarmed | not judged |\n| --- | --- | --- | --- | --- |\n",
    );
    for method in &summary.methods {
        let name = match method.source {
            Some(source) => format!("[{}]({source})", method.name.trim()),
            None => method.name.clone(),
        };
        let _ = writeln!(
            page,
            "| {name} | {} | {} | {} | {} |",
            shown(&method.found),
            method.named.as_ref().map_or_else(|| "-".to_owned(), shown),
            shown(&method.alarmed),
            method.not_judged
        );
    }
}

fn operators(page: &mut String, summary: &Summary) {
    page.push_str(
        "| fault | family | found | named | said instead | harm in longer runs | a real case |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for operator in &summary.operators {
        let instead: Vec<String> = operator
            .causes
            .iter()
            .filter(|(cause, _)| !operator.expected.contains(cause))
            .map(|(cause, count)| format!("{cause} {count}"))
            .collect();
        let _ = writeln!(
            page,
            "| `{}`: {} | {} | {}/{} | {}/{} | {} | {} | <{}> |",
            operator.name,
            operator.summary,
            operator.family,
            operator.found.count,
            operator.found.of,
            operator.named.count,
            operator.named.of,
            instead.join(", "),
            harm(&operator.harm),
            operator.citation
        );
    }
}

fn curves(page: &mut String, summary: &Summary) {
    let curved: Vec<_> = summary
        .operators
        .iter()
        .filter(|operator| operator.curve.len() > 1)
        .collect();
    if curved.is_empty() {
        return;
    }
    page.push_str(
        "\n## Severity\n\n| fault | found at each severity, mild to strong | smallest found |\n| --- | --- | --- |\n",
    );
    for operator in curved {
        let points: Vec<String> = operator
            .curve
            .iter()
            .map(|point| format!("{}: {}", point.severity, percent(&point.found)))
            .collect();
        let _ = writeln!(
            page,
            "| `{}` | {} | {} |",
            operator.name,
            points.join(", "),
            smallest(operator)
        );
    }
}

fn controls(page: &mut String, summary: &Summary) {
    page.push_str(
        "\n## Healthy runs\n\n| control | runs | errors | warnings | accused of |\n| --- | --- | --- | --- | --- |\n",
    );
    for control in &summary.controls {
        let accused: Vec<String> = control
            .accused_of
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        let _ = writeln!(
            page,
            "| `{}`: {} | {} | {} | {} | {} |",
            control.name,
            control.summary,
            control.errors.of,
            control.errors.count,
            control.warnings.count,
            accused.join(", ")
        );
    }
}

fn wrong(page: &mut String, summary: &Summary) {
    if summary.wrong.is_empty() {
        return;
    }
    page.push_str("\n## Missed, misnamed or falsely accused\n\n| run | ended | said |\n| --- | --- | --- |\n");
    for run in &summary.wrong {
        let said = match &run.error {
            Some(error) => error.lines().next().unwrap_or(error).to_owned(),
            None => run.roots.join(", "),
        };
        let _ = writeln!(page, "| {} | {} | {} |", run.run, run.ending, said.replace('|', "\\|"));
    }
}

fn not_built(page: &mut String, summary: &Summary) {
    if summary.not_built.is_empty() {
        return;
    }
    page.push_str("\n## Not built yet\n\n| fault | missing seam |\n| --- | --- |\n");
    for fault in &summary.not_built {
        let _ = writeln!(page, "| `{}` | {} |", fault.name, fault.missing);
    }
}
