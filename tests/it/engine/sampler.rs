//! The sampler against mlx-lm's distributions, a filter written out by definition, and statistics.

use std::collections::BTreeMap;

use mlx_diagnose::engine::{Sampler, SamplerError, SamplingSettings};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rstest::rstest;
use serde_json::Value;

use crate::support::golden::{floats, golden, ids};

/// Single precision: mlx-lm adds hundreds of exponentials in another order, and logits around 300 are stored to 3e-5.
const LOG_PROBABILITY_TOLERANCE: f32 = 5e-5;

fn sampler(settings: SamplingSettings) -> Sampler {
    Sampler::new(settings, Some(4), 1)
}

fn at_temperature(temperature: f32) -> SamplingSettings {
    SamplingSettings {
        temperature,
        ..SamplingSettings::default()
    }
}

/// The settings of a golden case; a name that is not known here fails the test.
fn settings(case: &Value) -> SamplingSettings {
    serde_json::from_value(case["settings"].clone()).unwrap()
}

fn assert_close(found: &[f32], expected: &[f32], what: &Value) {
    for (found, expected) in found.iter().zip(expected) {
        let difference = (found - expected).abs();
        assert!(
            difference <= LOG_PROBABILITY_TOLERANCE,
            "{what}: {found} for {expected}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{what}");
}

#[test]
fn tokens_are_drawn_from_the_distribution_of_mlx_lm() {
    let golden = golden("sampler.json");
    let tokens = ids(&golden["tokens"]);
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    for case in cases {
        let logits = floats(&golden["rows"][case["row"].as_str().unwrap()]);
        let distribution = sampler(settings(case)).distribution(&logits, &tokens).unwrap();
        let (found, log_probabilities): (Vec<u32>, Vec<f32>) = distribution.into_iter().unzip();
        assert_eq!(found, ids(&case["ids"]), "{case}");
        assert_close(&log_probabilities, &floats(&case["log_probabilities"]), case);
    }
}

#[test]
fn the_log_probabilities_reported_are_those_of_mlx_lm() {
    let golden = golden("sampler.json");
    let tokens = ids(&golden["tokens"]);
    for case in golden["cases"].as_array().unwrap() {
        let logits = floats(&golden["rows"][case["row"].as_str().unwrap()]);
        let mut sampler = Sampler::new(settings(case), Some(logits.len()), 1);
        let token = sampler.sample(&logits, &tokens).unwrap();
        let reported = token.log_probabilities.unwrap();
        let by_id: BTreeMap<u32, f32> = reported.top.iter().copied().collect();
        assert_eq!(by_id.len(), logits.len());
        assert_eq!(reported.chosen, by_id[&token.id]);
        assert!(reported.top.is_sorted_by(|left, right| left.1 >= right.1));
        let expected = floats(&case["reported"]);
        let found: Vec<f32> = by_id.into_values().take(expected.len()).collect();
        assert_close(&found, &expected, case);
    }
}

/// Top-p, min-p and top-k one after the other as their definitions have them, on everything, in double precision.
fn by_definition(logits: &[f32], settings: &SamplingSettings) -> Vec<(u32, f64)> {
    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let mut left: Vec<(u32, f64)> = (0..)
        .zip(logits.iter().map(|logit| f64::from(*logit).exp() / total))
        .collect();
    left.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
    if 0.0 < settings.top_p && settings.top_p < 1.0 {
        let mut above = 0.0;
        let needed = left.iter().take_while(|(_, probability)| {
            let is_needed = above < f64::from(settings.top_p);
            above += probability;
            is_needed
        });
        let least = needed.last().unwrap().1;
        left.retain(|(_, probability)| *probability >= least);
    }
    let least = left[0].1 * f64::from(settings.min_p);
    left.retain(|(_, probability)| *probability >= least);
    if settings.top_k > 0 {
        left.truncate(settings.top_k);
    }
    let power = 1.0 / f64::from(settings.temperature);
    let total: f64 = left.iter().map(|(_, probability)| probability.powf(power)).sum();
    for (_, probability) in &mut left {
        *probability = probability.powf(power).ln() - total.ln();
    }
    left.sort_by_key(|(id, _)| *id);
    left
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(6),
        ..ProptestConfig::default()
    })]

    /// Quarters give many equal logits, and up to 3000 of them more than one round of sorting.
    #[test]
    fn filters_leave_what_their_definitions_leave(
        quarters in prop::collection::vec(-30_i32..30, 1..3000),
        top_p in prop_oneof![Just(0.0_f32), 0.001_f32..0.9999],
        min_p in prop_oneof![Just(0.0_f32), 0.0001_f32..0.9],
        top_k in prop_oneof![Just(0_usize), 1_usize..3500],
        temperature in 0.2_f32..3.0,
    ) {
        let logits: Vec<f32> = quarters.into_iter().map(|quarter| quarter as f32 / 4.0).collect();
        let settings = SamplingSettings { top_p, min_p, top_k, ..at_temperature(temperature) };
        let expected = by_definition(&logits, &settings);
        let found = sampler(settings.clone()).distribution(&logits, &[]).unwrap();
        prop_assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert_eq!(found.0, expected.0);
            prop_assert!((f64::from(found.1) - expected.1).abs() < 1e-4, "{:?} for {:?}", found, expected);
        }
        let sampled = sampler(settings).sample(&logits, &[]).unwrap();
        prop_assert!(expected.iter().any(|(id, _)| *id == sampled.id));
    }
}

