//! Statistics against `NumPy` 2.4.6 and `SciPy` 1.17.1.

use approx::{assert_abs_diff_eq, assert_relative_eq};
use mlx_diagnose::compare::analysis::statistics::{
    mean_interval, median, percentile, ratio_of_medians, theil_sen_interval, theil_sen_slope,
};
use mlx_diagnose::compare::analysis::{Interval, Ratio, Summary};
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

const VALUES: [f64; 7] = [3.1, 0.4, 7.7, 2.2, 9.5, 1.8, 4.4];

#[test]
fn a_summary_is_what_numpy_computes() {
    // numpy.percentile(VALUES, [25, 50, 75, 90, 95, 99]), numpy.mean(VALUES), numpy.std(VALUES, ddof=1)
    let summary = Summary::of(&VALUES).unwrap();
    assert_eq!((summary.count, summary.minimum, summary.maximum), (7, 0.4, 9.5));
    for (found, numpy) in [
        (summary.lower_quartile, 2.0),
        (summary.median, 3.1),
        (summary.upper_quartile, 6.05),
        (summary.p90, 8.42),
        (summary.p95, 8.96),
        (summary.p99, 9.392),
        (summary.mean, 4.157_142_857_142_857_5),
        (summary.standard_deviation, 3.311_020_559_111_215),
    ] {
        assert_relative_eq!(found, numpy, max_relative = 1e-12);
    }
}

#[test]
fn one_value_is_its_own_summary_and_none_has_none() {
    let summary = Summary::of(&[2.5]).unwrap();
    assert_eq!([summary.mean, summary.minimum, summary.p99, summary.maximum], [2.5; 4]);
    assert_eq!(summary.standard_deviation, 0.0);
    assert_eq!(Summary::of(&[]), None);
    assert_eq!((median(&[]), percentile(&[], 0.9)), (None, None));
}

#[test]
fn a_slope_is_the_one_that_scipy_computes() {
    // scipy.stats.theilslopes(y, x).slope, with two values far off and places of unequal distance
    let x = [0.0, 1.0, 2.0, 4.0, 5.0, 7.0, 8.0, 9.0, 12.0, 13.0, 17.0, 20.0];
    let y = [10.2, 11.9, 9.8, 15.1, 40.0, 17.3, 18.9, 16.0, 22.5, 25.1, 3.0, 31.7];
    let points: Vec<(f64, f64)> = x.into_iter().zip(y).collect();
    assert_relative_eq!(
        theil_sen_slope(&points).unwrap(),
        1.019_642_857_142_857_6,
        max_relative = 1e-12
    );
}

#[test]
fn places_that_are_equal_have_no_slope() {
    assert_eq!(theil_sen_slope(&[]), None);
    assert_eq!(theil_sen_slope(&[(1.0, 2.0)]), None);
    assert_eq!(theil_sen_slope(&[(1.0, 2.0), (1.0, 5.0)]), None);
    assert_eq!(theil_sen_slope(&[(1.0, 2.0), (1.0, 5.0), (2.0, 5.0)]), Some(1.5));
    assert_eq!(theil_sen_interval(&[(1.0, 2.0)], 1), None);
}

/// Both ends come from samples; those of `SciPy` are of 200,000.
fn assert_near(found: Interval, estimate: f64, [low, high]: [f64; 2], tolerance: f64) {
    assert_relative_eq!(found.estimate, estimate, max_relative = 1e-9);
    assert_abs_diff_eq!(found.low, low, epsilon = tolerance);
    assert_abs_diff_eq!(found.high, high, epsilon = tolerance);
}

#[test]
fn the_interval_of_a_ratio_is_scipys_percentile_bootstrap() {
    // scipy.stats.bootstrap((mlx, gguf), lambda a, b: median(a) / median(b), method="percentile", n_resamples=200000)
    let gguf = [36.1, 35.2, 38.9, 36.6, 37.4, 35.9, 41.2, 36.0, 36.8, 35.5];
    let mlx = [20.3, 21.9, 19.8, 20.7, 26.4, 20.1, 21.2, 20.9];
    let Ratio { estimate, interval } = ratio_of_medians(&mlx, &gguf, 1).unwrap();
    let [low, high] = interval.unwrap();
    assert_near(
        Interval { estimate, low, high },
        0.572_214_580_467_675_3,
        [0.5448, 0.6016],
        0.006,
    );
}

