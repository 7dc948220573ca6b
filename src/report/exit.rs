use super::{Report, Verdict};
use crate::rules::Severity;

/// The run is healthy, or found only what is milder than `--fail-on`.
pub const EXIT_HEALTHY: u8 = 0;

/// The run found a fault at or above `--fail-on`, is abnormal for an unknown cause, or moved from its baseline.
pub const EXIT_FAULT: u8 = 1;

/// The run could not be completed: a phase failed, or it was interrupted.
pub const EXIT_INCOMPLETE: u8 = 2;

/// From which severity on findings fail a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailOn {
    /// Only errors, and abnormal runs.
    Error,
    /// Warnings too.
    Warning,
    /// Nothing that was found; only a run that could not complete.
    Never,
}

/// The exit code of a run with this report.
pub fn exit_code(report: &Report, fail_on: FailOn) -> u8 {
    let moved = report
        .regression
        .as_ref()
        .is_some_and(|comparison| !comparison.moved.is_empty());
    let limit = match (report.verdict, fail_on) {
        (Verdict::Incomplete, _) => return EXIT_INCOMPLETE,
        (_, FailOn::Never) => return EXIT_HEALTHY,
        _ if moved => return EXIT_FAULT,
        (Verdict::Healthy, _) => return EXIT_HEALTHY,
        (Verdict::Abnormal, _) => return EXIT_FAULT,
        (Verdict::Findings, FailOn::Error) => Severity::Error,
        (Verdict::Findings, FailOn::Warning) => Severity::Warning,
    };
    if report.findings.iter().any(|finding| finding.severity >= limit) {
        EXIT_FAULT
    } else {
        EXIT_HEALTHY
    }
}