/// Pearson's chi-square of `draws` counts against probabilities.
fn chi_square(counts: &BTreeMap<u32, u32>, distribution: &[(u32, f64)], draws: u32) -> f64 {
    let expected = distribution
        .iter()
        .map(|(id, probability)| (id, probability * f64::from(draws)));
    expected
        .map(|(id, expected)| (f64::from(counts.get(id).copied().unwrap_or(0)) - expected).powi(2) / expected)
        .sum()
}

#[rstest]
#[case::all_tokens(at_temperature(1.0))]
#[case::cold(at_temperature(0.6))]
#[case::hot(at_temperature(2.5))]
#[case::filtered(SamplingSettings { top_p: 0.95, min_p: 0.05, top_k: 5, ..at_temperature(0.8) })]
fn draws_are_spread_as_the_closed_form_says(#[case] settings: SamplingSettings) {
    const DRAWS: u32 = 40_000;
    // Of the chi-square distribution at 0.999 with 1 to 7 degrees of freedom.
    const CRITICAL: [f64; 7] = [10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32];
    let logits = [0.5, -1.0, 2.0, 1.25, 0.0, -0.75, 1.75, 0.25];
    let expected: Vec<(u32, f64)> = by_definition(&logits, &settings)
        .into_iter()
        .map(|(id, log_probability)| (id, log_probability.exp()))
        .collect();
    let mut sampler = sampler(SamplingSettings {
        seed: Some(2026),
        ..settings
    });
    let mut counts = BTreeMap::new();
    for _ in 0..DRAWS {
        *counts.entry(sampler.sample(&logits, &[]).unwrap().id).or_insert(0) += 1;
    }
    assert!(counts.keys().all(|drawn| expected.iter().any(|(id, _)| id == drawn)));
    let statistic = chi_square(&counts, &expected, DRAWS);
    let critical = CRITICAL[expected.len() - 2];
    assert!(
        statistic < critical,
        "chi-square {statistic} of {counts:?} for {expected:?}"
    );
}

#[test]
fn a_seed_gives_the_same_tokens_whatever_else_is_drawn() {
    let logits: Vec<f32> = (0..50).map(|id| (id as f32 * 0.7).sin()).collect();
    let seeded = |seed| SamplingSettings {
        seed: Some(seed),
        ..at_temperature(1.0)
    };
    let draw = |sampler: &mut Sampler| sampler.sample(&logits, &[]).unwrap().id;
    let mut alone = sampler(seeded(7));
    let mut among_others = sampler(seeded(7));
    let mut other = sampler(seeded(8));
    let mut fallback = Sampler::new(at_temperature(1.0), None, 7);
    let mut tokens = Vec::new();
    let mut other_tokens = Vec::new();
    for _ in 0..40 {
        let token = draw(&mut alone);
        other_tokens.push(draw(&mut other));
        assert_eq!(draw(&mut among_others), token);
        assert_eq!(draw(&mut fallback), token);
        tokens.push(token);
    }
    assert_ne!(tokens, other_tokens);
    // Saved seeds are worth something only if a later version draws the same.
    assert_eq!(tokens[..8], [6, 8, 37, 37, 29, 19, 2, 43]);
}

