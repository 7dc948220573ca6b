//! Numbers as findings and reports print them.

/// Below this a number with three digits after the point would look like zero.
const SMALLEST_IN_PLAIN_FORM: f64 = 1e-3;

/// A count with its noun in the right number, for example `1 step` or `3 steps`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", grouped(count as u64))
}

/// A count with a comma after every three digits.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves a number above one.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    const STEP: f64 = 1000.0;
    let mut value = count as f64;
    let mut unit = "bytes";
    for larger in UNITS {
        if value < STEP {
            break;
        }
        value /= STEP;
        unit = larger;
    }
    if unit == "bytes" {
        format!("{count} bytes")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// A part of a count with its noun, for example `1 of 3 steps` or `all 3 steps`.
pub(crate) fn out_of(part: usize, all: usize, noun: &str) -> String {
    if part == all && all > 1 {
        return format!("all {}", counted(all, noun));
    }
    format!("{} of {}", grouped(part as u64), counted(all, noun))
}

/// A share as a percentage, for example `12%`; below one per cent with one digit after the point.
pub(crate) fn percentage(share: f64) -> String {
    let percent = 100.0 * share;
    if percent > 0.0 && percent < 1.0 {
        format!("{percent:.1}%")
    } else {
        format!("{percent:.0}%")
    }
}

/// A loss in nats, or `not finite`.
pub(crate) fn nats(loss: Option<f64>) -> String {
    match loss {
        Some(value) => format!("{value:.3}"),
        None => "not finite".to_owned(),
    }
}

/// A number of any size in its shortest form, for example `0.001`, `1e-5` or `20`.
pub(crate) fn shortest(value: f64) -> String {
    let plain = value.to_string();
    let scientific = format!("{value:e}");
    if scientific.len() < plain.len() {
        scientific
    } else {
        plain
    }
}

/// A difference between logits: 0 is exact, the rest to three digits after the point or in scientific form; `None` is
/// not finite.
pub(crate) fn difference(value: Option<f64>) -> String {
    let Some(value) = value else {
        return "NaN or infinity".to_owned();
    };
    if value == 0.0 {
        "0".to_owned()
    } else if value < SMALLEST_IN_PLAIN_FORM {
        format!("{value:.1e}")
    } else {
        format!("{value:.3}")
    }
}

/// A factor or a share in three digits, for example `0.251`, `3.16` or `1.2e-5`.
pub(crate) fn factor(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.1 => 3,
        _ => return format!("{value:.1e}"),
    };
    format!("{value:.digits$}")
}
