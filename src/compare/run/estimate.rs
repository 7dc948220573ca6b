//! How long the rest of a comparison takes.

use crate::compare::{Outcome, TestKey, TestRecord};

/// What the tests that are left will take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Remaining {
    /// Seconds, by finished tests of the same kind.
    pub seconds: f64,
    /// Tests of kinds that none was finished of yet, which `seconds` does not hold.
    pub unknown: usize,
}

impl Remaining {
    /// By finished tests of the same pair and scenario: with the same format where there are any, else with the other one.
    pub fn of(finished: &[TestRecord], left: &[TestKey]) -> Self {
        let mut remaining = Self {
            seconds: 0.0,
            unknown: 0,
        };
        for key in left.iter().filter(|key| !finished.iter().any(|test| test.key == **key)) {
            let same_kind = |test: &&TestRecord| {
                let is_same = (&test.key.pair, &test.key.scenario) == (&key.pair, &key.scenario);
                is_same && matches!(test.outcome, Outcome::Completed | Outcome::Skipped { .. })
            };
            let same_format = |test: &&TestRecord| same_kind(test) && test.key.format == key.format;
            let mean = mean(finished.iter().filter(same_format)).or_else(|| mean(finished.iter().filter(same_kind)));
            match mean {
                Some(seconds) => remaining.seconds += seconds,
                None => remaining.unknown += 1,
            }
        }
        remaining
    }
}

fn mean<'test>(tests: impl Iterator<Item = &'test TestRecord>) -> Option<f64> {
    let seconds: Vec<f64> = tests.map(|test| test.seconds).collect();
    (!seconds.is_empty()).then(|| seconds.iter().sum::<f64>() / seconds.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::Remaining;
    use crate::compare::{Format, Outcome, TestKey, TestRecord};

    fn key(scenario: &str, format: Format, round: usize) -> TestKey {
        TestKey {
            pair: "pair".to_owned(),
            scenario: scenario.to_owned(),
            format,
            round,
        }
    }

    fn finished(key: TestKey, seconds: f64) -> TestRecord {
        TestRecord {
            seconds,
            ..TestRecord::empty(key, Outcome::Completed)
        }
    }

    #[test]
    fn tests_take_as_long_as_those_of_their_kind_did() {
        let done = [
            finished(key("a", Format::Gguf, 0), 10.0),
            finished(key("a", Format::Mlx, 0), 30.0),
        ];
        let left = [key("a", Format::Mlx, 1), key("a", Format::Gguf, 1)];
        let remaining = Remaining::of(&done, &left);
        assert_eq!(
            remaining,
            Remaining {
                seconds: 40.0,
                unknown: 0
            }
        );
    }

    #[test]
    fn the_other_format_is_better_than_nothing_and_unknown_kinds_are_told() {
        let done = [finished(key("a", Format::Gguf, 0), 10.0)];
        let left = [
            key("a", Format::Mlx, 0),
            key("b", Format::Gguf, 0),
            key("b", Format::Mlx, 0),
        ];
        let remaining = Remaining::of(&done, &left);
        assert_eq!(
            remaining,
            Remaining {
                seconds: 10.0,
                unknown: 2
            }
        );
    }

    #[test]
    fn what_is_finished_is_not_left() {
        let done = [finished(key("a", Format::Gguf, 0), 10.0)];
        let remaining = Remaining::of(&done, &[key("a", Format::Gguf, 0)]);
        assert_eq!(
            remaining,
            Remaining {
                seconds: 0.0,
                unknown: 0
            }
        );
    }
}
