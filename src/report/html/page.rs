use std::fmt::Write as _;

use super::markup::{escaped, folded, prose, section, table, unfolded};
use super::{answers, curves, findings, ranks, swap, update_map};
use crate::report::costs::{duration, probe_in_words};
use crate::report::regression;
use crate::report::text::subject;
use crate::report::{CheckOutcome, Curves, IndicatorStatus, PhaseReport, PhaseStatus, RankTable, Report, Verdict};
use crate::rules::wording::counted;

/// No request of any kind, no script: only the style that the page carries.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

const STYLE: &str = include_str!("page.css");

/// The report as one page for a browser, which needs nothing else: no script, no font, no request.
///
/// The markup is XML too, so that a strict parser reads it.
pub fn to_html(report: &Report) -> String {
    let title = format!("{}: {}", report.verdict.name(), report.headline);
    let sections = sections(report);
    let mut body = head(report, &sections);
    body.push_str("<main>\n");
    for part in &sections {
        body.push_str(&section(part.id, part.title, &part.content));
    }
    body.push_str("</main>\n");
    document(&title, &body)
}

/// The course of a training as a page of its own, as [`to_html`] makes one; `summary` says what was trained, `ranks` by which processes
/// where there were several.
pub fn curves_to_html(summary: &str, course: &Curves, ranks: Option<&RankTable>) -> String {
    let body = format!(
        "<header>\n<p class=\"program\">mlx-diagnose {} <span class=\"aside\">training</span></p>\n<h1>{}</h1>\n</header>\n\
         <main>\n{}{}</main>\n",
        env!("CARGO_PKG_VERSION"),
        escaped(summary),
        section("training", "Training", &curves::curves(course)),
        section("ranks", "Ranks", &ranks.map_or_else(String::new, ranks::ranks))
    );
    document(summary, &body)
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta \
         http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\"/>\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"/>\n<meta name=\"color-scheme\" content=\"light dark\"/>\n<meta \
         name=\"referrer\" content=\"no-referrer\"/>\n<title>{} - mlx-diagnose</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n{body}</body>\n</html>\n",
        escaped(title).replace('\n', " ")
    )
}

struct Part {
    id: &'static str,
    title: &'static str,
    content: String,
}

/// What there is to show, what matters most first.
fn sections(report: &Report) -> Vec<Part> {
    let training = report.curves.as_ref().map_or_else(String::new, curves::curves);
    let updates = report
        .update_map
        .as_ref()
        .map_or_else(String::new, update_map::update_map);
    let parts = [
        ("findings", "Findings", findings::findings(report)),
        ("signals", "Signals that no finding explains", findings::signals(report)),
        ("baseline", "Against the baseline", against_baseline(report)),
        ("notes", "Notes", findings::notes(report)),
        ("run", "Run", run(report)),
        ("indicators", "Indicators", indicators(report)),
        ("training", "Training", training),
        (
            "ranks",
            "Ranks",
            report.ranks.as_ref().map_or_else(String::new, ranks::ranks),
        ),
        ("updates", "Updates", updates),
        ("answers", "Answers", answers::answers(&report.answers)),
        (
            "swap",
            "Two by two",
            report.swap.as_ref().map_or_else(String::new, swap::swap),
        ),
        ("phases", "Phases", phases(report)),
        ("checks", "Checks", checks(report)),
        ("costs", "Costs of the probes", costs(report)),
    ];
    parts
        .into_iter()
        .filter(|(_, _, content)| !content.is_empty())
        .map(|(id, title, content)| Part { id, title, content })
        .collect()
}

fn head(report: &Report, sections: &[Part]) -> String {
    let verdict = report.verdict.name();
    let has_moved = report
        .regression
        .as_ref()
        .is_some_and(|comparison| !comparison.moved.is_empty());
    let class = match report.verdict {
        Verdict::Healthy if has_moved => "warning",
        Verdict::Healthy => "ok",
        Verdict::Findings => report.roots().next().map_or("error", |root| root.severity.name()),
        Verdict::Abnormal | Verdict::Incomplete => "warning",
    };
    let mut text = format!(
        "<header>\n<p class=\"program\">mlx-diagnose {} <span class=\"aside\">report</span></p>\n<h1><span class=\"verdict \
         {class}\">{verdict}</span> {}</h1>\n",
        escaped(&report.environment.tool_version),
        prose(&report.headline)
    );
    let mut figures = vec![checks_in_words(report)];
    let seconds: f64 = report.phases.iter().filter_map(|phase| phase.seconds).sum();
    if seconds > 0.0 {
        figures.push(format!("{} for five phases", duration(seconds)));
    }
    let _ = writeln!(text, "<p class=\"aside\">{}</p>", figures.join(" · "));
    text.push_str("<nav aria-label=\"Sections\"><ul>");
    for part in sections {
        let _ = write!(text, "<li><a href=\"#{}\">{}</a></li>", part.id, short(part));
    }
    text.push_str("</ul></nav>\n</header>\n");
    text
}

fn short(part: &Part) -> &'static str {
    match part.id {
        "signals" => "Signals",
        "baseline" => "Baseline",
        "costs" => "Costs",
        _ => part.title,
    }
}

fn checks_in_words(report: &Report) -> String {
    format!(
        "{} passed, {} found something, {} not applicable",
        counted(report.count(CheckOutcome::Passed), "check"),
        report.count(CheckOutcome::Found),
        report.count(CheckOutcome::NotApplicable)
    )
}

