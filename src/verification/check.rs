use serde::{Deserialize, Serialize};

use super::golden_files::GoldenModel;
use super::session::Session;
use super::tolerance::Tolerance;
use crate::double_precision::relative_error;

/// One check of a category.
#[derive(Debug)]
pub(super) struct Check {
    /// What is checked, in words.
    pub(super) name: &'static str,
    /// How.
    pub(super) work: Work,
}

/// The function of a check.
#[derive(Debug)]
pub(super) enum Work {
    /// Made once.
    Once(fn(&Session<'_>) -> CheckResult),
    /// Made with each model that the program carries for it.
    ForEachModel(fn(&Session<'_>, &'static GoldenModel) -> CheckResult),
}

impl Check {
    pub(super) const fn once(name: &'static str, work: fn(&Session<'_>) -> CheckResult) -> Self {
        Self {
            name,
            work: Work::Once(work),
        }
    }

    pub(super) const fn for_each_model(
        name: &'static str,
        work: fn(&Session<'_>, &'static GoldenModel) -> CheckResult,
    ) -> Self {
        Self {
            name,
            work: Work::ForEachModel(work),
        }
    }
}

/// How a check ended that did not break down.
pub(super) type CheckResult = Result<Passed, NotPassed>;

/// All was as it should be.
#[derive(Debug)]
pub(super) struct Passed {
    /// What was compared or found, in a few words.
    pub(super) detail: String,
    /// How far off it was, where that has a size.
    pub(super) deviation: Option<Deviation>,
}

/// An error beside the one that is allowed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviation {
    /// The largest error.
    pub error: f64,
    /// The largest that passes.
    pub allowed: f64,
    /// What both are a share or a number of, as `of the largest value` of its array, or `nats`.
    pub measure: String,
}

/// Something was not as it should be, or could not be looked at.
#[derive(Debug)]
pub(super) enum NotPassed {
    /// It is wrong.
    Failed(Failure),
    /// It does not apply here: one sentence without a final period.
    Skipped(String),
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// One line that stands alone.
    pub headline: String,
    /// What was found, one entry for each kind.
    pub found: Vec<String>,
    /// What should have been there; `None` where the headline says it.
    pub expected: Option<String>,
    /// What to do; `None` where nothing is known to help.
    pub hint: Option<String>,
}

impl Failure {
    /// Takes an error message apart, which is a headline and lines that begin with `found:`, `expected:` and `hint:`.
    fn of_message(message: &str) -> Self {
        let mut lines = message.lines();
        let mut failure = Self {
            headline: lines.next().unwrap_or_default().to_owned(),
            found: Vec::new(),
            expected: None,
            hint: None,
        };
        for line in lines.map(str::trim) {
            if let Some(expected) = line.strip_prefix("expected: ") {
                failure.expected = Some(expected.to_owned());
            } else if let Some(hint) = line.strip_prefix("hint: ") {
                failure.hint = Some(hint.to_owned());
            } else {
                failure
                    .found
                    .push(line.strip_prefix("found: ").unwrap_or(line).to_owned());
            }
        }
        failure
    }
}

/// Every error of the program, and of MLX, is a failure of the check that met it.
impl<E: std::error::Error> From<E> for NotPassed {
    fn from(error: E) -> Self {
        Self::Failed(Failure::of_message(&error.to_string()))
    }
}

/// A check passed that compared exactly.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the last expression of a check, as `skipped` is"
)]
pub(super) fn passed(detail: impl Into<String>) -> CheckResult {
    Ok(Passed {
        detail: detail.into(),
        deviation: None,
    })
}

/// A check that does not apply here.
pub(super) fn skipped(reason: impl Into<String>) -> CheckResult {
    Err(NotPassed::Skipped(reason.into()))
}

/// A check that failed.
pub(super) fn failed(
    headline: impl Into<String>,
    found: impl Into<String>,
    expected: impl Into<String>,
    hint: &str,
) -> NotPassed {
    NotPassed::Failed(Failure {
        headline: headline.into(),
        found: vec![found.into()],
        expected: Some(expected.into()),
        hint: Some(hint.to_owned()),
    })
}

/// The errors of one check, of which the worst counts, beside one tolerance.
#[derive(Debug)]
pub(super) struct Deviations {
    allowed: f64,
    measure: &'static str,
    /// The worst error and where it was.
    worst: Option<(f64, String)>,
    /// Every place that is too far off.
    beyond: Vec<(f64, String)>,
    compared: usize,
}

impl Deviations {
    pub(super) fn within(tolerance: Tolerance, session: &Session<'_>) -> Self {
        Self {
            allowed: tolerance.limit_on(session.backend().kind),
            measure: tolerance.measure(),
            worst: None,
            beyond: Vec::new(),
            compared: 0,
        }
    }

