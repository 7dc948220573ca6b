//! The updates of a run replayed in f64, in every way in which an optimizer is known to go wrong.
//!
//! The replay shares nothing with the optimizer it judges: it is written after Loshchilov and Hutter 2019 (arXiv
//! 1711.05101) from the settings that the run was asked for.

use super::optimizer_recorder::{Coordinate, RecordedUpdate, Recording};
use crate::evidence::{OptimizerCheck, ReadUpdate, Slot, UpdateReading};
use crate::train::AdamWSettings;

/// Roundings of the parameter in one update: the factor of the decay, the decayed parameter, and the sum.
const ROUNDINGS: f64 = 3.0;
/// Powers of ten that are tried as epsilon.
const EPSILON_EXPONENTS: std::ops::RangeInclusive<i32> = -8..=0;

/// Judges what was recorded against what `settings` ask for.
pub fn check(recording: &Recording, settings: AdamWSettings) -> Slot<OptimizerCheck> {
    let updates = &recording.updates;
    let coordinates = updates.first().map_or(0, |update| update.coordinates.len());
    if coordinates == 0 {
        return Slot::skipped("no update was made");
    }
    let replay = Replay::new(settings, updates);
    let configured = replay.with_decay(&replay.adam(&Variant::default()), replay.decay);
    let factor = replay.factor(&configured);
    let weight_decay = replay.fitting_decay();
    let (epsilon, of_epsilon) = replay.fitting_epsilon();
    let scaled = factor.map(|factor| configured.map(|change| change * factor));
    let decayed = weight_decay.map(|decay| replay.with_decay(&replay.adam(&Variant::default()), decay));
    let read = |reading, error| ReadUpdate { reading, error };
    let error = |changes: &Changes| replay.error(changes);
    let adam = |variant: &Variant| error(&replay.with_decay(&replay.adam(variant), replay.decay));
    let best = |left: Option<f64>, right: Option<f64>| match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    };
    let forgotten = Variant {
        history: History::Forgotten,
        ..Variant::default()
    };
    let frozen = |history| Variant {
        history,
        ..Variant::default()
    };
    let descent = replay.descent();
    Slot::Ran(OptimizerCheck {
        tensors: recording.tensors.iter().cloned().collect(),
        coordinates,
        steps: updates.len(),
        readings: vec![
            read(UpdateReading::AsConfigured, error(&configured)),
            read(UpdateReading::NotStepped, error(&configured.map(|_| 0.0))),
            read(
                UpdateReading::Uphill,
                adam(&Variant {
                    sign: -1.0,
                    ..Variant::default()
                }),
            ),
            read(
                UpdateReading::GradientsSummed,
                adam(&Variant {
                    summed: true,
                    ..Variant::default()
                }),
            ),
            read(UpdateReading::MomentsForgotten, adam(&forgotten)),
            read(
                UpdateReading::MomentsFrozen,
                best(
                    adam(&frozen(History::FrozenAsTheyAre)),
                    adam(&frozen(History::FrozenAndBlended)),
                ),
            ),
            read(
                UpdateReading::PlainDescent,
                best(error(&descent), error(&replay.with_decay(&descent, replay.decay))),
            ),
            read(
                UpdateReading::OtherBiasCorrection,
                adam(&Variant {
                    other_correction: true,
                    ..Variant::default()
                }),
            ),
            read(UpdateReading::Scaled, scaled.as_ref().and_then(error)),
            read(UpdateReading::Decayed, decayed.as_ref().and_then(error)),
            read(UpdateReading::LargeEpsilon, of_epsilon),
        ],
        factor,
        weight_decay,
        configured_weight_decay: f64::from(settings.weight_decay),
        epsilon,
        realised_share: replay.realised_share(&configured),
    })
}

/// The change of every coordinate in every update.
#[derive(Debug)]
struct Changes(Vec<Vec<f64>>);

impl Changes {
    fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        Self(
            self.0
                .iter()
                .map(|update| update.iter().map(|&value| change(value)).collect())
                .collect(),
        )
    }

    fn size(&self) -> f64 {
        self.0.iter().flatten().map(|change| change.abs()).sum()
    }
}

/// What becomes of the moments from update to update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum History {
    /// Blended with each gradient.
    Kept,
    /// Fresh at every update.
    Forgotten,
    /// Those of the first update, used without looking at later gradients.
    FrozenAsTheyAre,
    /// Those of the first update, blended with the gradient of the update but never stored.
    FrozenAndBlended,
}

/// Adam with one thing done differently.
#[derive(Debug)]
struct Variant {
    sign: f64,
    summed: bool,
    history: History,
    other_correction: bool,
    epsilon: Option<f64>,
}

impl Default for Variant {
    fn default() -> Self {
        Self {
            sign: 1.0,
            summed: false,
            history: History::Kept,
            other_correction: false,
            epsilon: None,
        }
    }
}

