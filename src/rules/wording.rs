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
