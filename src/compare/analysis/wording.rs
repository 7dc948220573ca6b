//! Numbers as people read them.

/// Sizes between which numbers are written out.
const LEAST_IN_FULL: f64 = 1e-6;
const MOST_IN_FULL: f64 = 1e9;

/// Bytes in powers of ten, as memory is sold and tools show it.
pub(super) fn bytes(bytes: f64) -> String {
    const UNITS: [(f64, &str); 3] = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match UNITS.into_iter().find(|&(unit, _)| bytes.abs() >= unit) {
        Some((unit, name)) => format!("{} {name}", figures(bytes / unit)),
        None => format!("{bytes:.0} B"),
    }
}

/// Bytes for each request.
pub(super) fn per_request(value: f64) -> String {
    format!("{} with each request", bytes(value))
}

/// Seconds, in milliseconds below one.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds.abs() < 1.0 {
        format!("{} ms", figures(1000.0 * seconds))
    } else {
        format!("{} s", figures(seconds))
    }
}

/// Three significant figures at least, no more than one behind the point from ten on; powers of ten where nobody counts zeros.
pub(super) fn figures(value: f64) -> String {
    // From where on rounding gives one figure more before the point.
    match value.abs() {
        size if size >= MOST_IN_FULL || (size > 0.0 && size < LEAST_IN_FULL) => format!("{value:.2e}"),
        size if size > 0.0 && size < 0.995 => {
            let behind_point = 2 - size.log10().floor() as i32;
            let least = if size < 0.01 { behind_point } else { 2 };
            format!("{value:.*}", least as usize)
        }
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A ratio: `1.8`, `0.71`, `0.0042`.
pub(super) fn ratio(value: f64) -> String {
    if (1.0..99.95).contains(&value) {
        format!("{value:.1}")
    } else {
        figures(value)
    }
}

/// `1 request`, `3 requests`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn listed(parts: &[&str]) -> String {
    match parts {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [before @ .., last] => format!("{} and {last}", before.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, listed, ratio, seconds};

    #[test]
    fn numbers_are_short() {
        assert_eq!(bytes(1_048_576.0), "1.05 MB");
        assert_eq!(bytes(145e6), "145 MB");
        assert_eq!(bytes(12.34e9), "12.3 GB");
        assert_eq!(bytes(-2048.0), "-2.05 kB");
        assert_eq!(bytes(12.0), "12 B");
        assert_eq!(seconds(0.0201), "20.1 ms");
        assert_eq!(seconds(66.7), "66.7 s");
        assert_eq!(seconds(0.099_999_9), "100 ms");
        assert_eq!(seconds(9.999_9), "10.0 s");
        assert_eq!(ratio(1.84), "1.8");
        assert_eq!(ratio(0.706), "0.71");
    }

    #[test]
    fn small_numbers_are_not_zero_and_large_ones_have_an_end() {
        assert_eq!(ratio(0.002_981), "0.00298");
        assert_eq!(seconds(0.000_000_77), "0.000770 ms");
        assert_eq!(ratio(335.1), "335");
        assert_eq!(ratio(9.2e17), "9.20e17");
        assert_eq!(seconds(1e300), "1.00e300 s");
        assert_eq!(seconds(0.0), "0.00 ms");
    }

    #[test]
    fn parts_are_joined_as_in_a_sentence() {
        assert_eq!(listed(&["a"]), "a");
        assert_eq!(listed(&["a", "b", "c"]), "a, b and c");
    }
}
