//! What is said of values that were measured again and again.

use mlx_diagnose::bench::{Measurement, Samples, Unit, summing_seconds};
use mlx_diagnose::quantile::{lower_median, upper_median};
use proptest::prelude::*;
use rstest::rstest;

fn samples(values: &[f64]) -> Samples {
    Samples::new(values.to_vec())
}

/// The first and the last example are those of Wikipedia's "Quartile", whose method 3 is another definition; the figures here
/// are `numpy.quantile`'s and those of R's `quantile(x, type = 7)`.
#[rstest]
#[case(&[7.0, 15.0, 36.0, 39.0, 40.0, 41.0], 20.25, 37.5, 39.75)]
#[case(&[3.0, 1.0, 2.0, 4.0], 1.75, 2.5, 3.25)]
#[case(&[5.0], 5.0, 5.0, 5.0)]
#[case(&[2.0, 1.0], 1.25, 1.5, 1.75)]
#[case(&[6.0, 7.0, 15.0, 36.0, 39.0, 40.0, 41.0, 42.0, 43.0, 47.0, 49.0], 25.5, 40.0, 42.5)]
fn quartiles_are_those_of_numpy_and_r(
    #[case] values: &[f64],
    #[case] low: f64,
    #[case] median: f64,
    #[case] high: f64,
) {
    let samples = samples(values);
    assert_eq!(samples.median(), Some(median));
    assert_eq!(samples.quartiles(), Some((low, high)));
}

/// Python's `statistics.median_low` and `statistics.median_high`.
#[rstest]
#[case(&[], None, None)]
#[case(&[5.0], Some(5.0), Some(5.0))]
#[case(&[4.0, 1.0], Some(1.0), Some(4.0))]
#[case(&[3.0, 1.0, 2.0], Some(2.0), Some(2.0))]
#[case(&[7.0, 40.0, 15.0, 36.0, 41.0, 39.0], Some(36.0), Some(39.0))]
fn the_lower_and_the_upper_median_are_those_of_python(
    #[case] values: &[f64],
    #[case] lower: Option<f64>,
    #[case] upper: Option<f64>,
) {
    assert_eq!(lower_median(values.iter().copied()), lower);
    assert_eq!(upper_median(values.iter().copied()), upper);
}

/// Of 1 to 9 the quartiles are 3 and 7, and the fences stand at -3 and 13.
#[test]
fn outliers_lie_beyond_tukeys_fences_and_not_on_them() {
    let nine = |last: f64| samples(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, last]);
    assert_eq!(nine(13.0).quartiles(), Some((3.0, 7.0)));
    assert_eq!(nine(13.0).outliers(), [] as [f64; 0]);
    assert_eq!(nine(13.5).outliers(), [13.5]);
    assert_eq!(
        samples(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -3.5, 99.0]).outliers(),
        [99.0]
    );
    assert_eq!(samples(&[-50.0, 1.0, 1.0, 1.0, 1.0, 80.0]).outliers(), [-50.0, 80.0]);
}

#[test]
fn nothing_measured_is_nothing_said() {
    let none = samples(&[]);
    assert_eq!((none.median(), none.quartiles()), (None, None));
    assert!(none.outliers().is_empty() && none.is_empty());
    assert_eq!(Measurement::new("step", Unit::Seconds, none, ""), None);
}

#[test]
fn warm_ups_are_run_and_left_out() {
    let mut runs = 0;
    let measured = Samples::measure(2, 5, || {
        runs += 1;
        Ok::<(), ()>(())
    });
    assert_eq!((runs, measured.unwrap().values().len()), (7, 5));
    let mut runs = 0;
    let failed = Samples::measure(2, 5, || {
        runs += 1;
        if runs == 4 { Err("broken") } else { Ok(()) }
    });
    assert_eq!((failed, runs), (Err("broken"), 4));
}

#[test]
fn a_rate_is_the_amount_by_the_seconds_of_each_repeat() {
    let rate = Measurement::rate("prefill", Unit::TokensPerSecond, &samples(&[0.5, 1.0, 2.0]), 512.0, "").unwrap();
    assert_eq!(rate.samples.values(), [1024.0, 512.0, 256.0]);
    assert_eq!((rate.low, rate.median, rate.high), (384.0, 512.0, 768.0));
}

#[test]
fn a_figure_that_was_changed_by_hand_is_told() {
    let honest = Measurement::new("step", Unit::Seconds, samples(&[1.0, 2.0, 4.0]), "").unwrap();
    assert!(honest.is_consistent());
    for changed in [
        Measurement {
            median: 1.9,
            ..honest.clone()
        },
        Measurement {
            high: 4.0,
            ..honest.clone()
        },
        Measurement {
            outliers: vec![4.0],
            ..honest.clone()
        },
    ] {
        assert!(!changed.is_consistent(), "{changed:?}");
    }
}

#[rstest]
#[case(0)]
#[case(1)]
#[case(33)]
#[case(4096)]
#[case(100_003)]
fn every_byte_is_read_once_whatever_the_number_of_threads(#[case] count: usize) {
    let mut values = vec![1_u64; count];
    for threads in [1, 2, 3, 7] {
        assert!(summing_seconds(&values, threads).is_ok(), "{count} by {threads}");
    }
    if let Some(last) = values.last_mut() {
        *last = 2;
        let error = summing_seconds(&values, 2).unwrap_err().to_string();
        assert!(error.contains(&format!("the sum of {count} ones")), "{error}");
    }
}

proptest! {
    /// Equidistant values: the quantile `p` lies at the share `p` of the way.
    #[test]
    fn equidistant_values_have_the_quartiles_of_a_line(start in -1e3..1e3_f64, step in 0.0..1e3_f64, count in 1_usize..40) {
        let values: Vec<f64> = (0..count).map(|index| start + step * index as f64).rev().collect();
        let length = step * (count - 1) as f64;
        let samples = Samples::new(values);
        let (low, high) = samples.quartiles().unwrap();
        let near = |found: f64, expected: f64| (found - expected).abs() <= 1e-9 * (1.0 + start.abs() + length);
        prop_assert!(near(low, start + length / 4.0));
        prop_assert!(near(samples.median().unwrap(), start + length / 2.0));
        prop_assert!(near(high, start + length * 3.0 / 4.0));
        prop_assert!(samples.outliers().is_empty());
    }

    #[test]
    fn the_order_of_the_repeats_changes_nothing_that_is_said(values in prop::collection::vec(-1e6..1e6_f64, 1..30)) {
        let forward = Samples::new(values.clone());
        let backward = Samples::new(values.into_iter().rev().collect());
        prop_assert_eq!(forward.median(), backward.median());
        prop_assert_eq!(forward.quartiles(), backward.quartiles());
        prop_assert_eq!(forward.outliers(), backward.outliers());
    }

    #[test]
    fn quartiles_stand_in_order_within_the_values(values in prop::collection::vec(-1e6..1e6_f64, 1..30)) {
        let samples = Samples::new(values.clone());
        let (low, high) = samples.quartiles().unwrap();
        let median = samples.median().unwrap();
        let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        prop_assert!(smallest <= low && low <= median && median <= high && high <= largest);
    }
}
