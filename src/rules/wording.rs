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

/// A number of any size in its shortest form, for example `0.05`, `1e-3` or `20`.
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

#[cfg(test)]
mod tests {
    use super::{bytes, counted, difference, factor, grouped, nats, out_of, percentage, shortest};

    #[test]
    fn counts_have_a_comma_after_every_three_digits_and_a_noun_in_their_number() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0, 1, 2000].map(|count| counted(count, "row")),
            ["0 rows", "1 row", "2,000 rows"]
        );
    }

    #[test]
    fn a_part_is_of_its_whole_and_the_whole_is_all_where_it_is_more_than_one() {
        assert_eq!(out_of(1, 3, "step"), "1 of 3 steps");
        assert_eq!(out_of(3, 3, "step"), "all 3 steps");
        assert_eq!(out_of(1, 1, "step"), "1 of 1 step");
        assert_eq!(out_of(0, 0, "step"), "0 of 0 steps");
    }

    #[test]
    fn bytes_are_in_the_largest_unit_that_leaves_one_or_more() {
        let counts = [0, 999, 1000, 1_500_000, 2_000_000_000, 3_000_000_000_000_000];
        let said = ["0 bytes", "999 bytes", "1.0 kB", "1.5 MB", "2.0 GB", "3000.0 TB"];
        assert_eq!(counts.map(bytes), said);
    }

    #[test]
    fn a_share_below_one_per_cent_has_a_digit_more() {
        let shares = [0.0, 0.004, 0.01, 0.125, 0.626, 1.0];
        assert_eq!(shares.map(percentage), ["0%", "0.4%", "1%", "12%", "63%", "100%"]);
    }

    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        let numbers = [20.0, 0.05, 0.001, 1e-5, 1e7, -2e-9];
        assert_eq!(numbers.map(shortest), ["20", "0.05", "1e-3", "1e-5", "1e7", "-2e-9"]);
    }

    #[test]
    fn a_factor_has_three_digits_at_any_size() {
        let factors = [1234.6, 100.0, 99.95, 10.0, 9.994, 1.0, 0.25, 0.1, 0.099, -3.16];
        let said = [
            "1235", "100", "100.0", "10.0", "9.99", "1.00", "0.250", "0.100", "9.9e-2", "-3.16",
        ];
        assert_eq!(factors.map(factor), said);
    }

    #[test]
    fn losses_and_differences_say_what_is_exact_small_and_not_finite() {
        assert_eq!([Some(2.9141), None].map(nats), ["2.914", "not finite"]);
        let differences = [Some(0.0), Some(2e-6), Some(0.001), Some(3.2171), None];
        assert_eq!(
            differences.map(difference),
            ["0", "2.0e-6", "0.001", "3.217", "NaN or infinity"]
        );
    }
}