#[test]
fn the_interval_of_a_slope_is_that_of_samples_of_its_points() {
    // numpy.percentile of scipy.stats.theilslopes over 20,000 samples of the points, drawn with replacement
    let y = [1.0, 3.2, 4.8, 7.5, 8.7, 11.3, 13.4, 14.6, 17.2, 18.8, 21.5, 22.7];
    let points: Vec<(f64, f64)> = y.into_iter().enumerate().map(|(x, y)| (x as f64, y)).collect();
    // Slopes between 12 points are few, so that ends jump by as much as 0.015.
    assert_near(
        theil_sen_interval(&points, 1).unwrap(),
        1.994_444_444_444_444_5,
        [1.94, 2.05],
        0.02,
    );
}

#[test]
fn the_interval_of_a_mean_is_scipys_percentile_bootstrap() {
    // scipy.stats.bootstrap((values,), numpy.mean, method="percentile", n_resamples=200000)
    let values = [0.02, -0.01, 0.05, 0.03, 0.0, 0.04, -0.02, 0.06, 0.01, 0.02];
    assert_near(mean_interval(&values, 1).unwrap(), 0.02, [0.005, 0.035], 0.0015);
}

#[test]
fn a_ratio_needs_both_sides_above_zero() {
    assert_eq!(ratio_of_medians(&[1.0], &[], 1), None);
    assert_eq!(ratio_of_medians(&[], &[1.0], 1), None);
    assert_eq!(ratio_of_medians(&[1.0], &[0.0], 1), None);
    assert_eq!(ratio_of_medians(&[-1.0], &[2.0], 1), None);
}

#[test]
fn a_ratio_of_one_or_two_values_has_no_interval() {
    let ratio = |numerator: &[f64], denominator: &[f64]| ratio_of_medians(numerator, denominator, 1).unwrap();
    let many = [1.0, 2.0, 4.0, 5.0];
    for (found, estimate) in [
        (ratio(&[3.0], &[2.0]), 1.5),
        (ratio(&[2.0, 4.0], &many), 1.0),
        (ratio(&many, &[2.0]), 1.5),
    ] {
        assert_eq!((found.estimate, found.interval), (estimate, None));
    }
    let [low, high] = ratio(&many, &[2.0, 2.0, 2.0]).interval.unwrap();
    assert!(low < 1.5 && 1.5 < high, "{low} {high}");
}

#[test]
fn the_same_seed_gives_the_same_interval_and_another_another() {
    let interval = |seed| ratio_of_medians(&VALUES, &[1.0, 2.0, 3.5, 4.0], seed).unwrap();
    assert_eq!(interval(4), interval(4));
    assert_ne!(interval(4), interval(5));
}

proptest! {
    #[test]
    fn every_interval_holds_its_estimate(values in proptest::collection::vec(0.1_f64..100.0, 2..20), seed: u64) {
        let points: Vec<(f64, f64)> = values.iter().copied().enumerate().map(|(x, y)| (x as f64, y)).collect();
        let ratio = ratio_of_medians(&values, &values, seed).unwrap();
        let mean = mean_interval(&values, seed).unwrap();
        let ends = ratio.interval.map(|[low, high]| (low, ratio.estimate, high));
        for (low, estimate, high) in ends.into_iter().chain([(mean.low, mean.estimate, mean.high)]) {
            prop_assert!(low <= estimate && estimate <= high, "{low} {estimate} {high}");
        }
        let slope = theil_sen_interval(&points, seed).unwrap();
        prop_assert!(slope.low <= slope.high);
    }

    #[test]
    fn a_summary_does_not_depend_on_the_order(mut values in proptest::collection::vec(-1e6_f64..1e6, 1..30)) {
        let summary = Summary::of(&values);
        values.reverse();
        prop_assert_eq!(Summary::of(&values), summary);
    }
}
