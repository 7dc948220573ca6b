//! What the engine refuses before anything runs.

use std::collections::{BTreeMap, BTreeSet};

use mlx_diagnose::engine::{Request, RequestLimits, SamplingSettings};
use rstest::rstest;

const LIMITS: RequestLimits = RequestLimits {
    context: 32,
    vocabulary: 100,
};

fn request() -> Request {
    Request {
        prompt: vec![1, 2, 3],
        max_tokens: 29,
        stop_ids: BTreeSet::from([2]),
        stop_strings: vec!["\n".to_owned()],
        sampling: SamplingSettings {
            temperature: 0.7,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.05,
            repetition_penalty: 1.1,
            logit_bias: BTreeMap::from([(99, -100.0)]),
            seed: Some(u64::MAX),
            ..SamplingSettings::default()
        },
        top_log_probabilities: Some(20),
        adapter: Some("voice".to_owned()),
        priority: i32::MIN,
    }
}

fn sampled(change: impl FnOnce(&mut SamplingSettings)) -> Request {
    let mut request = request();
    change(&mut request.sampling);
    request
}

#[test]
fn a_request_that_just_fits_is_taken() {
    assert_eq!(request().validate(LIMITS), Ok(()));
}

#[test]
fn a_refusal_names_every_fault_at_once() {
    let refused = Request {
        prompt: vec![1, 100, 101],
        max_tokens: 30,
        stop_strings: vec![String::new(), "x".repeat(1025)],
        top_log_probabilities: Some(21),
        adapter: Some(String::new()),
        ..sampled(|sampling| sampling.temperature = -1.0)
    };
    insta::assert_snapshot!(refused.validate(LIMITS).unwrap_err(), @r"
    the request cannot be answered
      prompt[1]: found token id 100, expected an id below 100
      max_tokens: found 30 after a prompt of 3 tokens, expected 32 or fewer together, the model's context
      stop_strings[0]: found 0 bytes, expected 1 to 1024 bytes
      stop_strings[1]: found 1025 bytes, expected 1 to 1024 bytes
      temperature: found -1, expected 0 or more
      top_log_probabilities: found 21, expected 20 or fewer
      adapter: found an empty name, expected the name of an adapter, or none
      hint: change what is named and ask again
    ");
}

#[rstest]
#[case::no_prompt(Request { prompt: vec![], ..request() }, "prompt: found no tokens, expected at least one token")]
#[case::nothing_asked(Request { max_tokens: 0, ..request() }, "max_tokens: found 0, expected 1 or more")]
#[case::over_the_context(
    Request { max_tokens: usize::MAX, ..request() },
    "max_tokens: found 18446744073709551615 after a prompt of 3 tokens, expected 32 or fewer together, the model's context"
)]
#[case::stops(Request { stop_strings: vec!["x".into(); 17], ..request() }, "stop_strings: found 17 texts, expected 16 or fewer")]
#[case::not_a_number(sampled(|s| s.temperature = f32::NAN), "temperature: found NaN, expected 0 or more")]
#[case::infinite(sampled(|s| s.temperature = f32::INFINITY), "temperature: found inf, expected 0 or more")]
#[case::top_p(sampled(|s| s.top_p = 1.5), "top_p: found 1.5, expected 0 to 1")]
#[case::min_p(sampled(|s| s.min_p = -0.1), "min_p: found -0.1, expected 0 to 1")]
#[case::penalty(sampled(|s| s.repetition_penalty = -1.0), "repetition_penalty: found -1, expected 0 or more")]
#[case::presence(sampled(|s| s.presence_penalty = f32::NAN), "presence_penalty: found NaN, expected a finite number")]
#[case::frequency(
    sampled(|s| s.frequency_penalty = f32::NEG_INFINITY),
    "frequency_penalty: found -inf, expected a finite number"
)]
#[case::biased_token(
    sampled(|s| { s.logit_bias.insert(100, 1.0); }),
    "logit_bias.100: found no such token, expected an id below 100"
)]
#[case::bias(
    sampled(|s| { s.logit_bias.insert(5, f32::INFINITY); }),
    "logit_bias.5: found inf, expected a finite number"
)]
fn one_fault_is_named(#[case] request: Request, #[case] problem: &str) {
    let problems = request.validate(LIMITS).unwrap_err().problems;
    let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(found, [problem]);
}

#[test]
fn a_small_vocabulary_limits_the_alternatives_that_can_be_reported() {
    let limits = RequestLimits {
        vocabulary: 10,
        ..LIMITS
    };
    let refused = Request {
        sampling: SamplingSettings::default(),
        ..request()
    };
    let message = refused.validate(limits).unwrap_err().to_string();
    assert!(
        message.contains("top_log_probabilities: found 20, expected 10 or fewer"),
        "{message}"
    );
}
