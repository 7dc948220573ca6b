//! What could not be measured, and why.

use super::comparison::scenarios;
use super::completeness::not_begun;
use super::leak::{CACHE_OFF, CACHE_ON};
use super::wording::counted;
use super::{Comparison, NotMeasured, Samples};
use crate::compare::{Format, MemorySample, Outcome, Record, TestKey, TestRecord};

/// Measures that decide, and those that a scenario is run for, with what they are called.
const EXPECTED: [(&str, &str, &str); 5] = [
    ("cold-start", "ready-cold", "time to load (files read from disk)"),
    ("cold-start", "ready-warm", "time to load (files in memory)"),
    ("simple-generation", "time-to-first-token", "time to first token"),
    ("simple-generation", "time-per-output-token", "time per output token"),
    ("simple-generation", "throughput", "throughput"),
];
const PEAK_MEMORY: &str = "peak-memory";
const MEMORY_LEAK: &str = "memory-leak";
const SEE_NOTES: &str = "the notes beside the tests may say why";

/// Everything of `pair` that is missing, in the order of the scenarios.
pub(super) fn not_measured(
    record: &Record,
    samples: &Samples,
    pair: &str,
    comparisons: &[Comparison],
) -> Vec<NotMeasured> {
    let mut missing = Vec::new();
    let not_begun = not_begun(record);
    for scenario in scenarios(record, pair) {
        let mut of_sides = Vec::new();
        for format in Format::ALL
            .into_iter()
            .filter(|format| record.plan.formats.contains(format))
        {
            let tests: Vec<&TestRecord> = record
                .tests
                .iter()
                .filter(|test| test.key.pair == pair && test.key.scenario == scenario && test.key.format == format)
                .collect();
            of_sides.extend(of_side(&tests, samples, scenario, format));
            let rounds = not_begun.iter().filter(|key| {
                let TestKey {
                    pair: of,
                    scenario: name,
                    format: side,
                    ..
                } = key;
                (of.as_str(), name.as_str(), *side) == (pair, scenario, format)
            });
            of_sides.extend(rest_not_begun(&tests, rounds.count(), scenario, format));
            if of_sides.iter().all(|one: &NotMeasured| one.format != Some(format)) {
                of_sides.extend(without_value(comparisons, scenario, format));
                of_sides.extend(caches_not_measured(&tests, scenario, format));
            }
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
            Outcome::Completed if test.memory.is_some() && !samples.contains_key(&test.key) => {
                let reason = "memory: the file of its samples is missing".to_owned();
                entry(reason, Some("put it back into `metrics`, or measure again".to_owned()))
            }
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

/// Rounds that are lacking after others: this program was killed before them.
fn rest_not_begun(tests: &[&TestRecord], rounds: usize, scenario: &str, format: Format) -> Option<NotMeasured> {
    (!tests.is_empty() && rounds > 0).then(|| NotMeasured {
        scenario: scenario.to_owned(),
        format: Some(format),
        reason: format!(
            "{} of it {} not begun",
            counted(rounds, "round"),
            if rounds == 1 { "was" } else { "were" }
        ),
        hint: Some("go on with `--resume`".to_owned()),
    })
}

/// Measures that a completed test lacks.
fn without_value(comparisons: &[Comparison], scenario: &str, format: Format) -> Vec<NotMeasured> {
    let has = |measure: &str| {
        let found = comparisons
            .iter()
            .find(|comparison| comparison.scenario == scenario && comparison.measure == measure);
        found.is_some_and(|comparison| match format {
            Format::Gguf => comparison.gguf.is_some(),
            Format::Mlx => comparison.mlx.is_some(),
        })
    };
    let expected = EXPECTED
        .iter()
        .filter(|(of, measure, _)| *of == scenario && !has(measure));
    let names = expected.map(|(_, _, name)| *name);
    let memory = (!has(PEAK_MEMORY)).then_some("peak memory");
    names
        .chain(memory)
        .map(|name| NotMeasured {
            scenario: scenario.to_owned(),
            format: Some(format),
            reason: format!("{name} has no value"),
            hint: Some(SEE_NOTES.to_owned()),
        })
        .collect()
}

/// States of the prompt cache in which a completed leak test asked nothing, as of a server whose cache cannot be turned off.
fn caches_not_measured(tests: &[&TestRecord], scenario: &str, format: Format) -> Vec<NotMeasured> {
    if scenario != MEMORY_LEAK {
        return Vec::new();
    }
    let asked = |group: &str| {
        tests
            .iter()
            .flat_map(|test| &test.requests)
            .any(|request| request.group == group)
    };
    let states = [
        (CACHE_ON, "with the prompt cache on"),
        (CACHE_OFF, "without prompt cache"),
    ];
    let missing = states.into_iter().filter(|(group, _)| !asked(group));
    missing
        .map(|(_, state)| NotMeasured {
            scenario: scenario.to_owned(),
            format: Some(format),
            reason: format!("whether memory grows {state}"),
            hint: Some(SEE_NOTES.to_owned()),
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
