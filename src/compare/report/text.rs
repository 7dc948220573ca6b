//! The end of a comparison on a terminal.

use std::fmt::Write as _;
use std::path::Path;

use super::files::ReportFile;
use super::markup::on_one_line;
use super::quantity::{counted, summary};
use super::wording::{confidence, failure, leak_verdict};
use crate::compare::analysis::{Analysis, PairAnalysis};
use crate::compare::{Failure, Format, Outcome, Record, TestKey};

/// Folder of the pictures.
const PLOTS: &str = "plots";

/// Verdicts, leaks, failures, and where the files are: lines that begin at the margin are headings, the rest is indented.
///
/// `files` are those of the report, none where they could not be written. Where one format alone was asked for, its medians
/// stand in place of a comparison. There is no colour in it, and nothing of others can steer a terminal.
pub fn to_text(record: &Record, analysis: &Analysis, folder: &Path, files: &[ReportFile]) -> String {
    let mut text = String::new();
    for pair in &analysis.pairs {
        write_pair(&mut text, pair);
        if let [format] = record.plan.formats[..] {
            write_medians(&mut text, pair, format);
        }
    }
    write_failures(&mut text, record);
    if record.interrupted {
        text.push_str("\ninterrupted\n  only what was measured until then is judged; `--resume` goes on\n");
    }
    let has_plots = files.iter().any(|file| file.path.starts_with(PLOTS));
    let _ = writeln!(
        text,
        "\nfiles in {}\n  {}{}metrics, test_results.json",
        on_one_line(&folder.display().to_string()),
        if files.is_empty() {
            ""
        } else {
            "report.html, report.md, "
        },
        if has_plots { "plots, " } else { "" }
    );
    text.trim_start_matches('\n').to_owned()
}

fn write_pair(text: &mut String, pair: &PairAnalysis) {
    let verdict = &pair.verdict;
    let mut line = |indent: usize, words: &str| {
        let _ = writeln!(text, "{:indent$}{}", "", on_one_line(words));
    };
    line(0, "");
    line(0, &pair.pair);
    line(2, &verdict.headline);
    line(2, &format!("confidence: {}", confidence(verdict.confidence)));
    for reason in &verdict.reasons {
        line(4, &format!("- {reason}"));
    }
    for leak in &pair.leaks {
        line(2, &format!("{}: {}", leak_verdict(leak.verdict), leak.headline));
    }
    for warning in &pair.warnings {
        line(2, &format!("warning: {warning}"));
    }
    for one in &pair.not_measured {
        let format = one.format.map_or("both formats", |format| format.title());
        line(2, &format!("not measured: {}, {format}: {}", one.scenario, one.reason));
    }
}

/// Every measure of the one format, scenario by scenario.
fn write_medians(text: &mut String, pair: &PairAnalysis, format: Format) {
    for scenario in pair.comparisons.chunk_by(|one, next| one.scenario == next.scenario) {
        let measured: Vec<String> = scenario
            .iter()
            .filter_map(|comparison| {
                let side = match format {
                    Format::Gguf => comparison.gguf.as_ref(),
                    Format::Mlx => comparison.mlx.as_ref(),
                }?;
                Some(format!("{}: {}", comparison.title, summary(comparison.unit, side)))
            })
            .collect();
        let Some(first) = scenario.first().filter(|_| !measured.is_empty()) else {
            continue;
        };
        let _ = writeln!(text, "  {}, {}", on_one_line(&first.scenario), format.title());
        for line in measured {
            let _ = writeln!(text, "    {}", on_one_line(&line));
        }
    }
}

fn write_failures(text: &mut String, record: &Record) {
    let failed_tests = record.tests.iter().filter_map(|test| match &test.outcome {
        Outcome::Failed { failure } => Some((&test.key, failure)),
        _ => None,
    });
    let failed_requests = record.tests.iter().flat_map(|test| {
        let failures = test.requests.iter().filter_map(|request| request.failure.as_ref());
        failures.map(|failure| (&test.key, failure))
    });
    let lines = [("test", alike(failed_tests)), ("request", alike(failed_requests))];
    if lines.iter().all(|(_, alike)| alike.is_empty()) {
        return;
    }
    text.push_str("\nfailures\n");
    for (noun, alike) in lines {
        for Alike {
            key,
            failure,
            count,
            scenarios,
        } in alike
        {
            let line = format!(
                "{}, {}, {}: {}: {}",
                key.pair,
                key.format.title(),
                scenarios.join(", "),
                counted(count, noun),
                in_words(failure)
            );
            let _ = writeln!(text, "  {}", on_one_line(&line));
        }
    }
}

/// What went wrong in the same way with one format of a pair.
struct Alike<'record> {
    key: &'record TestKey,
    failure: &'record Failure,
    count: usize,
    scenarios: Vec<&'record str>,
}

/// Failures, each once, in the order in which they came up first.
fn alike<'record>(failures: impl Iterator<Item = (&'record TestKey, &'record Failure)>) -> Vec<Alike<'record>> {
    let mut all: Vec<Alike> = Vec::new();
    for (key, failure) in failures {
        let scenario = key.scenario.as_str();
        let same = |one: &&mut Alike| (&one.key.pair, one.key.format, one.failure) == (&key.pair, key.format, failure);
        match all.iter_mut().find(same) {
            Some(one) => {
                one.count += 1;
                if !one.scenarios.contains(&scenario) {
                    one.scenarios.push(scenario);
                }
            }
            None => all.push(Alike {
                key,
                failure,
                count: 1,
                scenarios: vec![scenario],
            }),
        }
    }
    all
}

fn in_words(one: &Failure) -> String {
    let hint = one
        .hint
        .as_ref()
        .map_or_else(String::new, |hint| format!("; hint: {hint}"));
    format!("{}: {}{hint}", failure(one.kind), one.reason)
}