struct Replay<'run> {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    decay: f64,
    bias_correction: bool,
    updates: &'run [RecordedUpdate],
}

impl<'run> Replay<'run> {
    fn new(settings: AdamWSettings, updates: &'run [RecordedUpdate]) -> Self {
        Self {
            beta1: f64::from(settings.beta1),
            beta2: f64::from(settings.beta2),
            epsilon: f64::from(settings.epsilon),
            decay: f64::from(settings.weight_decay),
            bias_correction: settings.bias_correction,
            updates,
        }
    }

    /// The change of each coordinate by `change`, which sees the update's learning rate.
    fn each(&self, change: impl Fn(f64, &Coordinate) -> f64) -> Changes {
        Changes(
            self.updates
                .iter()
                .map(|update| {
                    let coordinates = update.coordinates.iter();
                    coordinates
                        .map(|coordinate| change(update.learning_rate, coordinate))
                        .collect()
                })
                .collect(),
        )
    }

    fn observed(&self) -> Changes {
        self.each(|_, coordinate| coordinate.after - coordinate.before)
    }

    /// The learning rate times the gradient.
    fn descent(&self) -> Changes {
        self.each(|learning_rate, coordinate| -learning_rate * coordinate.gradient)
    }

    /// What one unit of weight decay does.
    fn unit_decay(&self) -> Changes {
        self.each(|learning_rate, coordinate| -learning_rate * coordinate.before)
    }

    /// Adam's own part of the changes, without weight decay.
    fn adam(&self, variant: &Variant) -> Changes {
        let count = self.updates.first().map_or(0, |update| update.coordinates.len());
        let correct = self.bias_correction != variant.other_correction;
        let epsilon = variant.epsilon.unwrap_or(self.epsilon);
        let mut moments = vec![(0.0, 0.0); count];
        let mut sums = vec![0.0; count];
        let mut changes = Vec::with_capacity(self.updates.len());
        for (index, update) in self.updates.iter().enumerate() {
            let fresh = index == 0 || variant.history == History::Forgotten;
            let step = if fresh { 1 } else { index as i32 + 1 };
            let (mean_correction, square_correction) = if correct {
                (1.0 - self.beta1.powi(step), 1.0 - self.beta2.powi(step))
            } else {
                (1.0, 1.0)
            };
            let change = |(position, coordinate): (usize, &Coordinate)| {
                let gradient = variant.sign * coordinate.gradient;
                sums[position] += gradient;
                let gradient = if variant.summed { sums[position] } else { gradient };
                let old = if fresh { (0.0, 0.0) } else { moments[position] };
                let blended = (
                    self.beta1 * old.0 + (1.0 - self.beta1) * gradient,
                    self.beta2 * old.1 + (1.0 - self.beta2) * gradient * gradient,
                );
                let used = if index > 0 && variant.history == History::FrozenAsTheyAre {
                    old
                } else {
                    blended
                };
                if index == 0 || variant.history == History::Kept {
                    moments[position] = blended;
                }
                let root = (used.1 / square_correction).sqrt();
                -update.learning_rate * used.0 / mean_correction / (root + epsilon)
            };
            changes.push(update.coordinates.iter().enumerate().map(change).collect());
        }
        Changes(changes)
    }

    fn with_decay(&self, changes: &Changes, decay: f64) -> Changes {
        combine(changes, &self.unit_decay(), |change, unit| change + decay * unit)
    }

    /// The distance of `predicted` from the observed changes beyond rounding, over the size of `predicted`, or of the
    /// observed ones when nothing is predicted; `None` when it is not finite.
    fn error(&self, predicted: &Changes) -> Option<f64> {
        let slack = self.each(|_, coordinate| {
            ROUNDINGS / 2.0 * coordinate.epsilon * coordinate.before.abs().max(coordinate.after.abs())
        });
        let observed = self.observed();
        let distance = combine(&observed, predicted, |observed, predicted| (observed - predicted).abs());
        let beyond = combine(&distance, &slack, |distance, slack| (distance - slack).max(0.0)).size();
        // The maximum of a NaN and 0 is 0: what is not finite is asked of the changes themselves.
        if !distance.size().is_finite() {
            return None;
        }
        let size = match predicted.size() {
            0.0 => observed.size(),
            size => size,
        };
        if beyond == 0.0 {
            return Some(0.0);
        }
        let error = beyond / size;
        error.is_finite().then_some(error)
    }

    /// The factor on `predicted` that fits best, by least squares.
    fn factor(&self, predicted: &Changes) -> Option<f64> {
        slope(&self.observed(), predicted)
    }

    /// The weight decay that fits best beside Adam as configured, by least squares.
    fn fitting_decay(&self) -> Option<f64> {
        let rest = combine(&self.observed(), &self.adam(&Variant::default()), |observed, adam| {
            observed - adam
        });
        slope(&rest, &self.unit_decay())
    }