fn run(report: &Report) -> String {
    let environment = &report.environment;
    let reasons: Vec<String> = environment.reasons.iter().map(|reason| prose(reason)).collect();
    let outputs: Vec<String> = report
        .outputs
        .iter()
        .map(|path| format!("<code>{}</code>", escaped(&path.display().to_string())))
        .collect();
    let mut rows: Vec<(&str, String)> = subject(report)
        .into_iter()
        .map(|(name, text)| match name {
            "training" => (name, escaped(&text)),
            _ => (name, format!("<code>{}</code>", escaped(&text))),
        })
        .collect();
    rows.extend([
        (
            "device",
            escaped(&format!(
                "{} ({}), {}, MLX {}, {}",
                environment.device,
                environment.backend,
                environment.dtype,
                environment.mlx_version,
                environment.platform
            )),
        ),
        ("reasons", reasons.join("<br/>")),
        ("files", outputs.join("<br/>")),
    ]);
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    table("Run", &[], &rows, &[])
}

fn indicators(report: &Report) -> String {
    if report.settings.judges_only_inputs() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = report
        .indicators
        .iter()
        .map(|indicator| {
            let status = match indicator.status {
                IndicatorStatus::Ok => "<span class=\"status ok\">✓ ok</span>",
                IndicatorStatus::Attention => "<span class=\"status error\">✕ attention</span>",
                IndicatorStatus::NotMeasured => "<span class=\"status aside\">– none</span>",
            };
            vec![
                escaped(indicator.name),
                status.to_owned(),
                escaped(&indicator.value),
                escaped(&indicator.expected),
            ]
        })
        .collect();
    table(
        "Indicators",
        &["indicator", "status", "measured", "expected"],
        &rows,
        &[],
    )
}

fn phases(report: &Report) -> String {
    let mut text = String::new();
    let check_only = report.settings.judges_only_inputs();
    for (index, phase) in report.phases.iter().enumerate() {
        if check_only && phase.figures.is_empty() && phase.status != PhaseStatus::Crashed {
            continue;
        }
        let summary = format!(
            "<span class=\"name\">{} {}</span> {}",
            index + 1,
            phase.name.name(),
            status(phase, check_only)
        );
        let reason = phase
            .reason
            .as_deref()
            .filter(|_| !check_only || phase.status == PhaseStatus::Crashed);
        let mut content = reason.map_or_else(String::new, |reason| {
            format!("<p class=\"reason\">{}</p>\n", escaped(reason))
        });
        if !phase.figures.is_empty() {
            let rows: Vec<Vec<String>> = phase
                .figures
                .iter()
                .map(|figure| vec![escaped(figure.label), prose(&figure.text)])
                .collect();
            content.push_str(&table(phase.name.name(), &[], &rows, &[]));
        }
        if content.is_empty() {
            let _ = writeln!(text, "<p class=\"phase\">{summary}</p>");
        } else if phase.status == PhaseStatus::Crashed {
            text.push_str(&unfolded(&summary, &content));
        } else {
            text.push_str(&folded(&summary, &content));
        }
    }
    text
}

fn status(phase: &PhaseReport, check_only: bool) -> String {
    let seconds = phase
        .seconds
        .map_or_else(String::new, |seconds| format!(" in {}", duration(seconds)));
    match phase.status {
        PhaseStatus::Ran => format!("<span class=\"aside\">ran{seconds}</span>"),
        PhaseStatus::Skipped if check_only => "<span class=\"aside\">inputs checked</span>".to_owned(),
        PhaseStatus::Skipped => "<span class=\"status warning\">skipped</span>".to_owned(),
        PhaseStatus::Crashed => "<span class=\"status error\">✕ failed</span>".to_owned(),
    }
}

fn checks(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report
        .checks
        .iter()
        .map(|check| {
            let finding = report.findings.iter().find(|finding| finding.name == check.name);
            let severity = finding.map_or("error", |finding| finding.severity.name());
            let outcome = match check.outcome {
                CheckOutcome::Passed => "<span class=\"status ok\">✓ passed</span>".to_owned(),
                CheckOutcome::Found => format!("<span class=\"status {severity}\">✕ found, {severity}</span>"),
                CheckOutcome::NotApplicable => "<span class=\"status aside\">– not applicable</span>".to_owned(),
            };
            vec![
                escaped(check.code),
                escaped(check.name),
                outcome,
                check.reason.as_deref().map_or_else(String::new, prose),
            ]
        })
        .collect();
    folded(
        &checks_in_words(report),
        &table("Checks", &["code", "rule", "outcome", "reason"], &rows, &[]),
    )
}

fn against_baseline(report: &Report) -> String {
    let Some(comparison) = &report.regression else {
        return String::new();
    };
    let mut text = format!("<p>{}.</p>\n", escaped(&regression::summary(comparison)));
    if let Some(changes) = regression::environment(&comparison.environment) {
        let _ = writeln!(text, "<p>Machine: {}.</p>", escaped(&changes));
    }
    if comparison.moved.is_empty() {
        return text;
    }
    let rows: Vec<Vec<String>> = comparison
        .moved
        .iter()
        .map(|movement| {
            vec![
                format!("<code>{}</code>", escaped(&movement.path)),
                prose(&regression::moved(movement)),
            ]
        })
        .collect();
    text.push_str(&table("What moved", &["path", "moved"], &rows, &[]));
    text
}

fn costs(report: &Report) -> String {
    let costs = &report.costs;
    if costs.probes.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = costs
        .probes
        .iter()
        .map(|cost| vec![escaped(&probe_in_words(cost)), duration(cost.seconds)])
        .collect();
    folded(
        &escaped(&costs.in_all()),
        &table("Costs", &["probe", "time"], &rows, &[1]),
    )
}
