//! Many values in a few, with the noise that the few have.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::thresholds::{CONFIDENCE_LEVEL, RATIO_RESAMPLES, SLOPE_RESAMPLES, VALUES_FOR_INTERVAL};
use super::{Interval, Ratio, Summary};
use crate::quantile::{quantile, quantile_of_sorted};

impl Summary {
    /// Of finite values; `None` where there are none.
    ///
    /// The standard deviation is that of a sample (divided by one less than there are values).
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let sorted = sorted(values);
        let count = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / count;
        let squares: f64 = sorted.iter().map(|value| (value - mean).powi(2)).sum();
        let at = |share| quantile_of_sorted(&sorted, share);
        Some(Self {
            count: sorted.len(),
            mean,
            standard_deviation: if sorted.len() > 1 {
                (squares / (count - 1.0)).sqrt()
            } else {
                0.0
            },
            minimum: at(0.0)?,
            lower_quartile: at(0.25)?,
            median: at(0.5)?,
            upper_quartile: at(0.75)?,
            p90: at(0.9)?,
            p95: at(0.95)?,
            p99: at(0.99)?,
            maximum: at(1.0)?,
        })
    }
}

/// The value below which `share` of `values` is, interpolated linearly between its neighbours (Hyndman and Fan 1996, type 7;
/// the default of `NumPy`); `None` where there are no values.
pub fn percentile(values: &[f64], share: f64) -> Option<f64> {
    quantile(values, share)
}

/// The value in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    percentile(values, 0.5)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The median of the slopes between any two of `points`, given as place and value (Theil 1950, Sen 1968); `None` where no two
/// lie at different places.
pub fn theil_sen_slope(points: &[(f64, f64)]) -> Option<f64> {
    Slopes::between(points).median(&vec![1; points.len()])
}

/// [`theil_sen_slope`] with its bootstrap interval: points are drawn anew with their places (Efron and Tibshirani 1993).
pub fn theil_sen_interval(points: &[(f64, f64)], seed: u64) -> Option<Interval> {
    let slopes = Slopes::between(points);
    let estimate = slopes.median(&vec![1; points.len()])?;
    let mut draw = Draw::new(seed);
    let drawn: Vec<f64> = (0..SLOPE_RESAMPLES)
        .filter_map(|_| slopes.median(&draw.multiplicities(points.len())))
        .collect();
    interval(estimate, &drawn)
}

/// The median of `numerator` by that of `denominator`, with a bootstrap interval that draws from both where both have
/// [values enough](VALUES_FOR_INTERVAL); `None` where a median is missing or not above zero.
pub fn ratio_of_medians(numerator: &[f64], denominator: &[f64], seed: u64) -> Option<Ratio> {
    let (numerator, denominator) = (sorted(numerator), sorted(denominator));
    let ratio = |above: f64, below: f64| (above > 0.0 && below > 0.0).then_some(above / below);
    let estimate = ratio(
        quantile_of_sorted(&numerator, 0.5)?,
        quantile_of_sorted(&denominator, 0.5)?,
    )?;
    if numerator.len().min(denominator.len()) < VALUES_FOR_INTERVAL {
        return Some(Ratio {
            estimate,
            interval: None,
        });
    }
    let mut draw = Draw::new(seed);
    let drawn: Vec<f64> = (0..RATIO_RESAMPLES)
        .filter_map(|_| {
            let above = drawn_median(&numerator, &draw.multiplicities(numerator.len()))?;
            let below = drawn_median(&denominator, &draw.multiplicities(denominator.len()))?;
            ratio(above, below)
        })
        .collect();
    let Interval { low, high, .. } = interval(estimate, &drawn)?;
    Some(Ratio {
        estimate,
        interval: Some([low, high]),
    })
}

/// The mean of `values` with its bootstrap interval.
pub fn mean_interval(values: &[f64], seed: u64) -> Option<Interval> {
    let count = values.len() as f64;
    let mut draw = Draw::new(seed);
    let estimate = Summary::of(values)?.mean;
    let drawn: Vec<f64> = (0..RATIO_RESAMPLES)
        .map(|_| {
            let multiplicities = draw.multiplicities(values.len());
            let sum: f64 = values
                .iter()
                .zip(&multiplicities)
                .map(|(value, &times)| value * times as f64)
                .sum();
            sum / count
        })
        .collect();
    interval(estimate, &drawn)
}