    /// The power of ten that fits best as epsilon, the smallest of equals, and its error.
    fn fitting_epsilon(&self) -> (Option<f64>, Option<f64>) {
        let mut best: Option<(f64, f64)> = None;
        for exponent in EPSILON_EXPONENTS {
            let epsilon = 10.0_f64.powi(exponent);
            let variant = Variant {
                epsilon: Some(epsilon),
                ..Variant::default()
            };
            let changes = self.with_decay(&self.adam(&variant), self.decay);
            if let Some(error) = self.error(&changes)
                && best.is_none_or(|(_, lowest)| error < lowest)
            {
                best = Some((epsilon, error));
            }
        }
        (best.map(|(epsilon, _)| epsilon), best.map(|(_, error)| error))
    }

    fn realised_share(&self, configured: &Changes) -> Option<f64> {
        let share = self.observed().size() / configured.size();
        share.is_finite().then_some(share)
    }
}

fn combine(left: &Changes, right: &Changes, with: impl Fn(f64, f64) -> f64) -> Changes {
    let of_update = |(left, right): (&Vec<f64>, &Vec<f64>)| {
        left.iter()
            .zip(right)
            .map(|(&left, &right)| with(left, right))
            .collect()
    };
    Changes(left.0.iter().zip(&right.0).map(of_update).collect())
}

/// The factor on `right` that is nearest to `left`; `None` when `right` is zero or a value is not finite.
fn slope(left: &Changes, right: &Changes) -> Option<f64> {
    let sum = |changes: Changes| changes.0.into_iter().flatten().sum::<f64>();
    let slope =
        sum(combine(left, right, |left, right| left * right)) / sum(combine(right, right, |one, same| one * same));
    slope.is_finite().then_some(slope)
}

#[cfg(test)]
mod tests {
    use super::super::optimizer_recorder::{Coordinate, RecordedUpdate, Recording};
    use super::check;
    use crate::evidence::{OptimizerCheck, Slot, UpdateReading};
    use crate::train::AdamWSettings;
    use approx::assert_relative_eq;
    use rstest::rstest;

    const RATE: f64 = 1e-3;

    /// What an optimizer does with the `step`-th of all gradients of one coordinate that stands at `before`.
    type Change = fn(step: usize, gradients: &[f64], before: f64) -> f64;

    fn settings() -> AdamWSettings {
        AdamWSettings::default()
    }

    fn gradients() -> [[f64; 4]; 3] {
        [
            [0.5, -0.25, 0.125, 0.75],
            [-0.5, -0.125, 0.5, 0.25],
            [1e-3, -2e-3, 3e-3, 1e-3],
        ]
    }

    fn recorded(epsilon: f64, change: Change) -> OptimizerCheck {
        let mut values = [0.04, -0.02, 0.03];
        let updates = (1..=4)
            .map(|step| RecordedUpdate {
                learning_rate: RATE,
                coordinates: values
                    .iter_mut()
                    .zip(gradients())
                    .map(|(value, gradients)| {
                        let before = *value;
                        *value += change(step, &gradients, before);
                        Coordinate {
                            before,
                            gradient: gradients[step - 1],
                            after: *value,
                            epsilon,
                        }
                    })
                    .collect(),
            })
            .collect();
        let recording = Recording {
            tensors: vec!["w".to_owned()],
            updates,
            seconds: 0.0,
        };
        match check(&recording, settings()) {
            Slot::Ran(check) => check,
            other => panic!("{other:?}"),
        }
    }

    /// Adam without bias correction written out as weighted sums of all gradients so far.
    fn moments(step: usize, gradients: &[f64]) -> (f64, f64) {
        (1..=step).fold((0.0, 0.0), |(mean, square), index| {
            let (gradient, age) = (gradients[index - 1], (step - index) as i32);
            (
                mean + 0.1 * 0.9_f64.powi(age) * gradient,
                square + 0.001 * 0.999_f64.powi(age) * gradient * gradient,
            )
        })
    }

    fn adam(step: usize, gradients: &[f64], before: f64) -> f64 {
        let (mean, square) = moments(step, gradients);
        -RATE * (mean / (square.sqrt() + 1e-8) + 0.01 * before)
    }

    fn uphill(step: usize, gradients: &[f64], before: f64) -> f64 {
        -adam(step, gradients, before) - 2.0 * RATE * 0.01 * before
    }

    fn summed(step: usize, gradients: &[f64], before: f64) -> f64 {
        let sums: Vec<f64> = (1..=gradients.len()).map(|end| gradients[..end].iter().sum()).collect();
        adam(step, &sums, before)
    }

    fn forgotten(step: usize, gradients: &[f64], before: f64) -> f64 {
        -RATE * (10.0_f64.sqrt() * gradients[step - 1].signum() + 0.01 * before)
    }

