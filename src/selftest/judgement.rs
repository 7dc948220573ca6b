use super::catalogue::Catalogue;
use super::expected::Expectation;
use super::plan::Purpose;
use super::record::{Ending, Record, Trialled};
use crate::faults::Operator;
use crate::rules::Severity;

/// Column of the matrix for a run that nothing is held against.
pub const HEALTHY: &str = "healthy";
/// Column for a run that is not healthy, without a named cause.
pub const UNKNOWN: &str = "unknown";
/// Column for a run in which the program failed.
pub const CRASHED: &str = "crashed";

/// The cause that a run's report names: its worst root, or one of the columns above.
pub fn cause(record: &Record, expectation: Option<&Expectation>) -> &'static str {
    if let Some(root) = record.held().next() {
        return root.name;
    }
    match record.ending {
        Ending::Crashed | Ending::NotMade => CRASHED,
        Ending::Abnormal | Ending::Incomplete | Ending::Refused | Ending::Findings => UNKNOWN,
        Ending::Healthy => mild(record, expectation).unwrap_or(HEALTHY),
    }
}

/// A finding without consequence that names a fault of which no more is expected.
fn mild(record: &Record, expectation: Option<&Expectation>) -> Option<&'static str> {
    let expectation = expectation?;
    record
        .roots
        .iter()
        .find(|root| root.severity >= expectation.least && expectation.names.contains(&root.name))
        .map(|root| root.name)
}

/// Whether the user was told that something is wrong.
pub fn is_found(record: &Record, expectation: &Expectation) -> bool {
    ![HEALTHY, CRASHED].contains(&cause(record, Some(expectation)))
}

/// Whether the first cause that the report names is the right one.
pub fn is_named(record: &Record, expectation: &Expectation) -> bool {
    expectation.names.contains(&cause(record, Some(expectation)))
}

/// Whether any root names a fault; with two faults at once, one of them is not the first.
pub fn is_among_roots(record: &Record, expectation: &Expectation) -> bool {
    record
        .roots
        .iter()
        .any(|root| root.severity >= expectation.least && expectation.names.contains(&root.name))
}

/// What a healthy run was accused of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// Nothing.
    None,
    /// Warnings alone.
    Warning,
    /// An error, an unknown cause, a refusal or a failure.
    Error,
}

/// The alarm on a run.
pub fn alarm(record: &Record) -> Alarm {
    match record.ending {
        Ending::Healthy => Alarm::None,
        Ending::Findings if record.held().all(|root| root.severity < Severity::Error) => Alarm::Warning,
        _ => Alarm::Error,
    }
}

/// Whether the run is one that a reader wants to look at: a fault missed or misnamed, or a healthy run accused.
pub fn is_wrong(catalogue: &Catalogue, trialled: &Trialled) -> bool {
    let record = &trialled.record;
    let right = |operator: &Operator| {
        catalogue
            .expectation(operator)
            .is_some_and(|expectation| match expectation.names {
                [] => alarm(record) == Alarm::None,
                _ => is_named(record, expectation),
            })
    };
    match trialled.trial.purpose {
        Purpose::Fault { operator, .. } => !right(operator),
        Purpose::Control(_) => alarm(record) != Alarm::None,
        Purpose::Pair { first, on_inputs } => ![first, on_inputs].iter().any(|operator| {
            catalogue
                .expectation(operator)
                .is_some_and(|expectation| is_among_roots(record, expectation))
        }),
        Purpose::Harm(_) => record.ending == Ending::Crashed,
    }
}