    /// Compares arrays, see [`relative_error`].
    pub(super) fn compare(&mut self, place: impl Into<String>, found: &[f32], expected: &[f64]) {
        self.add(place, relative_error(found, expected));
    }

    /// Takes notice of an error that was found in another way.
    pub(super) fn add(&mut self, place: impl Into<String>, error: f64) {
        let place = place.into();
        self.compared += 1;
        // A NaN is no smaller than anything.
        let is_within = error <= self.allowed;
        if !is_within {
            self.beyond.push((error, place.clone()));
        }
        let is_worse = self
            .worst
            .as_ref()
            .is_none_or(|(worst, _)| !worst.is_nan() && (error.is_nan() || error > *worst));
        if is_worse {
            self.worst = Some((error, place));
        }
    }

    /// Passes when every error is within the tolerance; `what` is in the plural, and `hint` what to do otherwise.
    pub(super) fn judge(self, what: &str, hint: &str) -> CheckResult {
        let Some((error, place)) = self.worst else {
            return Err(failed(
                format!("no {what} were compared"),
                "nothing",
                "at least one comparison",
                "this is a mistake of the program",
            ));
        };
        let allowed = self.allowed;
        if self.beyond.is_empty() {
            let off = if error == 0.0 {
                "none off".to_owned()
            } else {
                format!("furthest off: {place}")
            };
            return Ok(Passed {
                detail: format!("{} compared, {off}", self.compared),
                deviation: Some(Deviation {
                    error,
                    allowed,
                    measure: self.measure.to_owned(),
                }),
            });
        }
        let shown = self.beyond.iter().take(SHOWN_PLACES);
        let mut found: Vec<String> = shown
            .map(|(error, place)| format!("{place}: {}", how_far(*error)))
            .collect();
        if self.beyond.len() > SHOWN_PLACES {
            found.push(format!(
                "{} more of {}",
                self.beyond.len() - SHOWN_PLACES,
                self.compared
            ));
        }
        Err(NotPassed::Failed(Failure {
            headline: format!("{what} are wrong"),
            found,
            expected: Some(format!("errors of at most {allowed:.0e} {}", self.measure)),
            hint: Some(hint.to_owned()),
        }))
    }
}

/// An error of [`relative_error`] in words.
fn how_far(error: f64) -> String {
    if error.is_nan() {
        "not a finite number".to_owned()
    } else if error.is_infinite() {
        "another number of values".to_owned()
    } else {
        format!("{error:.1e} off")
    }
}

/// Places of a failure that are named.
const SHOWN_PLACES: usize = 5;

#[cfg(test)]
mod tests {
    use super::{Deviations, Failure, NotPassed, how_far};

    fn judged(errors: [f64; 3]) -> Result<String, Vec<String>> {
        let mut deviations = Deviations {
            allowed: 1e-3,
            measure: "nats",
            worst: None,
            beyond: Vec::new(),
            compared: 0,
        };
        for (place, error) in ["first", "second", "third"].into_iter().zip(errors) {
            deviations.add(place, error);
        }
        match deviations.judge("answers", "none") {
            Ok(passed) => Ok(passed.detail),
            Err(NotPassed::Failed(failure)) => Err(failure.found),
            Err(NotPassed::Skipped(reason)) => panic!("{reason}"),
        }
    }

    #[test]
    fn the_worst_error_is_named_where_there_is_one() {
        assert_eq!(judged([0.0; 3]).unwrap(), "3 compared, none off");
        assert_eq!(judged([1e-5, 1e-4, 0.0]).unwrap(), "3 compared, furthest off: second");
        assert_eq!(
            judged([1e-5, f64::NAN, 0.0]).unwrap_err(),
            ["second: not a finite number"]
        );
    }

    #[test]
    fn an_error_without_a_size_is_told_in_words() {
        assert_eq!(how_far(0.004), "4.0e-3 off");
        assert_eq!(how_far(f64::NAN), "not a finite number");
        assert_eq!(how_far(f64::INFINITY), "another number of values");
    }

    #[test]
    fn a_message_is_taken_apart_into_what_it_says() {
        let failure = Failure::of_message("it is wrong\n  found: 1\n  found: 2\n  expected: 3\n  hint: try again");
        assert_eq!(failure.headline, "it is wrong");
        assert_eq!(failure.found, ["1", "2"]);
        assert_eq!(failure.expected.as_deref(), Some("3"));
        assert_eq!(failure.hint.as_deref(), Some("try again"));
    }
}
