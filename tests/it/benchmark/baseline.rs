//! An earlier result against this one: what counts as slower, and what is not compared at all.

use mlx_diagnose::bench::{
    BenchResults, Comparison, Incomparable, Measurement, Profile, Samples, Unit, Verdict, compare, verdict,
};
use mlx_diagnose::evidence::{Detected, Slot};
use proptest::prelude::*;
use rstest::rstest;

use crate::benchmark::report::fixed;

fn figure(unit: Unit, values: &[f64]) -> Measurement {
    Measurement::new("figure", unit, Samples::new(values.to_vec()), "").unwrap()
}

fn opposite(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Slower => Verdict::Faster,
        Verdict::Faster => Verdict::Slower,
        other => other,
    }
}

/// Units that are judged, and values of which the largest is less than twice the smallest.
fn judged() -> impl Strategy<Value = (Unit, Vec<f64>)> {
    let units = [
        Unit::Seconds,
        Unit::Bytes,
        Unit::Joules,
        Unit::TokensPerSecond,
        Unit::GigabytesPerSecond,
        Unit::GigaflopsPerSecond,
        Unit::TokensPerJoule,
    ];
    let values = (1e-6..1e9_f64, prop::collection::vec(1.0..1.99_f64, 3..12));
    let scaled = values.prop_map(|(scale, values)| values.into_iter().map(|value| scale * value).collect());
    (prop::sample::select(units.to_vec()), scaled)
}

proptest! {
    #[test]
    fn what_got_slower_one_way_got_faster_the_other_way(
        (unit, then) in judged(),
        (_, now) in judged(),
        scale in 0.1..10.0_f64,
    ) {
        let now: Vec<f64> = now.iter().map(|value| value / now[0] * then[0] * scale).collect();
        let (then, now) = (figure(unit, &then), figure(unit, &now));
        prop_assert_eq!(verdict(&then, &now), opposite(verdict(&now, &then)));
    }

    #[test]
    fn values_within_the_spread_of_the_others_are_never_slower(
        (unit, then) in judged(),
        picked in prop::collection::vec(any::<prop::sample::Index>(), 3..12),
    ) {
        let outliers = Samples::new(then.clone()).outliers();
        let usual: Vec<f64> = then.iter().copied().filter(|value| !outliers.contains(value)).collect();
        let now: Vec<f64> = picked.iter().map(|index| usual[index.index(usual.len())]).collect();
        prop_assert_eq!(verdict(&figure(unit, &then), &figure(unit, &now)), Verdict::Same);
    }

    #[test]
    fn a_doubled_time_and_a_halved_rate_are_always_slower((unit, then) in judged()) {
        let factor = match unit {
            Unit::Seconds | Unit::Bytes | Unit::Joules => 2.0,
            _ => 0.5,
        };
        let now: Vec<f64> = then.iter().map(|value| factor * value).collect();
        prop_assert_eq!(verdict(&figure(unit, &then), &figure(unit, &now)), Verdict::Slower);
        prop_assert_eq!(verdict(&figure(unit, &now), &figure(unit, &then)), Verdict::Faster);
    }

    #[test]
    fn a_difference_of_less_than_a_tenth_is_never_slower((unit, then) in judged(), factor in 0.92..1.09_f64) {
        let now: Vec<f64> = then.iter().map(|value| factor * value).collect();
        prop_assert_eq!(verdict(&figure(unit, &then), &figure(unit, &now)), Verdict::Same);
    }
}

#[rstest]
#[case::two_values(Unit::Seconds, &[1.0, 1.0], &[5.0, 5.0, 5.0])]
#[case::one_value_now(Unit::Seconds, &[1.0, 1.0, 1.0], &[5.0])]
#[case::a_share(Unit::Share, &[0.2, 0.2, 0.2], &[0.9, 0.9, 0.9])]
#[case::nothing_to_divide_by(Unit::Bytes, &[0.0, 0.0, 0.0], &[5.0, 5.0, 5.0])]
fn what_cannot_be_told_is_not_judged(#[case] unit: Unit, #[case] then: &[f64], #[case] now: &[f64]) {
    assert_eq!(verdict(&figure(unit, then), &figure(unit, now)), Verdict::NotJudged);
}

#[test]
fn one_slow_repeat_neither_hides_nor_makes_a_slower_figure() {
    let then = figure(Unit::Seconds, &[1.0, 1.01, 1.02, 1.01, 9.0]);
    let slower = figure(Unit::Seconds, &[1.3, 1.31, 1.32, 1.33, 1.31]);
    let same = figure(Unit::Seconds, &[1.01, 1.0, 1.02, 1.01, 7.0]);
    assert_eq!(verdict(&then, &slower), Verdict::Slower);
    assert_eq!(verdict(&then, &same), Verdict::Same);
}

