//! Whether everything was measured that was asked for.

use super::Samples;
use super::latency::has_failed;
use super::measure::measured;
use super::thresholds::FAILED_SHARE;
use crate::compare::scenarios::SCENARIOS;
use crate::compare::{Format, Outcome, Plan, Record, TestKey, TestRecord};

/// Whether each test of the plan was ended as it should, one of them at least with something measured, and no sample of memory
/// was lost since.
pub fn is_complete(record: &Record, samples: &Samples) -> bool {
    let is_whole = |test: &TestRecord| !lacks(test) && (test.memory.is_none() || samples.contains_key(&test.key));
    let is_measured = |test: &TestRecord| test.outcome == Outcome::Completed;
    !record.interrupted
        && not_begun(record).is_empty()
        && record.tests.iter().all(is_whole)
        && record.tests.iter().any(is_measured)
}

/// Whether a test is to be run again: it failed, was ended early, or too many of its requests failed.
pub fn lacks(test: &TestRecord) -> bool {
    match test.outcome {
        Outcome::Failed { .. } | Outcome::Interrupted => true,
        Outcome::Skipped { .. } => false,
        Outcome::Completed => {
            let all = measured(&[test]).count();
            let failed = measured(&[test]).filter(|request| has_failed(request)).count();
            failed as f64 > FAILED_SHARE * all as f64
        }
    }
}

/// Tests of the plan that the record does not have, as when this program was killed.
pub(super) fn not_begun(record: &Record) -> Vec<TestKey> {
    let plan = &record.plan;
    let mut missing = Vec::new();
    for (pair, scenario) in plan
        .pairs
        .iter()
        .flat_map(|pair| plan.scenarios.iter().map(move |name| (pair, name)))
    {
        for format in Format::ALL.into_iter().filter(|format| plan.formats.contains(format)) {
            let keys = (0..rounds(plan, scenario)).map(|round| TestKey {
                pair: pair.name.clone(),
                scenario: scenario.clone(),
                format,
                round,
            });
            missing.extend(keys.filter(|key| record.tests.iter().all(|test| test.key != *key)));
        }
    }
    missing
}

/// How often a scenario is run with each format; one that this program does not know is tried once.
pub(super) fn rounds(plan: &Plan, scenario: &str) -> usize {
    let known = SCENARIOS.iter().find(|known| known.name() == scenario);
    known.map_or(1, |known| known.rounds(plan))
}
