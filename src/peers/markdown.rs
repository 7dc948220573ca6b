//! The comparison as a Markdown page.

use std::fmt::Write;

use super::bars::Verdict;
use super::comparison::{Comparison, ContestantReport, Figure, MeasureReport, Status};
use super::equal_work::Difference;
use crate::bench::Unit;

/// Writes the page.
pub fn to_markdown(comparison: &Comparison) -> String {
    let mut page = String::from("# diagnose beside other programs\n");
    let settings = &comparison.settings;
    let system = &comparison.system;
    let processor = system
        .processor
        .found()
        .map_or_else(|| "unknown processor".to_owned(), Clone::clone);
    line(&mut page, "");
    line(
        &mut page,
        &format!(
            "{}, {} usable cores, {}; mlx-diagnose {}, MLX {}. Model `{}`, adapters of rank {} on every linear layer of the \
             blocks; {} turns, each in a process of its own, one after the other. Medians; the spread is that of the \
             quartiles.",
            processor,
            system.usable_cores,
            system.platform,
            system.tool_version,
            system.mlx_version,
            settings.model,
            settings.rank,
            settings.turns,
        ),
    );
    if comparison.interrupted {
        line(&mut page, "");
        line(
            &mut page,
            "**Interrupted: what follows is not all that was to be measured.**",
        );
    }
    for measure in &comparison.measures {
        table(&mut page, measure, &comparison.contestants);
    }
    work(&mut page, comparison);
    bars(&mut page, comparison);
    absences(&mut page, comparison);
    page
}

fn line(page: &mut String, text: &str) {
    page.push_str(text);
    page.push('\n');
}

fn table(page: &mut String, measure: &MeasureReport, contestants: &[ContestantReport]) {
    let _ = write!(
        page,
        "\n## {}\n\n| | {} | quartiles | samples | diagnose is better by |\n| --- | ---: | ---: | ---: | ---: |\n",
        capitalised(&measure.title),
        if measure.unit == Unit::Bytes {
            "GB"
        } else {
            measure.unit.name()
        },
    );
    for figure in &measure.figures {
        line(page, &row(figure, measure.unit, contestants));
    }
}

fn row(figure: &Figure, unit: Unit, contestants: &[ContestantReport]) -> String {
    let title = title(&figure.contestant, contestants);
    let measured = &figure.measurement;
    let advantage = figure.advantage.map_or_else(|| "-".to_owned(), times);
    format!(
        "| {title} | {} | {} to {} | {} | {advantage} |",
        shown(measured.median, unit),
        shown(measured.low, unit),
        shown(measured.high, unit),
        measured.samples.values().len(),
    )
}

fn work(page: &mut String, comparison: &Comparison) {
    if comparison.work.is_empty() {
        return;
    }
    line(page, "\n## The same work\n");
    line(
        page,
        "| | work | compared with diagnose's | same |\n| --- | --- | --- | --- |",
    );
    for check in &comparison.work {
        let compared = match &check.difference {
            Difference::Losses {
                first,
                reference_first,
                steps,
                largest,
                tolerance,
            } => format!(
                "first loss {first:.4} and {reference_first:.4}; over {steps} steps {largest:.1e} apart at most, {tolerance:.0e} \
                 allowed"
            ),
            Difference::Answers { alike, of, least } => {
                format!(
                    "{alike} of {of} tokens alike from the beginning, {:.0}% needed",
                    100.0 * least
                )
            }
        };
        let same = match check.same {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "not judged: other weights or precision",
        };
        let title = title(&check.contestant, &comparison.contestants);
        line(page, &format!("| {title} | {} | {compared} | {same} |", check.workload));
    }
}

fn bars(page: &mut String, comparison: &Comparison) {
    if comparison.bars.is_empty() {
        return;
    }
    line(page, "\n## Bars\n");
    line(
        page,
        "| measure | whose | against | needed | reached | holds |\n| --- | --- | --- | ---: | ---: | --- |",
    );
    for bar in &comparison.bars {
        let reached = bar.reached.map_or_else(|| "-".to_owned(), times);
        let verdict = match bar.verdict {
            Verdict::Held => "yes",
            Verdict::Missed => "**no**",
            Verdict::NotMeasured => "not measured",
        };
        line(
            page,
            &format!(
                "| {} | {} | {} | {} | {reached} | {verdict} |",
                bar.measure,
                bar.ours,
                bar.peer,
                times(bar.needed)
            ),
        );
    }
}

fn absences(page: &mut String, comparison: &Comparison) {
    let absent: Vec<&ContestantReport> = comparison
        .contestants
        .iter()
        .filter(|contestant| contestant.status != Status::Measured)
        .collect();
    if absent.is_empty() {
        return;
    }
    line(page, "\n## Not measured\n");
    for contestant in absent {
        let word = if contestant.status == Status::Failed {
            "failed"
        } else {
            "skipped"
        };
        let Some(absence) = &contestant.absence else { continue };
        let reason = absence.reason.lines().map(str::trim).collect::<Vec<_>>().join("; ");
        let hint = absence
            .hint
            .as_ref()
            .map_or_else(String::new, |hint| format!("; hint: {hint}"));
        line(
            page,
            &format!("- {} (`{}`) {word}: {reason}{hint}", contestant.title, contestant.id),
        );
    }
}

fn title<'a>(id: &'a str, contestants: &'a [ContestantReport]) -> &'a str {
    let own = contestants.iter().find(|contestant| contestant.id == id);
    own.map_or(id, |contestant| contestant.title.as_str())
}

fn times(factor: f64) -> String {
    format!("{factor:.2}x")
}

fn shown(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => format!("{:.2}", value / 1e9),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