#[test]
fn a_draw_does_not_depend_on_whether_log_probabilities_are_reported() {
    let logits: Vec<f32> = (0..50).map(|id| (id as f32 * 0.7).sin()).collect();
    let mut silent = Sampler::new(at_temperature(1.0), None, 3);
    let mut telling = Sampler::new(at_temperature(1.0), Some(0), 3);
    for _ in 0..20 {
        let (quiet, told) = (
            silent.sample(&logits, &[]).unwrap(),
            telling.sample(&logits, &[]).unwrap(),
        );
        assert_eq!(quiet.id, told.id);
        assert_eq!(quiet.log_probabilities, None);
        assert!(told.log_probabilities.unwrap().top.is_empty());
    }
}

#[test]
fn of_equal_tokens_the_lower_ids_come_first() {
    let logits = [1.0, 3.0, 2.0, 3.0, 3.0, 2.0];
    let greedy = sampler(at_temperature(0.0)).sample(&logits, &[]).unwrap();
    assert_eq!(greedy.id, 1);
    let top: Vec<u32> = greedy
        .log_probabilities
        .unwrap()
        .top
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    assert_eq!(top, [1, 3, 4, 2]);
    let two = SamplingSettings {
        top_k: 2,
        ..at_temperature(1.0)
    };
    let left: Vec<u32> = sampler(two)
        .distribution(&logits, &[])
        .unwrap()
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    assert_eq!(left, [1, 3]);
}

#[rstest]
fn logits_that_are_not_finite_never_give_a_token(
    #[values(f32::NAN, f32::INFINITY, f32::NEG_INFINITY)] spoilt: f32,
    #[values(0.0, 1.0)] temperature: f32,
) {
    let mut sampler = sampler(at_temperature(temperature));
    for place in [0, 5, 9] {
        let mut logits = [0.25; 10];
        logits[place] = spoilt;
        let Err(SamplerError::NotFinite { id, vocabulary, .. }) = sampler.sample(&logits, &[]) else {
            panic!("{spoilt} gave a token");
        };
        assert_eq!((id, vocabulary), (place, 10));
        assert!(sampler.distribution(&logits, &[]).is_err());
    }
}

#[test]
fn a_penalty_that_leaves_the_range_of_numbers_is_an_error() {
    let mut sampler = sampler(SamplingSettings {
        repetition_penalty: f32::MIN_POSITIVE,
        ..at_temperature(1.0)
    });
    let message = sampler.sample(&[1.0, 8.0, 2.0], &[1]).unwrap_err().to_string();
    insta::assert_snapshot!(message, @r"
    the logits of the next token are not finite
      found: inf for token 1
      expected: a finite number for each of 3 tokens
      hint: run `diagnose` on the model; without bias and penalties the numbers are the model's own
    ");
}

#[test]
fn tokens_outside_the_vocabulary_and_empty_rows_are_errors() {
    let biased = SamplingSettings {
        logit_bias: BTreeMap::from([(3, 1.0)]),
        ..at_temperature(1.0)
    };
    let penalised = SamplingSettings {
        presence_penalty: 1.0,
        ..at_temperature(1.0)
    };
    let unknown = Err(SamplerError::UnknownToken { id: 3, vocabulary: 3 });
    assert_eq!(sampler(biased).sample(&[0.0; 3], &[]), unknown);
    assert_eq!(sampler(penalised).sample(&[0.0; 3], &[0, 3]), unknown);
    assert_eq!(sampler(at_temperature(1.0)).sample(&[], &[]), Err(SamplerError::Empty));
}

#[rstest]
fn extreme_temperatures_and_logits_still_give_a_token(
    #[values(f32::MIN_POSITIVE / 4.0, 1e-6, 1.0, f32::MAX)] temperature: f32,
    #[values(0.0, 0.5)] top_p: f32,
) {
    let logits = [f32::MIN, -1e30, 0.0, 1e30, f32::MAX];
    let mut sampler = sampler(SamplingSettings {
        top_p,
        min_p: f32::MIN_POSITIVE / 4.0,
        ..at_temperature(temperature)
    });
    for _ in 0..20 {
        let id = sampler.sample(&logits, &[]).unwrap().id;
        assert!(temperature == f32::MAX || id == 4, "{id}");
    }
}