    fn frozen(_: usize, gradients: &[f64], before: f64) -> f64 {
        forgotten(1, gradients, before)
    }

    fn blended_with_the_first(step: usize, gradients: &[f64], before: f64) -> f64 {
        let first = moments(1, gradients);
        let (mean, square) = if step == 1 {
            first
        } else {
            let gradient = gradients[step - 1];
            (
                0.9 * first.0 + 0.1 * gradient,
                0.999 * first.1 + 0.001 * gradient * gradient,
            )
        };
        -RATE * (mean / square.sqrt() + 0.01 * before)
    }

    fn plain(step: usize, gradients: &[f64], _: f64) -> f64 {
        -RATE * gradients[step - 1]
    }

    fn corrected(step: usize, gradients: &[f64], before: f64) -> f64 {
        let (mean, square) = moments(step, gradients);
        let (mean, square) = (
            mean / (1.0 - 0.9_f64.powi(step as i32)),
            square / (1.0 - 0.999_f64.powi(step as i32)),
        );
        -RATE * (mean / (square.sqrt() + 1e-8) + 0.01 * before)
    }

    fn tenfold(step: usize, gradients: &[f64], before: f64) -> f64 {
        10.0 * adam(step, gradients, before)
    }

    fn strongly_decayed(step: usize, gradients: &[f64], before: f64) -> f64 {
        adam(step, gradients, before) - RATE * 4.99 * before
    }

    fn large_epsilon(step: usize, gradients: &[f64], before: f64) -> f64 {
        let (mean, square) = moments(step, gradients);
        -RATE * (mean / (square.sqrt() + 0.1) + 0.01 * before)
    }

    fn nothing(_: usize, _: &[f64], _: f64) -> f64 {
        0.0
    }

    #[rstest]
    #[case::as_configured(adam, UpdateReading::AsConfigured)]
    #[case::not_stepped(nothing, UpdateReading::NotStepped)]
    #[case::uphill(uphill, UpdateReading::Uphill)]
    #[case::summed(summed, UpdateReading::GradientsSummed)]
    #[case::forgotten(forgotten, UpdateReading::MomentsForgotten)]
    #[case::frozen(frozen, UpdateReading::MomentsFrozen)]
    #[case::frozen_and_blended(blended_with_the_first, UpdateReading::MomentsFrozen)]
    #[case::plain(plain, UpdateReading::PlainDescent)]
    #[case::corrected(corrected, UpdateReading::OtherBiasCorrection)]
    #[case::scaled(tenfold, UpdateReading::Scaled)]
    #[case::decayed(strongly_decayed, UpdateReading::Decayed)]
    #[case::large_epsilon(large_epsilon, UpdateReading::LargeEpsilon)]
    fn each_way_of_updating_is_recognised_and_no_other_fits(#[case] change: Change, #[case] expected: UpdateReading) {
        let check = recorded(f64::from(f32::EPSILON), change);
        let nested = [
            UpdateReading::Scaled,
            UpdateReading::Decayed,
            UpdateReading::LargeEpsilon,
        ];
        for read in &check.readings {
            let error = read.error.unwrap();
            // Readings with a free number contain the configured update; a factor contains none of it and its opposite.
            let contained = match expected {
                UpdateReading::AsConfigured => nested.contains(&read.reading),
                UpdateReading::NotStepped | UpdateReading::Uphill => read.reading == UpdateReading::Scaled,
                _ => false,
            };
            let fits = read.reading == expected || contained;
            assert_eq!(error < 1e-3, fits, "{read:?}");
        }
    }

    #[test]
    fn the_free_numbers_are_found() {
        assert_relative_eq!(recorded(1e-7, tenfold).factor.unwrap(), 10.0, max_relative = 1e-5);
        assert_relative_eq!(
            recorded(1e-7, strongly_decayed).weight_decay.unwrap(),
            5.0,
            max_relative = 1e-3
        );
        assert_relative_eq!(recorded(1e-7, large_epsilon).epsilon.unwrap(), 0.1, max_relative = 1e-9);
        assert_relative_eq!(recorded(1e-7, adam).realised_share.unwrap(), 1.0, max_relative = 1e-5);
    }

    #[test]
    fn changes_below_the_rounding_of_the_parameter_accuse_nobody() {
        let check = recorded(0.5, nothing);
        assert_eq!(check.error(UpdateReading::AsConfigured), Some(0.0));
        assert_eq!(check.realised_share, Some(0.0));
    }

    #[test]
    fn a_run_without_updates_is_skipped() {
        let recording = Recording {
            tensors: Vec::new(),
            updates: Vec::new(),
            seconds: 0.0,
        };
        assert!(matches!(check(&recording, settings()), Slot::Skipped { .. }));
    }
}
