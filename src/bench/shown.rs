//! Figures as people read them.

use super::{BenchResults, Change, Measurement, SystemDescription, Unit};
use crate::evidence::Detected;
use crate::rules::wording::grouped;

/// Digits of a figure that are worth reading.
const DIGITS: i32 = 3;

/// A value with its unit, to three digits: `1.84 s`, `12.3 ms`, `278 tokens/s`, `538 MB`, `71.2%`.
pub(super) fn shown(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Seconds => scaled(value, &[(1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")]),
        Unit::Bytes => scaled(value, &[(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes")]),
        Unit::Share => format!("{}%", digits(100.0 * value)),
        _ => format!("{} {}", digits(value), unit.name()),
    }
}

/// In the largest of `units` of which the value has one.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let fits = |(size, _): &&(f64, &str)| value.abs() >= *size;
    let smallest = units.last().copied().unwrap_or((1.0, ""));
    let zero = units.iter().find(|(size, _)| *size == 1.0).copied().unwrap_or(smallest);
    let (size, name) = match units.iter().find(fits) {
        Some(unit) => *unit,
        None if value == 0.0 => zero,
        None => smallest,
    };
    format!("{} {name}", digits(value / size))
}

/// The value to three digits, without an exponent.
fn digits(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = (DIGITS - 1 - magnitude).clamp(0, 9) as usize;
    format!("{value:.decimals$}")
}

/// The quartiles: `1.82 s to 1.86 s`, and nothing where there is one value.
pub(super) fn spread(figure: &Measurement) -> String {
    if figure.samples.values().len() < 2 {
        return String::new();
    }
    format!(
        "{} to {}",
        shown(figure.unit, figure.low),
        shown(figure.unit, figure.high)
    )
}

/// The outliers with their number, and nothing without one.
pub(super) fn outliers(figure: &Measurement) -> String {
    let values: Vec<String> = figure.outliers.iter().map(|&value| shown(figure.unit, value)).collect();
    values.join(", ")
}

/// One figure then and now: `1.84 s then, 2.10 s now, 1.14 times slower`.
pub(super) fn change(change: &Change) -> String {
    let [then, now] = [change.then, change.now].map(|value| shown(change.unit, value));
    match change.times_better {
        // To the digits that are shown they are the same.
        Some(times) if (times - 1.0).abs() < 0.005 => format!("{then} then, {now} now"),
        Some(times) if times < 1.0 => format!("{then} then, {now} now, {:.2} times worse", 1.0 / times),
        Some(times) => format!("{then} then, {now} now, {times:.2} times better"),
        None => format!("{then} then, {now} now"),
    }
}

/// The model on one line.
pub(super) fn model(results: &BenchResults) -> String {
    let model = &results.model;
    format!(
        "{}: {} with {} values, {} in {}{}",
        results.settings.model,
        model.model_type,
        grouped(model.values),
        shown(Unit::Bytes, model.bytes as f64),
        model.dtype,
        if model.packed { ", packed" } else { "" }
    )
}

/// The machine and the program on one line.
pub(super) fn system(system: &SystemDescription) -> String {
    let mut parts = vec![match (&system.processor, system.backend.as_str()) {
        (Detected::Found(processor), _) => processor.clone(),
        (Detected::Absent { .. }, _) => system.platform.clone(),
    }];
    parts.extend(system.gpu.found().cloned());
    parts.push(format!("{} cores", system.usable_cores));
    parts.extend(
        system
            .product_threads
            .found()
            .map(|threads| format!("{threads} threads for matrix products")),
    );
    parts.push(format!("MLX {} on {}", system.mlx_version, system.backend));
    parts.push(format!(
        "diagnose {}, {} build",
        system.tool_version,
        system.profile.name()
    ));
    parts.extend(
        system
            .load_average
            .found()
            .map(|[minute, ..]| format!("load {minute:.2} when it began")),
    );
    parts.join("; ")
}

/// How often things were measured.
pub(super) fn repeats(results: &BenchResults) -> String {
    let settings = &results.settings;
    let warm_ups = match settings.warm_ups {
        1 => "1 warm-up".to_owned(),
        warm_ups => format!("{warm_ups} warm-ups"),
    };
    format!(
        "median of {}, each of another round and after {warm_ups}, with the quartiles beside it",
        settings.repeats
    )
}

#[cfg(test)]
mod tests {
    use super::{Unit, shown};

    #[test]
    fn figures_have_three_digits_and_the_unit_that_fits() {
        for (unit, value, expected) in [
            (Unit::Seconds, 1.8412, "1.84 s"),
            (Unit::Seconds, 0.012_34, "12.3 ms"),
            (Unit::Seconds, 4.5e-6, "4.50 us"),
            (Unit::Seconds, 0.0, "0 s"),
            (Unit::Seconds, -0.012, "-12.0 ms"),
            (Unit::TokensPerSecond, 12_345.6, "12346 tokens/s"),
            (Unit::Bytes, 538_060_672.0, "538 MB"),
            (Unit::Bytes, 0.0, "0 bytes"),
            (Unit::Share, 0.7123, "71.2%"),
        ] {
            assert_eq!(shown(unit, value), expected);
        }
    }
}
