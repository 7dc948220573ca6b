//! How much memory a server takes: at most, once its model is loaded, and in each part of a test.

use super::Samples;
use super::measure::Measure;
use super::statistics::median;
use crate::compare::{MemorySample, Outcome, Phase, ProcessSample, TestRecord, Unit};

/// Phase in which the model is loaded.
pub(super) const LOAD: &str = "load";
/// Phase in which it is taken out of memory.
pub(super) const UNLOAD: &str = "unload";

/// Every measure of memory of some rounds of one scenario, one value for each round that was finished.
pub(super) fn measures(tests: &[&TestRecord], samples: &Samples) -> Vec<Measure> {
    let rounds: Vec<(&TestRecord, &[MemorySample])> = tests
        .iter()
        .filter(|test| test.outcome == Outcome::Completed)
        .filter_map(|test| Some((*test, samples.get(&test.key)?.as_slice())))
        .collect();
    let bytes =
        |name: &str, title: &str, more_is_better, value: &dyn Fn(&TestRecord, &[MemorySample]) -> Option<f64>| {
            let values = rounds
                .iter()
                .filter_map(|(test, samples)| value(test, samples))
                .collect();
            Measure::new(name, title, Unit::Bytes, more_is_better, values)
        };
    let mut measures = vec![
        bytes(
            "peak-memory",
            "Peak memory of all processes",
            Some(false),
            &|_, samples| peak(samples, MemorySample::charged),
        ),
        bytes(
            "memory-after-load",
            "Memory once the model is loaded",
            Some(false),
            &after_load,
        ),
        bytes(
            "peak-anonymous-memory",
            "Peak memory that no file holds",
            None,
            &|_, samples| peak(samples, |sample| sum(sample, |process| process.anonymous)),
        ),
        bytes(
            "peak-file-memory",
            "Peak memory that files hold, mapped weights among it",
            None,
            &|_, samples| peak(samples, |sample| sum(sample, |process| process.file)),
        ),
    ];
    // While a model is taken out of memory, how much is left says when a sample was taken and nothing of the format.
    for phase in phases(tests).into_iter().filter(|phase| *phase != UNLOAD) {
        measures.push(bytes(
            &format!("peak-memory-{phase}"),
            &format!("Peak memory during {phase}"),
            Some(false),
            &|test, samples| peak(during(test, samples, phase), MemorySample::charged),
        ));
    }
    measures
}

/// Names of phases in order of appearance.
fn phases<'a>(tests: &[&'a TestRecord]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for phase in tests.iter().flat_map(|test| &test.phases) {
        if !names.contains(&phase.name.as_str()) {
            names.push(&phase.name);
        }
    }
    names
}

fn peak<'a>(
    samples: impl IntoIterator<Item = &'a MemorySample>,
    bytes: impl Fn(&MemorySample) -> Option<u64>,
) -> Option<f64> {
    samples.into_iter().filter_map(bytes).max().map(|bytes| bytes as f64)
}

fn sum(sample: &MemorySample, bytes: impl Fn(&ProcessSample) -> Option<u64>) -> Option<u64> {
    sample.processes.iter().filter_map(bytes).reduce(u64::saturating_add)
}

fn during<'a>(
    test: &'a TestRecord,
    samples: &'a [MemorySample],
    phase: &'a str,
) -> impl Iterator<Item = &'a MemorySample> {
    let contains = move |at: f64| test.phases.iter().any(|part| part.name == phase && is_in(at, part));
    samples.iter().filter(move |sample| contains(sample.at))
}

fn is_in(at: f64, phase: &Phase) -> bool {
    phase.begin <= at && at < phase.end
}

/// The median between the end of loading and whatever comes next: a request or a phase.
fn after_load(test: &TestRecord, samples: &[MemorySample]) -> Option<f64> {
    let loaded = test.phases.iter().find(|phase| phase.name == LOAD)?.end;
    let sent = test.requests.iter().map(|request| request.times.sent);
    let next = sent.filter(|&at| at >= loaded).fold(f64::INFINITY, f64::min);
    let between: Vec<f64> = samples
        .iter()
        .filter(|sample| loaded <= sample.at && sample.at < next)
        .filter_map(|sample| Some(sample.charged()? as f64))
        .collect();
    let last = || {
        samples
            .iter()
            .rev()
            .filter(|sample| sample.at < next)
            .find_map(MemorySample::charged)
    };
    median(&between).or_else(|| last().map(|bytes| bytes as f64))
}
