use std::time::Duration;

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use super::junit_case::{case, printable_lines, skipped, unsuccessful};
use super::phase::PhaseStatus;
use super::regression;
use super::wrap::printable;
use super::{CheckOutcome, PhaseReport, Report, ReportedCheck, ReportedFinding, Verdict};
use crate::rules::{FAMILIES, Severity};

/// A report that cannot be written as XML.
#[derive(Debug, thiserror::Error)]
#[error("the report has no form in JUnit's XML: {0}")]
pub struct JunitError(#[from] quick_junit::SerializeError);

/// The report as `JUnit`'s XML: a suite for the run itself, then one for each family of rules with a case for each rule.
///
/// Errors and warnings are failures, notes pass with their text as output, and checks that could not be made are skipped.
/// What exits with 1 or 2 without a finding is a case of the first suite, so that a program which reads only this file
/// sees it too.
pub fn to_junit(report: &Report) -> Result<String, JunitError> {
    let mut document = quick_junit::Report::new("mlx-diagnose");
    document.add_test_suite(run_suite(report));
    for family in FAMILIES {
        let mut suite = TestSuite::new(format!("{}: {}", family.prefix, family.subject));
        let checks = report.checks.iter().filter(|check| family_of(check) == family.prefix);
        for check in checks {
            suite.add_test_case(check_case(report, check));
        }
        document.add_test_suite(suite);
    }
    Ok(document.to_string()?)
}

fn family_of(check: &ReportedCheck) -> &'static str {
    check
        .code
        .trim_end_matches(|character: char| character.is_ascii_digit())
}

fn run_suite(report: &Report) -> TestSuite {
    let mut suite = TestSuite::new("run");
    let properties = [
        ("headline", report.headline.as_str()),
        ("verdict", report.verdict.name()),
        ("model", report.settings.model.as_str()),
        ("data", report.settings.data.as_str()),
        ("program", report.environment.tool_version.as_str()),
    ];
    for (name, value) in properties {
        suite.add_property((name, printable(value).as_str()));
    }
    suite.add_test_case(completed(report));
    for phase in &report.phases {
        suite.add_test_case(phase_case(phase));
    }
    suite.add_test_case(signals_case(report));
    suite.add_test_cases(baseline_case(report));
    let seconds: f64 = report.phases.iter().filter_map(|phase| phase.seconds).sum();
    if let Ok(time) = Duration::try_from_secs_f64(seconds) {
        suite.set_time(time);
    }
    suite
}

fn completed(report: &Report) -> TestCase {
    let status = if report.verdict == Verdict::Incomplete {
        unsuccessful(NonSuccessKind::Error, report.verdict.name(), &report.headline, "")
    } else {
        TestCaseStatus::success()
    };
    case("run", "completed", status)
}

fn phase_case(phase: &PhaseReport) -> TestCase {
    let reason = phase.reason.as_deref().unwrap_or_default();
    let headline = reason.lines().next().unwrap_or_default();
    let status = match phase.status {
        PhaseStatus::Ran => TestCaseStatus::success(),
        PhaseStatus::Skipped => skipped(reason),
        PhaseStatus::Crashed => unsuccessful(NonSuccessKind::Error, "crashed", headline, reason),
    };
    let mut case = case("run.phase", phase.name.name(), status);
    if let Some(Ok(time)) = phase.seconds.map(Duration::try_from_secs_f64) {
        case.set_time(time);
    }
    let figures: Vec<String> = phase
        .figures
        .iter()
        .map(|figure| format!("{}: {}", figure.label, figure.text))
        .collect();
    if !figures.is_empty() {
        case.set_system_out(printable_lines(&figures.join("\n")));
    }
    case
}

fn signals_case(report: &Report) -> TestCase {
    let unknown: Vec<&str> = report
        .signals
        .iter()
        .filter(|signal| signal.explained_by.is_none())
        .map(|signal| signal.text.as_str())
        .collect();
    let status = if unknown.is_empty() {
        TestCaseStatus::success()
    } else {
        unsuccessful(
            NonSuccessKind::Failure,
            "unexplained",
            &unknown.join("; "),
            &unknown.join("\n"),
        )
    };
    case("run", "measurements explained", status)
}

fn baseline_case(report: &Report) -> Option<TestCase> {
    let comparison = report.regression.as_ref()?;
    let summary = regression::summary(comparison);
    let status = if comparison.moved.is_empty() {
        TestCaseStatus::success()
    } else {
        let mut lines: Vec<String> = regression::environment(&comparison.environment).into_iter().collect();
        let moved = comparison.moved.iter();
        lines.extend(moved.map(|movement| format!("{}: {}", movement.path, regression::moved(movement))));
        unsuccessful(NonSuccessKind::Failure, "moved", &summary, &lines.join("\n"))
    };
    Some(case("run", "as the baseline", status))
}

fn check_case(report: &Report, check: &ReportedCheck) -> TestCase {
    let finding = report.findings.iter().find(|finding| finding.name == check.name);
    let class = format!("rules.{}", family_of(check));
    match (check.outcome, finding) {
        (CheckOutcome::Found, Some(finding)) if finding.severity > Severity::Info => {
            let body = body(finding);
            let status = unsuccessful(NonSuccessKind::Failure, check.code, &finding.headline, &body);
            case(&class, check.name, status)
        }
        (CheckOutcome::Found, Some(note)) => {
            let mut case = case(&class, check.name, TestCaseStatus::success());
            let text = format!(
                "{}[{}] {}\n{}",
                note.severity.name(),
                note.code,
                note.headline,
                body(note)
            );
            case.set_system_out(printable_lines(&text));
            case
        }
        (CheckOutcome::NotApplicable, _) => {
            let reason = check.reason.as_deref().unwrap_or_default();
            case(&class, check.name, skipped(reason))
        }
        (CheckOutcome::Passed | CheckOutcome::Found, _) => case(&class, check.name, TestCaseStatus::success()),
    }
}

fn body(finding: &ReportedFinding) -> String {
    let mut lines = vec![
        format!("severity: {}", finding.severity.name()),
        format!("found: {}", finding.found),
        format!("expected: {}", finding.expected),
    ];
    lines.extend(finding.location.iter().map(|location| format!("where: {location}")));
    lines.extend(finding.explained_by.map(|root| format!("explained by: {root}")));
    for fix in &finding.fixes {
        lines.push(format!("hint: {}", fix.text));
        lines.extend(fix.command.iter().map(|command| format!("  {command}")));
    }
    lines.push(format!("more: diagnose explain {}", finding.name));
    lines.join("\n")
}