#[test]
fn figures_of_other_units_are_not_judged() {
    let (seconds, bytes) = (figure(Unit::Seconds, &[1.0; 5]), figure(Unit::Bytes, &[9.0; 5]));
    assert_eq!(verdict(&seconds, &bytes), Verdict::NotJudged);
}

/// The fixed results with every value of a figure changed.
fn with(subject: &str, name: &str, change: impl Fn(f64) -> f64) -> BenchResults {
    let mut results = fixed();
    for of in results.subjects.iter_mut().filter(|of| of.name == subject) {
        let Slot::Ran(measured) = &mut of.outcome else { continue };
        for figure in measured.figures.iter_mut().filter(|figure| figure.name == name) {
            let samples = figure.samples.map(&change);
            *figure = Measurement::new(name, figure.unit, samples, figure.note.clone()).unwrap();
        }
    }
    assert_ne!(results, fixed());
    results
}

fn compared(then: &BenchResults, now: &BenchResults) -> Comparison {
    compare(then, now).unwrap()
}

#[test]
fn a_result_is_as_fast_as_itself() {
    let comparison = compared(&fixed(), &fixed());
    assert_eq!(comparison.slower().count(), 0);
    assert!(comparison.changes.len() > 3 && comparison.only_now.is_empty() && comparison.only_then.is_empty());
    assert_eq!(comparison.notes, [] as [String; 0]);
}

#[test]
fn the_worst_of_what_got_slower_comes_first() {
    let mut now = with("training", "step", |seconds| 1.5 * seconds);
    let rates = with("generation", "decode", |rate| rate / 3.0);
    now.subjects[1] = rates.subjects[1].clone();
    let comparison = compared(&fixed(), &now);
    let slower: Vec<&str> = comparison.slower().map(|change| change.name.as_str()).collect();
    assert_eq!(slower, ["decode", "step"]);
    assert_eq!(comparison.changes[0].name, "decode");
    let times: Vec<f64> = comparison.slower().filter_map(|change| change.times_better).collect();
    assert!(
        (times[0] - 1.0 / 3.0).abs() < 1e-12 && (times[1] - 2.0 / 3.0).abs() < 1e-12,
        "{times:?}"
    );
}

#[test]
fn figures_of_one_side_are_listed_and_subjects_that_were_not_asked_for_are_not() {
    let mut now = fixed();
    now.subjects.remove(1);
    let Slot::Ran(training) = &mut now.subjects[0].outcome else {
        panic!("it ran")
    };
    training.figures.remove(1);
    let comparison = compared(&fixed(), &now);
    assert_eq!(comparison.only_then, ["training/step"]);
    assert_eq!(compared(&now, &fixed()).only_now, ["training/step"]);
}

#[test]
fn another_mlx_and_a_busy_machine_are_noted() {
    let mut then = fixed();
    then.system.mlx_version = "0.31.9".to_owned();
    then.system.load_average = Detected::Found([7.0, 1.0, 1.0]);
    let notes = compared(&then, &fixed()).notes.join("\n");
    assert!(notes.contains("the version of MLX was 0.31.9 and is 0.32.2"), "{notes}");
    assert!(notes.contains("of the baseline: the machine was busy"), "{notes}");
}

type Changed = fn(&mut BenchResults);

#[rstest]
#[case::processor("processor", |results: &mut BenchResults| results.system.processor = Detected::Found("Apple M9".to_owned()))]
#[case::unknown_processor("processor", |results: &mut BenchResults| results.system.processor = Detected::absent("it does not say"))]
#[case::cores("usable cores", |results: &mut BenchResults| results.system.usable_cores = 64)]
#[case::gpu("GPU", |results: &mut BenchResults| results.system.gpu = Detected::Found("NVIDIA H100".to_owned()))]
#[case::backend("backend", |results: &mut BenchResults| results.system.backend = "metal".to_owned())]
#[case::platform("platform", |results: &mut BenchResults| results.system.platform = "macos aarch64".to_owned())]
#[case::profile("profile", |results: &mut BenchResults| results.system.profile = Profile::Debug)]
#[case::sizes("size of the work", |results: &mut BenchResults| results.settings.sizes.training_rows = 9)]
#[case::model("model", |results: &mut BenchResults| results.model.values = 1)]
#[case::dtype("model", |results: &mut BenchResults| results.model.dtype = "bfloat16".to_owned())]
fn figures_of_something_else_are_not_compared(#[case] what: &str, #[case] change: Changed) {
    let mut then = fixed();
    change(&mut then);
    for error in [
        compare(&then, &fixed()).unwrap_err(),
        compare(&fixed(), &then).unwrap_err(),
    ] {
        let Incomparable {
            what: found, then, now, ..
        } = &error;
        assert_eq!(found, what);
        assert_ne!(then, now);
        let text = error.to_string();
        assert!(
            text.contains("\n  found: ") && text.contains("\n  expected: ") && text.contains("\n  hint: "),
            "{text}"
        );
    }
}
