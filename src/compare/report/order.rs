//! In which order things stand in a report.

use crate::compare::{Format, Record, TestRecord};

/// Names of all scenarios: those of the plan in its order, then others that were recorded.
pub(super) fn scenarios(record: &Record) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    let recorded = record.tests.iter().map(|test| test.key.scenario.as_str());
    for name in record.plan.scenarios.iter().map(String::as_str).chain(recorded) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Tests of a pair and a scenario with a format, by round.
pub(super) fn tests<'record>(
    record: &'record Record,
    pair: &str,
    scenario: &str,
    format: Format,
) -> Vec<&'record TestRecord> {
    let mut tests: Vec<&TestRecord> = record
        .tests
        .iter()
        .filter(|test| test.key.pair == pair && test.key.scenario == scenario && test.key.format == format)
        .collect();
    tests.sort_by_key(|test| test.key.round);
    tests
}
