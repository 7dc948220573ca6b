use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::record::{CategoryRecord, CheckRecord, Outcome, Verification};
use crate::report::{JunitError, case, printable_lines, skipped, unsuccessful};

/// The verification as `JUnit`'s XML: a suite for each category, with a case for each check.
///
/// A check that is wrong is a failure, one that broke down an error.
///
/// # Errors
/// A text has no form in XML.
pub fn to_junit(verification: &Verification) -> Result<String, JunitError> {
    let mut document = Report::new("mlx-diagnose verify");
    for category in &verification.categories {
        document.add_test_suite(suite(verification, category));
    }
    Ok(document.to_string()?)
}

fn suite(verification: &Verification, category: &CategoryRecord) -> TestSuite {
    let mut suite = TestSuite::new(category.category.name());
    let environment = &verification.environment;
    let properties = [
        ("program", &environment.tool_version),
        ("mlx", &environment.mlx_version),
        ("platform", &environment.platform),
        ("backend", &environment.backend),
        ("device", &environment.device),
    ];
    for (name, value) in properties {
        suite.add_property((name, printable_lines(value).as_str()));
    }
    for check in &category.checks {
        suite.add_test_case(check_case(category, check));
    }
    if let Ok(time) = Duration::try_from_secs_f64(category.seconds()) {
        suite.set_time(time);
    }
    suite
}

fn check_case(category: &CategoryRecord, check: &CheckRecord) -> TestCase {
    let status = match &check.outcome {
        Outcome::Passed { .. } => TestCaseStatus::success(),
        Outcome::Skipped { reason } => skipped(reason),
        Outcome::Crashed { error } => {
            let headline = error.lines().next().unwrap_or_default();
            unsuccessful(NonSuccessKind::Error, "crashed", headline, error)
        }
        Outcome::Failed(failure) => {
            let found = failure.found.iter().map(|found| format!("found: {found}"));
            let expected = failure.expected.iter().map(|expected| format!("expected: {expected}"));
            let hint = failure.hint.iter().map(|hint| format!("hint: {hint}"));
            let body: Vec<String> = found.chain(expected).chain(hint).collect();
            unsuccessful(NonSuccessKind::Failure, "failed", &failure.headline, &body.join("\n"))
        }
    };
    let class = format!("verify.{}", category.category.name());
    let mut case = case(&class, &check.name, status);
    if let Outcome::Passed { detail, .. } = &check.outcome {
        case.set_system_out(printable_lines(detail));
    }
    if let Ok(time) = Duration::try_from_secs_f64(check.seconds) {
        case.set_time(time);
    }
    case
}
