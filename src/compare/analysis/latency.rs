//! How fast answers come, by group of requests. Latencies count from when a request was due.

use super::measure::{FIRST_ANSWER, LEAK, Measure, group_name, groups, measured};
use super::request_speed::{
    self, came_at_once, prompt_tokens_per_second, time_per_output_token, time_to_first_token, tokens_per_second,
};
use crate::compare::{FailureKind, Outcome, Plan, RequestRecord, TestRecord, Unit};

/// Every measure of the requests of some rounds of `scenario`.
pub(super) fn measures(plan: &Plan, scenario: &str, tests: &[&TestRecord]) -> Vec<Measure> {
    let mut measures = Vec::new();
    for group in groups(tests) {
        let requests: Vec<&RequestRecord> = measured(tests).filter(|request| request.group == group).collect();
        let answered: Vec<&RequestRecord> = requests
            .iter()
            .copied()
            .filter(|request| request.failure.is_none())
            .collect();
        let mut of_group = vec![end_to_end(&answered)];
        // What memory does is asked there, and how long loading takes; speed is measured elsewhere, without a cache and often.
        if !group.starts_with(LEAK) && !group.starts_with(FIRST_ANSWER) {
            of_group.extend(of_answers(&answered));
            of_group.push(throughput(tests, group));
        }
        of_group.push(error_share(&requests));
        let name = group_name(plan, scenario, group);
        measures.extend(of_group.into_iter().map(|measure| measure.of_group(&name)));
    }
    measures
}

fn of_answers(answered: &[&RequestRecord]) -> [Measure; 5] {
    let of_each =
        |value: fn(&RequestRecord) -> Option<f64>| answered.iter().filter_map(|request| value(request)).collect();
    [
        Measure::new(
            "time-to-first-token",
            "Time to first token: first text \u{2212} due",
            Unit::Seconds,
            Some(false),
            of_each(time_to_first_token),
        ),
        Measure::new(
            "inter-token-latency",
            "Inter-token latency: between one piece of text and the next",
            Unit::Seconds,
            Some(false),
            answered
                .iter()
                .filter(|request| !came_at_once(request))
                .flat_map(|request| gaps(request))
                .collect(),
        ),
        Measure::new(
            "time-per-output-token",
            "Time per output token: (end \u{2212} first text) / (tokens \u{2212} 1)",
            Unit::Seconds,
            Some(false),
            of_each(time_per_output_token),
        ),
        Measure::new(
            "tokens-per-second",
            "Tokens per second of one answer: tokens / (end \u{2212} due)",
            Unit::TokensPerSecond,
            Some(true),
            of_each(tokens_per_second),
        ),
        Measure::new(
            "prompt-tokens-per-second",
            "Prompt tokens per second: tokens that were not cached / (first text \u{2212} due)",
            Unit::TokensPerSecond,
            Some(true),
            of_each(prompt_tokens_per_second),
        ),
    ]
}

fn end_to_end(answered: &[&RequestRecord]) -> Measure {
    Measure::new(
        "end-to-end",
        "End to end: end \u{2212} due",
        Unit::Seconds,
        Some(false),
        answered
            .iter()
            .map(|request| request.times.ended - request.due)
            .collect(),
    )
}

fn gaps(request: &RequestRecord) -> impl Iterator<Item = f64> {
    let pieces = &request.times.pieces;
    pieces.iter().zip(pieces.iter().skip(1)).map(|(one, next)| next - one)
}

/// One value for each round that was finished: one that was cut short has requests that nothing followed.
fn throughput(tests: &[&TestRecord], group: &str) -> Measure {
    let completed = tests.iter().filter(|test| test.outcome == Outcome::Completed);
    let values = completed.filter_map(|test| {
        let of_group: Vec<&RequestRecord> = test.requests.iter().filter(|request| request.group == group).collect();
        request_speed::throughput(&of_group)
    });
    Measure::new(
        "throughput",
        "Throughput: tokens of all answers / (last end \u{2212} first due)",
        Unit::TokensPerSecond,
        Some(true),
        values.collect(),
    )
}

/// One value for all rounds together.
fn error_share(requests: &[&RequestRecord]) -> Measure {
    let ended = requests.iter().filter(|request| !was_interrupted(request)).count();
    let failed = requests.iter().filter(|request| has_failed(request)).count();
    let share = (ended > 0).then(|| failed as f64 / ended as f64);
    Measure::new(
        "error-share",
        "Requests that failed",
        Unit::Share,
        Some(false),
        share.into_iter().collect(),
    )
}

fn was_interrupted(request: &RequestRecord) -> bool {
    let failure = request.failure.as_ref();
    failure.is_some_and(|failure| failure.kind == FailureKind::Interrupted)
}

/// Whether a request failed by itself: one that the user ended did not.
pub(super) fn has_failed(request: &RequestRecord) -> bool {
    request.failure.is_some() && !was_interrupted(request)
}
