//! Courses of memory whose truth is known: leaks, and everything that looks like one.

use std::f64::consts::E;

use approx::assert_relative_eq;
use mlx_diagnose::compare::analysis::leak::{growth, settled_values};
use mlx_diagnose::compare::analysis::statistics::theil_sen_slope;
use mlx_diagnose::compare::analysis::{LeakAnalysis, LeakVerdict};
use mlx_diagnose::compare::{Format, MemorySample, TestRecord};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rstest::rstest;

use crate::compare::analysis_records::{Made, answered, memory, phase, test};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;
const REQUESTS: usize = 40;
const SEEDS: u64 = 200;

/// Numbers from a seed.
struct Chance(ChaCha8Rng);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Uniform.
    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * f64::from(self.0.next_u32()) / 2_f64.powi(32)
    }

    /// Nearly normal with mean 0 and standard deviation 1: the sum of twelve uniform numbers less six.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.between(0.0, 1.0)).sum::<f64>() - 6.0
    }
}

/// What a course is made of: bytes above the start, after each request.
type Part = fn(&mut Chance) -> Vec<f64>;

fn course(value: impl FnMut(usize) -> f64) -> Vec<f64> {
    (0..REQUESTS).map(value).collect()
}

/// Pages that come and go: a quarter of a MiB up and down.
fn pages(chance: &mut Chance) -> Vec<f64> {
    course(|_| 256.0 * KIB * chance.normal())
}

/// One to four pools of 64 MiB, as glibc makes them for threads, in the first third.
fn pools(chance: &mut Chance) -> Vec<f64> {
    let count = chance.between(1.0, 5.0) as usize;
    let at: Vec<f64> = (0..count).map(|_| chance.between(0.0, REQUESTS as f64 / 3.0)).collect();
    course(|number| 64.0 * MIB * at.iter().filter(|&&at| number as f64 >= at).count() as f64)
}

/// A collector that lets 5 to 40 MiB pile up over 3 to 12 requests.
fn collector(chance: &mut Chance) -> Vec<f64> {
    let (height, period) = (chance.between(5.0, 40.0) * MIB, chance.between(3.0, 12.0));
    let begun = chance.between(0.0, period);
    course(|number| height * ((number as f64 + begun) / period).fract())
}

/// Mapped weights of 100 to 500 MiB that are paged in during the first requests.
fn weights(chance: &mut Chance) -> Vec<f64> {
    let (size, pace) = (chance.between(100.0, 500.0) * MIB, chance.between(0.3, 1.5));
    course(|number| size * (1.0 - E.powf(-(number as f64 + 1.0) / pace)))
}

/// A cache that finds less and less new: 10 to 80 MiB for each e-fold of requests.
fn cache(chance: &mut Chance) -> Vec<f64> {
    let size = chance.between(10.0, 80.0) * MIB;
    course(|number| size * (number as f64 + 1.0).ln())
}

/// A cache that grows by 8 MiB with each request until it is full, after 4 to 16.
fn limited_cache(chance: &mut Chance) -> Vec<f64> {
    let full = chance.between(4.0, 16.0);
    course(|number| 8.0 * MIB * (number as f64).min(full))
}

fn mebibyte_leak(_: &mut Chance) -> Vec<f64> {
    course(|number| MIB * number as f64)
}

fn small_leak(_: &mut Chance) -> Vec<f64> {
    course(|number| 100.0 * KIB * number as f64)
}

/// A leak of 1 MiB with each request, of which the system sees 8 at a time.
fn chunked_leak(_: &mut Chance) -> Vec<f64> {
    course(|number| 8.0 * MIB * (number / 8) as f64)
}

/// A collector of a small service: 1 to 8 MiB over 2 to 6 requests.
fn small_collector(chance: &mut Chance) -> Vec<f64> {
    let (height, period) = (chance.between(1.0, 8.0) * MIB, chance.between(2.0, 6.0));
    let begun = chance.between(0.0, period);
    course(|number| height * ((number as f64 + begun) / period).fract())
}

fn sum_of(parts: &[Part], seed: u64) -> Vec<(usize, f64)> {
    let mut chance = Chance::new(seed);
    let mut sum = vec![600.0 * MIB; REQUESTS];
    for part in parts {
        sum.iter_mut()
            .zip(part(&mut chance))
            .for_each(|(sum, bytes)| *sum += bytes);
    }
    sum.into_iter().enumerate().collect()
}

/// How many seeds are said to leak.
fn called_leaks(parts: &[Part]) -> u64 {
    let verdicts = (0..SEEDS).map(|seed| growth(&sum_of(parts, seed), seed).verdict);
    verdicts.filter(|&verdict| verdict == LeakVerdict::Leak).count() as u64
}

