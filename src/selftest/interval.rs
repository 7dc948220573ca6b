use serde::Serialize;

/// The 97.5% quantile of the standard normal distribution.
const QUANTILE: f64 = 1.959_963_984_540_054;

/// A share with Wilson's interval for 95% confidence (Wilson 1927; Newcombe 1998, method 3).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// How often it was so.
    pub count: usize,
    /// How often it could have been so.
    pub of: usize,
    /// `count / of`; `None` when there was no case.
    pub share: Option<f64>,
    /// Lower end of the interval.
    pub low: Option<f64>,
    /// Upper end of the interval.
    pub high: Option<f64>,
}

impl Rate {
    /// `count` of `of` cases.
    pub fn new(count: usize, of: usize) -> Self {
        let interval = (of > 0).then(|| wilson(count, of));
        Self {
            count,
            of,
            share: (of > 0).then(|| rounded(count as f64 / of as f64)),
            low: interval.map(|(low, _)| rounded(low)),
            high: interval.map(|(_, high)| rounded(high)),
        }
    }

    /// How often `condition` holds among `items`.
    pub fn among<T>(items: &[T], condition: impl Fn(&T) -> bool) -> Self {
        Self::new(items.iter().filter(|item| condition(item)).count(), items.len())
    }
}

fn wilson(count: usize, of: usize) -> (f64, f64) {
    let (n, p) = (of as f64, count as f64 / of as f64);
    let square = QUANTILE * QUANTILE;
    let centre = p + square / (2.0 * n);
    let half = QUANTILE * (p * (1.0 - p) / n + square / (4.0 * n * n)).sqrt();
    let scale = 1.0 + square / n;
    (((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0))
}

/// To four places, so that a report says no more than it knows.
pub fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
    #[test]
    fn intervals_are_those_that_newcombe_published() {
        for (count, of, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let rate = Rate::new(count, of);
            assert_eq!((rate.low, rate.high), (Some(low), Some(high)), "{count} of {of}");
        }
    }

    #[test]
    fn no_case_has_no_share() {
        assert_eq!(Rate::new(0, 0).share, None);
        assert_eq!(Rate::new(0, 0).high, None);
    }
}
