//! Every measure of both formats, side by side.

use super::measure::Measure;
use super::parity::{self, Parity};
use super::statistics::ratio_of_medians;
use super::thresholds::{MARGIN, MARGIN_OF_FEW_BYTES, MARGIN_OF_FEW_TIMES, VALUES_FOR_NOISE};
use super::{Comparison, Samples, Summary, latency, memory_use, server_times};
use crate::compare::{Figure, Format, Plan, Record, TestRecord, Unit};

/// Every measure of `pair`, scenario by scenario in the order of the plan.
pub(super) fn comparisons(record: &Record, samples: &Samples, pair: &str) -> Vec<Comparison> {
    let mut comparisons = Vec::new();
    for scenario in scenarios(record, pair) {
        let of = |format| {
            let tests: Vec<&TestRecord> = record
                .tests
                .iter()
                .filter(|test| test.key.pair == pair && test.key.scenario == scenario && test.key.format == format)
                .collect();
            measures(&record.plan, scenario, &tests, samples)
        };
        let (gguf, mlx) = (of(Format::Gguf), of(Format::Mlx));
        if scenario == parity::QUALITY {
            let tests: Vec<&TestRecord> = record.tests.iter().filter(|test| test.key.pair == pair).collect();
            comparisons.extend(
                Parity::of(&tests)
                    .into_iter()
                    .flat_map(|parity| parity.comparisons(record.plan.seed)),
            );
        }
        comparisons.extend(side_by_side(scenario, &gguf, &mlx, record.plan.seed));
    }
    comparisons
}

/// Scenarios of the plan, then others that were measured.
pub(super) fn scenarios<'a>(record: &'a Record, pair: &str) -> Vec<&'a str> {
    let mut scenarios: Vec<&str> = record.plan.scenarios.iter().map(String::as_str).collect();
    for test in record.tests.iter().filter(|test| test.key.pair == pair) {
        if !scenarios.contains(&test.key.scenario.as_str()) {
            scenarios.push(&test.key.scenario);
        }
    }
    scenarios
}

/// Everything that was measured in some rounds of `scenario`; nothing without values.
fn measures(plan: &Plan, scenario: &str, tests: &[&TestRecord], samples: &Samples) -> Vec<Measure> {
    let mut measures: Vec<Measure> = Vec::new();
    let found = figures(tests)
        .into_iter()
        .chain(latency::measures(plan, scenario, tests))
        .chain([server_times::measure(tests)])
        .chain(memory_use::measures(tests, samples));
    for measure in found.filter(|measure| !measure.values.is_empty()) {
        // A scenario's own figure goes before what can be had from any.
        if measures.iter().all(|other| other.name != measure.name) {
            measures.push(measure);
        }
    }
    measures
}

/// What scenarios measured themselves, rounds pooled.
fn figures(tests: &[&TestRecord]) -> Vec<Measure> {
    let mut measures: Vec<Measure> = Vec::new();
    let figures = tests.iter().flat_map(|test| &test.figures);
    for figure in figures.filter(|figure| figure.name != parity::POSITION) {
        match measures.iter_mut().find(|measure| measure.name == figure.name) {
            Some(measure) => measure.values.extend(&figure.values),
            None => measures.push(of_figure(figure)),
        }
    }
    measures
}

fn of_figure(figure: &Figure) -> Measure {
    let title = match figure.name.as_str() {
        "ready-cold" => "Time to load, files read from disk",
        "ready-warm" => "Time to load, files in memory",
        "first-token-cold" => "From loading to the first token, files read from disk",
        "first-token-warm" => "From loading to the first token, files in memory",
        "memory-after-load" => "Memory once the model is loaded",
        _ => parity::title(figure).unwrap_or(&figure.note),
    };
    let more_is_better = match figure.unit {
        Unit::Seconds | Unit::Bytes | Unit::BytesPerRequest => Some(false),
        Unit::TokensPerSecond | Unit::RequestsPerSecond => Some(true),
        Unit::Tokens | Unit::Share | Unit::Nats | Unit::Count | Unit::Ratio => None,
    };
    Measure::new(&figure.name, title, figure.unit, more_is_better, figure.values.clone())
}

/// Measures of both sides by name, in the order of the side that has them first.
fn side_by_side(scenario: &str, gguf: &[Measure], mlx: &[Measure], seed: u64) -> Vec<Comparison> {
    let named = |measures: &[Measure], name: &str| measures.iter().position(|measure| measure.name == name);
    let only_mlx = mlx.iter().filter(|measure| named(gguf, &measure.name).is_none());
    gguf.iter()
        .chain(only_mlx)
        .map(|measure| {
            let values = |measures: &[Measure]| {
                let found = measures.iter().find(|other| other.name == measure.name);
                found.map_or_else(Vec::new, |found| found.values.clone())
            };
            compare(scenario, measure, &values(gguf), &values(mlx), seed)
        })
        .collect()
}

fn compare(scenario: &str, measure: &Measure, gguf: &[f64], mlx: &[f64], seed: u64) -> Comparison {
    // Logarithms have no zero to divide by.
    let ratio = (measure.unit != Unit::Nats)
        .then(|| ratio_of_medians(mlx, gguf, seed))
        .flatten();
    let margin = margin(gguf.len().min(mlx.len()), measure.unit);
    Comparison {
        scenario: scenario.to_owned(),
        measure: measure.name.clone(),
        title: measure.title.clone(),
        unit: measure.unit,
        more_is_better: measure.more_is_better,
        gguf: Summary::of(gguf),
        mlx: Summary::of(mlx),
        better: ratio.and_then(|ratio| {
            let ends = ratio.interval.unwrap_or_else(|| extremes(gguf, mlx));
            better(ends, measure.more_is_better?, margin)
        }),
        ratio,
    }
}

fn margin(values: usize, unit: Unit) -> f64 {
    match unit {
        _ if values >= VALUES_FOR_NOISE => MARGIN,
        Unit::Bytes | Unit::BytesPerRequest => MARGIN_OF_FEW_BYTES,
        _ => MARGIN_OF_FEW_TIMES,
    }
}

/// Which format is better where the ratio of MLX by GGUF lies between `ends`.
pub(super) fn better([low, high]: [f64; 2], more_is_better: bool, margin: f64) -> Option<Format> {
    if low > margin {
        Some(if more_is_better { Format::Mlx } else { Format::Gguf })
    } else if high < 1.0 / margin {
        Some(if more_is_better { Format::Gguf } else { Format::Mlx })
    } else {
        None
    }
}

/// The smallest and the largest ratio of two values, which stand in for an interval where there are too few for one.
fn extremes(gguf: &[f64], mlx: &[f64]) -> [f64; 2] {
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = |values: &[f64]| values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    [least(mlx) / most(gguf), most(mlx) / least(gguf)]
}
