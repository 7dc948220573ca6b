//! Which way of updating the changes of the parameters are.

use super::wording::factor;
use super::{Finding, Outcome};
use crate::evidence::{Evidence, OptimizerCheck, Slot, UpdateReading};
use crate::thresholds::update_tolerance;

/// Ways without a free number, tried before those that have one and contain some of these.
const FIXED: [UpdateReading; 7] = [
    UpdateReading::NotStepped,
    UpdateReading::Uphill,
    UpdateReading::GradientsSummed,
    UpdateReading::MomentsForgotten,
    UpdateReading::MomentsFrozen,
    UpdateReading::PlainDescent,
    UpdateReading::OtherBiasCorrection,
];

/// Ways with a number that is fitted.
const FITTED: [UpdateReading; 3] = [
    UpdateReading::Decayed,
    UpdateReading::Scaled,
    UpdateReading::LargeEpsilon,
];

/// The replayed optimizer and what it says.
pub(super) struct Judged<'a> {
    pub(super) check: &'a OptimizerCheck,
    /// The reading that fits; `None` when none does.
    pub(super) reading: Option<UpdateReading>,
}

/// Judges the updates, or says why they cannot be judged.
pub(super) fn judge(evidence: &Evidence) -> Result<Judged<'_>, Outcome> {
    let Slot::Ran(training) = &evidence.training else {
        return Err(Outcome::not_measured("training", &evidence.training));
    };
    let Slot::Ran(check) = &training.optimizer_check else {
        return Err(Outcome::not_measured(
            "the replay of the optimizer",
            &training.optimizer_check,
        ));
    };
    let Some(as_configured) = check.error(UpdateReading::AsConfigured) else {
        return Err(Outcome::not_applicable("an update is not finite"));
    };
    let tolerance = update_tolerance(&evidence.environment.dtype);
    let best_of = |readings: &[UpdateReading]| {
        readings
            .iter()
            .filter_map(|&reading| check.error(reading).map(|error| (reading, error)))
            .filter(|(_, error)| *error <= tolerance)
            .min_by(|(_, left), (_, right)| left.total_cmp(right))
            .map(|(reading, _)| reading)
    };
    let reading = if as_configured <= tolerance {
        Some(UpdateReading::AsConfigured)
    } else {
        best_of(&FIXED).or_else(|| best_of(&FITTED))
    };
    Ok(Judged { check, reading })
}

impl Judged<'_> {
    /// A finding that says how well the reading fits beside the configured updates.
    pub(super) fn finding(&self, headline: &str, expected: &str) -> Finding {
        let configured = self.check.error(UpdateReading::AsConfigured);
        let fitting = self.reading.and_then(|reading| self.check.error(reading));
        let off = configured.map_or_else(|| "far".to_owned(), percent);
        let found = match (self.reading, fitting) {
            (Some(reading), Some(error)) => format!(
                "the changes of {} values in {} steps are {} to within {}; the configured updates are {off} off",
                self.check.coordinates,
                self.check.steps,
                in_words(reading),
                percent(error),
            ),
            _ => format!(
                "the changes of {} values in {} steps are {off} off the configured updates, and no known fault fits",
                self.check.coordinates, self.check.steps,
            ),
        };
        Finding::new(headline, found, expected)
            .at(&self.check.tensors)
            .with("error_as_configured", configured)
            .with("error_of_reading", fitting)
            .with("factor", self.check.factor)
            .with("weight_decay", self.check.weight_decay)
            .with("epsilon", self.check.epsilon)
            .with("steps", self.check.steps)
            .with("values", self.check.coordinates)
    }
}

/// A relative error as a share in percent, of which anything small is as good as nothing.
fn percent(error: f64) -> String {
    const ONE: f64 = 100.0;
    if error * ONE < 1.0 {
        "less than 1%".to_owned()
    } else {
        format!("{}%", factor(error * ONE))
    }
}

/// The reading as what the changes are.
fn in_words(reading: UpdateReading) -> &'static str {
    match reading {
        UpdateReading::AsConfigured => "the configured updates",
        UpdateReading::NotStepped => "none at all",
        UpdateReading::Uphill => "those of Adam with every gradient negated",
        UpdateReading::GradientsSummed => "those of Adam with each gradient added to all earlier ones",
        UpdateReading::MomentsForgotten => "those of Adam with fresh moments at every step",
        UpdateReading::MomentsFrozen => "those of Adam with the moments of the first step",
        UpdateReading::PlainDescent => "the learning rate times the gradient",
        UpdateReading::OtherBiasCorrection => "those of Adam with the other choice of bias correction",
        UpdateReading::Scaled => "the configured ones times one factor",
        UpdateReading::Decayed => "the configured ones with another weight decay",
        UpdateReading::LargeEpsilon => "those of Adam with a larger epsilon",
    }
}
