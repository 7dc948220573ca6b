use std::fmt::Write as _;

use super::costs::{duration, probe_in_words};
use super::regression;
use super::swap::{answered_by, trained_by};
use super::text::subject;
use super::wrap::printable;
use super::{CheckOutcome, IndicatorStatus, PhaseStatus, RankTable, Report, ReportedFinding};

/// The report as Markdown.
pub fn to_markdown(report: &Report) -> String {
    let sections = [
        head(report),
        findings(report),
        notes(report),
        signals(report),
        if report.settings.judges_only_inputs() {
            String::new()
        } else {
            indicators(report)
        },
        phases(report),
        ranks(report),
        answers(report),
        swap(report),
        checks(report),
        against_baseline(report),
        costs(report),
    ];
    sections
        .into_iter()
        .filter(|section| !section.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

fn head(report: &Report) -> String {
    let environment = &report.environment;
    let mut section = format!(
        "# Diagnosis: {}\n\n{}\n\n",
        report.verdict.name(),
        cell(&report.headline)
    );
    let mut rows = subject(report);
    rows.extend([
        (
            "device",
            format!(
                "{} ({}), {}, MLX {}",
                environment.device, environment.backend, environment.dtype, environment.mlx_version
            ),
        ),
        ("reasons", environment.reasons.join(" ")),
        ("program", format!("mlx-diagnose {}", environment.tool_version)),
    ]);
    section.push_str("| | |\n| --- | --- |\n");
    for (name, value) in rows {
        let _ = writeln!(section, "| {name} | {} |", cell(&value));
    }
    section
}

fn ranks(report: &Report) -> String {
    let Some(ranks) = &report.ranks else {
        return String::new();
    };
    let mut section = "## Ranks\n\n".to_owned();
    let _ = writeln!(section, "| {} |", RankTable::TITLES.join(" | "));
    let _ = writeln!(section, "| {}--- |", "---: | ".repeat(RankTable::TITLES.len() - 1));
    for line in ranks.cells() {
        let _ = writeln!(section, "| {} |", line.join(" | "));
    }
    section
}

fn findings(report: &Report) -> String {
    let mut section = String::new();
    for (index, root) in report.roots().enumerate() {
        if index == 0 {
            section.push_str("## Findings\n");
        }
        let _ = write!(section, "\n{}", finding(root, 3));
        let folded: Vec<&ReportedFinding> = report.explained_by(root.name).collect();
        if !folded.is_empty() {
            section.push_str("\nThis explains:\n\n");
        }
        for folded in folded {
            let _ = writeln!(
                section,
                "- **{}[{}]** `{}`: {} ({})",
                folded.severity.name(),
                folded.code,
                folded.name,
                prose(&folded.headline),
                prose(&folded.found)
            );
        }
    }
    section
}

fn notes(report: &Report) -> String {
    let mut section = String::new();
    for (index, note) in report.notes().enumerate() {
        if index == 0 {
            section.push_str("## Notes\n\n");
        }
        let _ = writeln!(
            section,
            "- **{}[{}]** `{}`: {}",
            note.severity.name(),
            note.code,
            note.name,
            prose(&note.headline)
        );
    }
    section
}

fn finding(finding: &ReportedFinding, level: usize) -> String {
    let mut section = format!(
        "{} {}[{}] {}\n\n{}.\n\n- found: {}\n- expected: {}\n",
        "#".repeat(level),
        finding.severity.name(),
        finding.code,
        finding.name,
        prose(&finding.headline),
        prose(&finding.found),
        prose(&finding.expected)
    );
    if let Some(location) = &finding.location {
        let _ = writeln!(section, "- where: {}", prose(location));
    }
    for fix in &finding.fixes {
        let _ = writeln!(section, "\nHint: {}.", prose(&fix.text));
        if let Some(command) = &fix.command {
            let _ = writeln!(section, "\n```sh\n{}\n```", printable(command));
        }
    }
    section
}

fn signals(report: &Report) -> String {
    let mut section = String::new();
    let unexplained = report.signals.iter().filter(|signal| signal.explained_by.is_none());
    for (index, signal) in unexplained.enumerate() {
        if index == 0 {
            section.push_str("## Signals that no finding explains\n\n");
        }
        let _ = writeln!(section, "- `{}`: {}", signal.name, prose(&signal.text));
    }
    section
}

fn indicators(report: &Report) -> String {
    let mut section = "## Indicators\n\n| | measured | expected | |\n| --- | --- | --- | --- |\n".to_owned();
    for indicator in &report.indicators {
        let status = match indicator.status {
            IndicatorStatus::Ok => "ok",
            IndicatorStatus::Attention => "**attention**",
            IndicatorStatus::NotMeasured => "",
        };
        let _ = writeln!(
            section,
            "| {} | {} | {} | {status} |",
            indicator.name,
            cell(&indicator.value),
            cell(&indicator.expected)
        );
    }
    section
}

fn phases(report: &Report) -> String {
    let mut section = "## Phases\n".to_owned();
    for (index, phase) in report.phases.iter().enumerate() {
        let seconds = phase
            .seconds
            .map_or_else(String::new, |seconds| format!(" in {seconds:.1} s"));
        let status = match phase.status {
            PhaseStatus::Ran => "ran",
            PhaseStatus::Skipped => "skipped",
            PhaseStatus::Crashed => "failed",
        };
        let _ = writeln!(section, "\n### {} {}: {status}{seconds}", index + 1, phase.name.name());
        if let Some(reason) = &phase.reason {
            let _ = writeln!(section, "\n{}", prose(reason));
        }
        if !phase.figures.is_empty() {
            section.push_str("\n| | |\n| --- | --- |\n");
        }
        for figure in &phase.figures {
            let _ = writeln!(section, "| {} | {} |", figure.label, cell(&figure.text));
        }
    }
    section
}

fn answers(report: &Report) -> String {
    const SHOWN_CHARACTERS: usize = 200;
    if report.answers.is_empty() {
        return String::new();
    }
    let mut section = "## Answers\n\n| prompt | before | after |\n| --- | --- | --- |\n".to_owned();
    for pair in &report.answers {
        let [before, after] = [&pair.before, &pair.after].map(|answer| {
            answer
                .as_ref()
                .map_or_else(String::new, |answer| cell(&answer.line(SHOWN_CHARACTERS)))
        });
        let _ = writeln!(section, "| {} | {before} | {after} |", cell(&pair.prompt));
    }
    section
}

fn swap(report: &Report) -> String {
    const SHOWN_CHARACTERS: usize = 200;
    let Some(swap) = &report.swap else {
        return String::new();
    };
    let mut section = format!("## Two by two\n\n{}.\n\n", prose(&swap.text));
    for (what, name) in swap.names() {
        let _ = writeln!(section, "- {what}: `{}`", printable(name));
    }
    let columns = swap.columns();
    let titles: Vec<&str> = columns.iter().map(|generator| answered_by(*generator)).collect();
    let _ = writeln!(
        section,
        "\n| trained by | {} |\n| --- |{}",
        titles.join(" | "),
        " --- |".repeat(titles.len())
    );
    for trainer in swap.rows() {
        let cells: Vec<String> = columns
            .iter()
            .map(|generator| {
                swap.cell(trainer, *generator)
                    .map_or_else(String::new, |found| cell(&found.text))
            })
            .collect();
        let _ = writeln!(section, "| {} | {} |", trained_by(trainer), cells.join(" | "));
    }
    if !swap.beside.is_empty() {
        section.push_str("\n| figure | theirs | reference |\n| --- | --- | --- |\n");
    }
    for figure in &swap.beside {
        let _ = writeln!(
            section,
            "| {} | {} | {} |",
            figure.what,
            cell(&figure.theirs),
            cell(&figure.reference)
        );
    }
    for (index, prompt) in swap.prompts.iter().enumerate() {
        let _ = writeln!(section, "\n{}\n", prose(prompt));
        for answered in &swap.cells {
            let _ = writeln!(
                section,
                "- {}: {}",
                answered.place(),
                prose(&answered.answer(index, SHOWN_CHARACTERS))
            );
        }
    }
    section
}

fn checks(report: &Report) -> String {
    let mut section = "## Checks\n\n| code | name | outcome |\n| --- | --- | --- |\n".to_owned();
    for check in &report.checks {
        let outcome = match (check.outcome, &check.reason) {
            (CheckOutcome::Passed, _) => "passed".to_owned(),
            (CheckOutcome::Found, _) => "**found**".to_owned(),
            (CheckOutcome::NotApplicable, Some(reason)) => format!("could not be made: {}", cell(reason)),
            (CheckOutcome::NotApplicable, None) => "could not be made".to_owned(),
        };
        let _ = writeln!(section, "| {} | {} | {outcome} |", check.code, check.name);
    }
    section
}

fn against_baseline(report: &Report) -> String {
    let Some(comparison) = &report.regression else {
        return String::new();
    };
    let mut section = format!("## Against the baseline\n\n{}.\n", regression::summary(comparison));
    if let Some(changes) = regression::environment(&comparison.environment) {
        let _ = writeln!(section, "\nMachine: {}.", prose(&changes));
    }
    if !comparison.moved.is_empty() {
        section.push_str("\n| path | moved |\n| --- | --- |\n");
    }
    for movement in &comparison.moved {
        let _ = writeln!(
            section,
            "| `{}` | {} |",
            movement.path,
            cell(&regression::moved(movement))
        );
    }
    section
}

fn costs(report: &Report) -> String {
    let costs = &report.costs;
    if costs.probes.is_empty() {
        return String::new();
    }
    let mut section = "## Costs of the probes\n\n| probe | time |\n| --- | ---: |\n".to_owned();
    for cost in &costs.probes {
        let _ = writeln!(
            section,
            "| {} | {} |",
            cell(&probe_in_words(cost)),
            duration(cost.seconds)
        );
    }
    let _ = writeln!(section, "\n{}.", costs.in_all());
    section
}

/// Text that Markdown shows as it is, on one line; code spans stay.
fn prose(text: &str) -> String {
    let line = printable(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    line.split('`')
        .enumerate()
        .map(|(index, part)| if index % 2 == 0 { escaped(part) } else { part.to_owned() })
        .collect::<Vec<_>>()
        .join("`")
}

/// Text inside a table.
fn cell(text: &str) -> String {
    prose(text).replace('|', r"\|")
}

fn escaped(text: &str) -> String {
    let mut result = String::new();
    for character in text.chars() {
        if matches!(character, '<' | '>' | '*' | '_' | '#' | '[' | ']') {
            result.push('\\');
        }
        result.push(character);
    }
    result
}