#[rstest]
#[case::pages(&[pages as Part])]
#[case::pools(&[pages, pools])]
#[case::a_collector(&[pages, collector])]
#[case::weights_paged_in(&[pages, weights])]
#[case::a_cache_that_fills_more_and_more_slowly(&[pages, cache])]
#[case::such_a_cache_with_pools(&[pages, pools, cache])]
#[case::a_cache_with_a_limit(&[pages, limited_cache])]
#[case::all_of_a_llama_server(&[pages, pools, weights, limited_cache])]
#[case::all_of_a_python_server(&[pages, pools, collector, weights])]
fn what_is_no_leak_is_called_one_with_none_of_200_seeds(#[case] parts: &[Part]) {
    assert_eq!(called_leaks(parts), 0, "of {SEEDS} seeds");
}

#[rstest]
#[case::alone(&[pages, mebibyte_leak])]
#[case::with_pools(&[pages, pools, mebibyte_leak])]
#[case::with_weights_paged_in(&[pages, weights, mebibyte_leak])]
#[case::with_a_small_collector(&[pages, small_collector, mebibyte_leak])]
#[case::in_chunks(&[pages, chunked_leak])]
fn a_leak_is_found_with_every_seed(#[case] parts: &[Part]) {
    assert_eq!(called_leaks(parts), SEEDS);
}

#[test]
fn a_tenth_of_a_mebibyte_with_each_request_is_found_with_nearly_every_seed() {
    // It rises by 3.9 MiB in all, of which chance makes a curve in one course of 50.
    let found = called_leaks(&[pages, small_leak]);
    assert!(found >= SEEDS - SEEDS / 20, "{found} of {SEEDS}");
}

#[test]
fn the_slope_of_a_leak_is_what_leaks() {
    let judged = growth(&sum_of(&[pages, mebibyte_leak], 3), 3);
    for slope in [judged.slope.unwrap(), judged.slope_of_second_half.unwrap()] {
        assert!(slope.low < MIB && MIB < slope.high, "{slope:?}");
        // The standard error of a slope over 20 requests is 0.0097 MiB for pages of 0.25 MiB.
        assert_relative_eq!(slope.estimate, MIB, max_relative = 0.05);
    }
}

#[test]
fn what_grew_and_stopped_settles_and_what_never_grew_is_steady() {
    for seed in 0..SEEDS {
        assert_eq!(
            growth(&sum_of(&[pages, limited_cache], seed), seed).verdict,
            LeakVerdict::Settles
        );
        assert_eq!(growth(&sum_of(&[pages], seed), seed).verdict, LeakVerdict::Steady);
    }
}

#[test]
fn nine_requests_are_too_few_to_tell() {
    let leak = |count: usize| -> Vec<(usize, f64)> { (0..count).map(|number| (number, MIB * number as f64)).collect() };
    assert_eq!(growth(&leak(9), 1).verdict, LeakVerdict::Unknown);
    assert_eq!(growth(&leak(10), 1).verdict, LeakVerdict::Leak);
    assert_eq!(growth(&[], 1).verdict, LeakVerdict::Unknown);
}

#[test]
fn a_course_of_a_hundred_thousand_requests_is_judged_with_the_same_slope() {
    let mut chance = Chance::new(4);
    let values: Vec<(usize, f64)> = (0..100_000)
        .map(|number| {
            (
                number,
                600.0 * MIB + 0.1 * MIB * number as f64 + 256.0 * KIB * chance.normal(),
            )
        })
        .collect();
    let judged = growth(&values, 4);
    assert_eq!(judged.verdict, LeakVerdict::Leak);
    assert_relative_eq!(judged.slope.unwrap().estimate, 0.1 * MIB, max_relative = 1e-3);
}

#[test]
fn the_same_course_is_always_judged_alike() {
    let values = sum_of(&[pages, small_leak], 5);
    assert_eq!(growth(&values, 9), growth(&values, 9));
}

/// A request each second that is answered within half of one; memory is what `bytes` says after each, and far above it while
/// an answer is written.
fn leak_test(
    format: Format,
    round: usize,
    groups: &[(&str, &dyn Fn(usize) -> f64)],
) -> (TestRecord, Vec<MemorySample>) {
    let mut test = test("memory-leak", format, round);
    let mut samples = Vec::new();
    let mut at = 0.0;
    for &(group, bytes) in groups {
        // A first request that is not measured, with a value of its own.
        for (group, number) in [("warm-up", 0)]
            .into_iter()
            .chain((0..REQUESTS).map(|number| (group, number)))
        {
            let request = answered(group, at, 0.1, 0.1, 5);
            assert_relative_eq!(request.times.ended, at + 0.5, epsilon = 1e-9);
            test.requests.push(request);
            let settled = if group == "warm-up" { 1.0 } else { bytes(number) };
            samples.push(memory(at + 0.25, (settled + 300.0 * MIB) as u64));
            samples.extend([0.6, 0.75, 0.9].map(|after| memory(at + after, settled as u64)));
            at += 1.0;
        }
    }
    test.phases = vec![phase("load", -1.0, 0.0), phase("unload", at, at + 1.0)];
    samples.push(memory(at + 0.5, 0));
    (test, samples)
}