/// The percentiles of what was drawn (the percentile bootstrap).
fn interval(estimate: f64, drawn: &[f64]) -> Option<Interval> {
    let outside = (1.0 - CONFIDENCE_LEVEL) / 2.0;
    let drawn = sorted(drawn);
    Some(Interval {
        estimate,
        low: quantile_of_sorted(&drawn, outside)?,
        high: quantile_of_sorted(&drawn, 1.0 - outside)?,
    })
}

/// The median of a sample in which each of `sorted` is as often as `multiplicities` says.
fn drawn_median(sorted: &[f64], multiplicities: &[usize]) -> Option<f64> {
    let weighted = sorted.iter().copied().zip(multiplicities.iter().copied());
    weighted_median(weighted, multiplicities.iter().sum())
}

/// The median of ascending values, each as often as it says, `total` altogether.
fn weighted_median(ascending: impl Iterator<Item = (f64, usize)>, total: usize) -> Option<f64> {
    let lower_place = total.checked_sub(1)? / 2;
    let upper_place = total / 2;
    let mut before = 0;
    let mut lower = None;
    for (value, times) in ascending {
        before += times;
        if lower.is_none() && before > lower_place {
            lower = Some(value);
        }
        if before > upper_place {
            return lower.map(|lower| f64::midpoint(lower, value));
        }
    }
    None
}

/// The slopes between all pairs of points, ascending, so that a sample of the points needs them counted only.
struct Slopes {
    /// A slope and the numbers of its points.
    ascending: Vec<(f64, usize, usize)>,
}

impl Slopes {
    fn between(points: &[(f64, f64)]) -> Self {
        let mut ascending = Vec::with_capacity(points.len() * points.len().saturating_sub(1) / 2);
        for (one, &(one_place, one_value)) in points.iter().enumerate() {
            for (other, &(other_place, other_value)) in points.iter().enumerate().take(one) {
                if one_place != other_place {
                    ascending.push(((one_value - other_value) / (one_place - other_place), one, other));
                }
            }
        }
        ascending.sort_by(|(one, ..), (other, ..)| one.total_cmp(other));
        Self { ascending }
    }

    /// The median where each point is there as often as `multiplicities` says.
    fn median(&self, multiplicities: &[usize]) -> Option<f64> {
        let times = |point: usize| multiplicities.get(point).copied().unwrap_or(0);
        let weighted = self
            .ascending
            .iter()
            .map(|&(slope, one, other)| (slope, times(one) * times(other)));
        weighted_median(weighted.clone(), weighted.map(|(_, times)| times).sum())
    }
}

/// Draws with replacement; the same seed always draws the same.
struct Draw {
    generator: ChaCha8Rng,
}

impl Draw {
    fn new(seed: u64) -> Self {
        Self {
            generator: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// How often each of `count` things is there when `count` are drawn.
    fn multiplicities(&mut self, count: usize) -> Vec<usize> {
        let mut multiplicities = vec![0; count];
        for _ in 0..count {
            // The upper half of the product is uniform up to one part in 2^32 / count (Lemire 2019).
            let place = ((u64::from(self.generator.next_u32()) * count as u64) >> 32) as usize;
            if let Some(times) = multiplicities.get_mut(place) {
                *times += 1;
            }
        }
        multiplicities
    }
}

#[cfg(test)]
mod tests {
    use super::{Draw, drawn_median};

    #[test]
    fn as_many_are_drawn_as_there_are() {
        let mut draw = Draw::new(7);
        let mut seen = vec![0; 5];
        for _ in 0..2000 {
            let drawn = draw.multiplicities(5);
            assert_eq!(drawn.iter().sum::<usize>(), 5);
            seen.iter_mut().zip(drawn).for_each(|(sum, times)| *sum += times);
        }
        // Each is drawn 2000 times on average, with a standard deviation of 40.
        assert!(seen.iter().all(|&times| (1800..2200).contains(&times)), "{seen:?}");
    }

    #[test]
    fn the_median_of_a_sample_is_that_of_its_values_written_out() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(drawn_median(&sorted, &[1, 1, 1, 1]), Some(3.0));
        // 2 2 8 8
        assert_eq!(drawn_median(&sorted, &[0, 2, 0, 2]), Some(5.0));
        // 1 1 1 8
        assert_eq!(drawn_median(&sorted, &[3, 0, 0, 1]), Some(1.0));
        assert_eq!(drawn_median(&[], &[]), None);
    }
}
