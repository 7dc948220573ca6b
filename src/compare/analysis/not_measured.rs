//! What could not be measured, and why.

use super::comparison::scenarios;
use super::{Comparison, NotMeasured, Samples};
use crate::compare::{Format, MemorySample, Outcome, Record, TestRecord};

/// Everything of `pair` that is missing, in the order of the scenarios.
pub(super) fn not_measured(
    record: &Record,
    samples: &Samples,
    pair: &str,
    comparisons: &[Comparison],
) -> Vec<NotMeasured> {
    let mut missing = Vec::new();
    for scenario in scenarios(record, pair) {
        let mut of_sides = Vec::new();
        for format in Format::ALL {
            let tests: Vec<&TestRecord> = record
                .tests
                .iter()
                .filter(|test| test.key.pair == pair && test.key.scenario == scenario && test.key.format == format)
                .collect();
            of_sides.extend(of_side(&tests, samples, scenario, format));
        }
        if of_sides.is_empty() {
            of_sides = one_sided(comparisons, scenario);
        }
        missing.extend(joined(of_sides));
    }
    missing
}

fn of_side(tests: &[&TestRecord], samples: &Samples, scenario: &str, format: Format) -> Vec<NotMeasured> {
    let entry = |reason: String, hint: Option<String>| NotMeasured {
        scenario: scenario.to_owned(),
        format: Some(format),
        reason,
        hint,
    };
    if tests.is_empty() {
        return vec![entry("it was not begun".to_owned(), None)];
    }
    let mut missing: Vec<NotMeasured> = Vec::new();
    for test in tests {
        let found = match &test.outcome {
            Outcome::Completed if !has_memory(test, samples) => {
                let reason = "memory: none of the server's processes could be read".to_owned();
                let hint = "run this program on the server's machine, as the user who runs the server".to_owned();
                entry(reason, Some(hint))
            }
            Outcome::Completed => continue,
            Outcome::Skipped { reason } => entry(reason.clone(), None),
            Outcome::Failed { failure } => entry(failure.reason.clone(), failure.hint.clone()),
            Outcome::Interrupted => entry("it was interrupted".to_owned(), None),
        };
        // Rounds mostly fail alike.
        if !missing.contains(&found) {
            missing.push(found);
        }
    }
    missing
}

fn has_memory(test: &TestRecord, samples: &Samples) -> bool {
    let samples = samples.get(&test.key).map_or(&[][..], Vec::as_slice);
    samples.iter().any(|sample| MemorySample::charged(sample).is_some())
}

/// Measures that decide and that only one side has, though its test was completed.
fn one_sided(comparisons: &[Comparison], scenario: &str) -> Vec<NotMeasured> {
    const DECIDING: [&str; 6] = [
        "time-to-first-token",
        "time-per-output-token",
        "throughput",
        "peak-memory",
        "ready-cold",
        "ready-warm",
    ];
    let of_scenario = comparisons.iter().filter(|comparison| comparison.scenario == scenario);
    let deciding = of_scenario.filter(|comparison| DECIDING.contains(&comparison.measure.as_str()));
    deciding
        .filter_map(|comparison| {
            let format = match (&comparison.gguf, &comparison.mlx) {
                (None, Some(_)) => Format::Gguf,
                (Some(_), None) => Format::Mlx,
                _ => return None,
            };
            let reason = format!("{} has no value", comparison.measure);
            Some(NotMeasured {
                scenario: scenario.to_owned(),
                format: Some(format),
                reason,
                hint: None,
            })
        })
        .collect()
}

/// What is missing on both sides for one reason is said once.
fn joined(of_sides: Vec<NotMeasured>) -> Vec<NotMeasured> {
    let mut joined: Vec<NotMeasured> = Vec::new();
    for missing in of_sides {
        let twin = joined.iter_mut().find(|other| {
            other
                .format
                .is_some_and(|format| missing.format == Some(format.other()))
                && (&other.reason, &other.hint) == (&missing.reason, &missing.hint)
        });
        match twin {
            Some(twin) => twin.format = None,
            None => joined.push(missing),
        }
    }
    joined
}