fn steady(_: usize) -> f64 {
    600.0 * MIB
}

fn leaking(number: usize) -> f64 {
    600.0 * MIB + MIB * number as f64
}

fn leaks(groups: &[(&str, &dyn Fn(usize) -> f64)]) -> Vec<LeakAnalysis> {
    let (test, samples) = leak_test(Format::Mlx, 0, groups);
    Made::of(&["memory-leak"]).with(test, samples).judged().leaks
}

#[test]
fn a_settled_value_is_what_memory_is_between_two_requests() {
    let (test, samples) = leak_test(Format::Mlx, 0, &[("leak-cache-off", &leaking)]);
    let values = settled_values(&test, &samples, "leak-cache-off");
    let expected: Vec<(usize, f64)> = (0..REQUESTS).map(|number| (number, leaking(number))).collect();
    assert_eq!(values, expected);
}

#[test]
fn where_no_sample_lies_between_two_requests_the_last_before_the_next_stands_for_it() {
    let mut test = test("memory-leak", Format::Gguf, 0);
    test.requests = (0..3)
        .map(|number| answered("leak-cache-on", f64::from(number), 0.1, 0.1, 10))
        .collect();
    let samples = [memory(0.2, 5), memory(0.8, 7), memory(2.1, 9), memory(2.2, 11)];
    assert_eq!(settled_values(&test, &samples, "leak-cache-on"), [(0, 7.0), (2, 11.0)]);
    assert!(settled_values(&test, &[], "leak-cache-on").is_empty());
}

#[test]
fn a_server_that_grows_with_and_without_its_cache_leaks() {
    let leaks = leaks(&[("leak-cache-on", &leaking), ("leak-cache-off", &leaking)]);
    assert_eq!(leaks.len(), 2);
    for leak in &leaks {
        assert_eq!(leak.verdict, LeakVerdict::Leak);
        assert_eq!(leak.format, Format::Mlx);
        assert_eq!(leak.slope.unwrap().estimate, MIB);
        assert_eq!(leak.values.len(), REQUESTS);
    }
    assert_eq!([leaks[0].prompt_cache, leaks[1].prompt_cache], [true, false]);
    assert_eq!(
        leaks[1].headline,
        "MLX: memory leaks 1.05 MB with each request without prompt cache (1.05 MB to 1.05 MB)"
    );
}

#[test]
fn growth_that_the_run_without_cache_does_not_show_is_the_caches() {
    let leaks = leaks(&[("leak-cache-on", &leaking), ("leak-cache-off", &steady)]);
    assert_eq!(
        [leaks[0].verdict, leaks[1].verdict],
        [LeakVerdict::Grows, LeakVerdict::Steady]
    );
    assert_eq!(
        leaks[0].headline,
        "MLX: memory grew by 1.05 MB with each request, to the last of 40 requests, with the prompt cache on and not without it: \
         it is the cache, whose limit was not reached"
    );
}

#[test]
fn growth_with_a_cache_that_cannot_be_turned_off_may_be_a_leak_or_the_caches() {
    let leaks = leaks(&[("leak-cache-on", &leaking)]);
    assert_eq!(leaks.len(), 1);
    assert_eq!(leaks[0].verdict, LeakVerdict::Grows);
    assert!(
        leaks[0]
            .headline
            .ends_with("whether the cache fills or memory leaks, only a run without the cache tells"),
        "{}",
        leaks[0].headline
    );
}

#[test]
fn rounds_that_begin_at_other_heights_are_laid_over_each_other() {
    let higher = |number: usize| leaking(number) + 200.0 * MIB;
    let (first, first_samples) = leak_test(Format::Gguf, 0, &[("leak-cache-off", &leaking)]);
    let (second, second_samples) = leak_test(Format::Gguf, 1, &[("leak-cache-off", &higher)]);
    let made = Made::of(&["memory-leak"])
        .with(first, first_samples)
        .with(second, second_samples);
    let leaks = made.judged().leaks;
    assert_eq!(leaks.len(), 1);
    assert_eq!(leaks[0].values.len(), REQUESTS);
    assert_eq!(leaks[0].slope.unwrap().estimate, MIB);
    let points: Vec<(f64, f64)> = leaks[0]
        .values
        .iter()
        .map(|&(number, bytes)| (number as f64, bytes))
        .collect();
    assert_relative_eq!(theil_sen_slope(&points).unwrap(), MIB, max_relative = 1e-9);
}
