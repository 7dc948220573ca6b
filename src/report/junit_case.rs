//! Test cases of `JUnit`'s XML whose texts cannot break it.

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus};

use super::wrap::printable;

/// A case of the class `diagnose.CLASS`.
pub(crate) fn case(class: &str, name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(format!("diagnose.{class}"));
    case
}

/// A case that was not made, and why.
pub(crate) fn skipped(reason: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_message(printable_lines(reason));
    status
}

/// A failure or an error: its kind, a line, and the rest.
pub(crate) fn unsuccessful(kind: NonSuccessKind, name: &str, message: &str, body: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_type(name);
    status.set_message(printable_lines(message));
    if !body.is_empty() {
        status.set_description(printable_lines(body));
    }
    status
}

/// The text without what XML does not allow; its lines stay.
pub(crate) fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}
