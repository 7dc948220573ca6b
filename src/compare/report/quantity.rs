//! Numbers as people read them.

use crate::compare::Unit;
use crate::compare::analysis::thresholds::VALUES_FOR_QUARTILES;
use crate::compare::analysis::{Interval, Ratio, Summary};

/// Digits of a number that are worth reading.
const DIGITS: i32 = 3;
/// From here on, whole numbers are shown, with a comma after every three digits.
const WHOLE_FROM: f64 = 1000.0;
/// From here on, numbers are shown as powers of ten: nobody counts so many digits.
const POWERS_FROM: f64 = 1e15;
/// Durations from here on are shown in minutes and seconds.
const MINUTES_FROM: f64 = 120.0;

/// What bytes are shown in; decimal, as disks and macOS count.
const BYTES: [(f64, &str); 4] = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes")];
/// What seconds are shown in.
const SECONDS: [(f64, &str); 3] = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")];

/// What the values of an axis or of a table are divided by, and what they are then called.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    pub(super) divisor: f64,
    pub(super) name: &'static str,
}

impl Scale {
    /// The largest scale of which `value` has at least one; the whole unit for zero.
    pub(super) fn of(unit: Unit, value: f64) -> Self {
        let scales: &[(f64, &'static str)] = match unit {
            Unit::Seconds => &SECONDS,
            Unit::Bytes | Unit::BytesPerRequest => &BYTES,
            Unit::Share => &[(0.01, "%")],
            Unit::TokensPerSecond => &[(1.0, "tokens/s")],
            Unit::RequestsPerSecond => &[(1.0, "requests/s")],
            Unit::Tokens => &[(1.0, "tokens")],
            Unit::Nats => &[(1.0, "nats")],
            Unit::Count | Unit::Ratio => &[(1.0, "")],
        };
        let fits = scales.iter().find(|(size, _)| value.abs() >= *size);
        let whole = scales.iter().find(|(size, _)| *size == 1.0);
        let fallback = if value == 0.0 { whole } else { None };
        let (divisor, name) = fits.or(fallback).or(scales.last()).copied().unwrap_or((1.0, ""));
        Self { divisor, name }
    }

    /// The value in this scale.
    pub(super) fn apply(self, value: f64) -> f64 {
        value / self.divisor
    }

    fn shown(self, value: f64) -> String {
        let is_counted =
            matches!(self.name, "" | "bytes" | "tokens") && value.fract() == 0.0 && value.abs() < POWERS_FROM;
        let number = if is_counted {
            grouped(&format!("{value:.0}"))
        } else {
            digits(self.apply(value))
        };
        match self.name {
            "" => number,
            "%" => format!("{number}%"),
            name => format!("{number} {name}"),
        }
    }
}

/// A value with its unit, to three digits: `1.84 s`, `12.3 ms`, `278 tokens/s`, `538 MB`, `71.2%`.
pub(super) fn shown(unit: Unit, value: f64) -> String {
    let text = Scale::of(unit, value).shown(value);
    match unit {
        Unit::BytesPerRequest => format!("{text} per request"),
        _ => text,
    }
}

/// The median with its unit, and the quartiles in the same unit, of few values the least and the most: `1.84 s (1.80 to 1.91,
/// n = 12)`.
pub(super) fn summary(unit: Unit, summary: &Summary) -> String {
    let median = shown(unit, summary.median);
    if summary.count < 2 {
        return format!("{median} (n = {})", summary.count);
    }
    let scale = Scale::of(unit, summary.median);
    let ends = if summary.count < VALUES_FOR_QUARTILES {
        [summary.minimum, summary.maximum]
    } else {
        [summary.lower_quartile, summary.upper_quartile]
    };
    let [lower, upper] = ends.map(|value| digits(scale.apply(value)));
    format!("{median} ({lower} to {upper}, n = {})", summary.count)
}

/// An estimate with the ends of its interval: `1.05 MB per request (1.02 MB to 1.08 MB)`.
pub(super) fn interval(unit: Unit, interval: &Interval) -> String {
    let bare = |value: f64| Scale::of(unit, value).shown(value);
    format!(
        "{} ({} to {})",
        shown(unit, interval.estimate),
        bare(interval.low),
        bare(interval.high)
    )
}

/// A ratio with the ends of its interval, where it has one: `0.52 (0.48 to 0.55)`.
pub(super) fn ratio(ratio: &Ratio) -> String {
    let estimate = digits(ratio.estimate);
    match ratio.interval {
        Some([low, high]) => format!("{estimate} ({} to {})", digits(low), digits(high)),
        None => estimate,
    }
}

/// How long something took: `0.83 s`, `41.2 s`, `3 min 5 s`.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < MINUTES_FROM {
        return shown(Unit::Seconds, seconds);
    }
    let whole = seconds.round() as u64;
    match whole / 3600 {
        0 => format!("{} min {} s", whole / 60, whole % 60),
        hours => format!("{hours} h {} min", whole % 3600 / 60),
    }
}

/// A count with its noun in the right number: `1 test`, `3 tests`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", grouped(&count.to_string()))
}

/// The value to three digits, without an exponent.
pub(super) fn digits(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !value.is_finite() {
        return "not finite".to_owned();
    }
    if value.abs() >= POWERS_FROM {
        return format!("{value:.2e}");
    }
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = (DIGITS - 1 - magnitude).clamp(0, 9) as usize;
    let text = format!("{value:.decimals$}");
    if value.abs() < WHOLE_FROM { text } else { grouped(&text) }
}

fn grouped(whole: &str) -> String {
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut text = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Interval, Unit, duration, interval, shown};

    #[test]
    fn numbers_have_three_digits_and_the_unit_that_fits() {
        for (unit, value, expected) in [
            (Unit::Seconds, 1.8412, "1.84 s"),
            (Unit::Seconds, 0.012_34, "12.3 ms"),
            (Unit::Seconds, 4.5e-6, "4.50 µs"),
            (Unit::Seconds, 0.0, "0 s"),
            (Unit::Seconds, -0.012, "-12.0 ms"),
            (Unit::TokensPerSecond, 12_345.6, "12,346 tokens/s"),
            (Unit::Bytes, 538_060_672.0, "538 MB"),
            (Unit::Bytes, 0.0, "0 bytes"),
            (Unit::BytesPerRequest, 1_048_576.0, "1.05 MB per request"),
            (Unit::BytesPerRequest, -4096.0, "-4.10 kB per request"),
            (Unit::Share, 0.7123, "71.2%"),
            (Unit::Share, 0.0, "0%"),
            (Unit::Count, 7.0, "7"),
            (Unit::Count, 2.5, "2.50"),
            (Unit::Tokens, 4012.0, "4,012 tokens"),
            (Unit::Nats, f64::NAN, "not finite nats"),
            (Unit::Count, 1e300, "1.00e300"),
            (Unit::Seconds, 1e300, "1.00e300 s"),
        ] {
            assert_eq!(shown(unit, value), expected);
        }
    }

    #[test]
    fn the_ends_of_an_interval_have_units_of_their_own() {
        let slope = Interval {
            estimate: 1_048_576.0,
            low: -512.0,
            high: 2e9,
        };
        assert_eq!(
            interval(Unit::BytesPerRequest, &slope),
            "1.05 MB per request (-512 bytes to 2.00 GB)"
        );
    }

    #[test]
    fn long_times_are_shown_in_minutes_and_hours() {
        for (seconds, expected) in [
            (0.25, "250 ms"),
            (119.0, "119 s"),
            (185.4, "3 min 5 s"),
            (7380.0, "2 h 3 min"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
