//! What single requests say: the values behind medians.

use crate::compare::{Format, Record, RequestRecord, TestRecord};

/// How the groups of requests begin that are not measured.
const WARM_UP: &str = "warm-up";
/// How the groups of leak tests begin, of which only memory counts: their prompts may come from a cache.
const LEAK: &str = "leak-";

/// Tests of a pair with a format that have requests, in order.
pub(super) fn tests<'record>(
    record: &'record Record,
    pair: &'record str,
    format: Format,
) -> impl Iterator<Item = &'record TestRecord> {
    let tests = record.tests.iter();
    tests.filter(move |test| test.key.pair == pair && test.key.format == format)
}

/// Requests of a test whose speed counts, failed ones among them.
pub(super) fn measured(test: &TestRecord) -> impl Iterator<Item = &RequestRecord> {
    let is_left_out = |group: &str| group.starts_with(WARM_UP) || group.starts_with(LEAK);
    test.requests.iter().filter(move |request| !is_left_out(&request.group))
}

/// Those of them that were answered.
pub(super) fn answered(test: &TestRecord) -> impl Iterator<Item = &RequestRecord> {
    measured(test).filter(|request| request.failure.is_none())
}

/// Seconds from when the request was due to its first piece of text.
pub(super) fn time_to_first_token(request: &RequestRecord) -> Option<f64> {
    let first = request.times.pieces.first()?;
    Some(first - request.due).filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
}

/// Tokens of the answer: as the server counts, else by this side's tokenizer, else pieces of the stream.
fn answer_tokens(request: &RequestRecord) -> usize {
    // A server that counts nothing while text came does not count.
    let by_server = request.usage.map(|usage| usage.completion_tokens);
    let counted = by_server.filter(|&tokens| tokens > 0).or(request.counted_tokens);
    counted.unwrap_or(request.times.pieces.len())
}

/// Tokens in a second after the first one.
pub(super) fn writing_speed(request: &RequestRecord) -> Option<f64> {
    let first = request.times.pieces.first()?;
    let following = answer_tokens(request).checked_sub(1)? as f64;
    speed(following, request.times.ended - first)
}

/// Tokens of the prompt that were computed, in a second until the first piece of text; `None` where the request had to wait
/// for the model too.
pub(super) fn reading_speed(request: &RequestRecord) -> Option<f64> {
    let usage = request.usage?;
    let loaded = request.timings.and_then(|timings| timings.load);
    if loaded.is_some_and(|seconds| seconds > 0.0) {
        return None;
    }
    let computed = usage.prompt_tokens.checked_sub(usage.cached_tokens.unwrap_or(0))?;
    speed(computed as f64, time_to_first_token(request)?)
}

/// Tokens of the prompt, those from a cache included.
pub(super) fn prompt_tokens(request: &RequestRecord) -> Option<usize> {
    request.usage.map(|usage| usage.prompt_tokens)
}

/// Tokens of all answers in a second, from when the first request was due to when the last one ended, failed or not.
pub(super) fn throughput(requests: &[&RequestRecord]) -> Option<f64> {
    let answered = requests.iter().filter(|request| request.failure.is_none());
    let tokens: usize = answered.map(|request| answer_tokens(request)).sum();
    let due = requests.iter().map(|request| request.due).reduce(f64::min)?;
    let ended = requests.iter().map(|request| request.times.ended).reduce(f64::max)?;
    speed(tokens as f64, ended - due)
}

fn speed(tokens: f64, seconds: f64) -> Option<f64> {
    (tokens > 0.0 && seconds > 0.0).then(|| tokens / seconds)
}

/// The lower quartile, the median and the upper quartile, between values on a straight line: definition 7 of Hyndman and Fan
/// (1996, The American Statistician 50, 361-365), the default of R and `NumPy`. `None` without a value.
pub(super) fn quartiles(values: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let quantile = |probability: f64| {
        let place = probability * last as f64;
        let below = sorted.get(place.floor() as usize)?;
        let above = sorted.get(place.ceil() as usize)?;
        Some(below + (above - below) * place.fract())
    };
    Some([quantile(0.25)?, quantile(0.5)?, quantile(0.75)?])
}

#[cfg(test)]
mod tests {
    use super::{answer_tokens, quartiles, reading_speed, throughput, time_to_first_token, writing_speed};
    use crate::compare::{AnswerTimes, Failure, FailureKind, RequestRecord, ServerTimings, Usage};

    fn request() -> RequestRecord {
        RequestRecord {
            group: "measure".to_owned(),
            concurrency: 1,
            due: 10.0,
            times: AnswerTimes {
                sent: 10.5,
                headers: Some(10.6),
                pieces: vec![12.0, 13.0, 14.0],
                ended: 16.0,
            },
            characters: 12,
            text: "three pieces".to_owned(),
            finish_reason: Some("stop".to_owned()),
            usage: Some(Usage {
                prompt_tokens: 120,
                completion_tokens: 9,
                cached_tokens: Some(20),
            }),
            counted_tokens: None,
            timings: None,
            failure: None,
        }
    }

    #[test]
    fn times_count_from_when_the_request_was_due() {
        let request = request();
        assert_eq!(time_to_first_token(&request), Some(2.0));
        // 8 tokens after the first, in 4 seconds.
        assert_eq!(writing_speed(&request), Some(2.0));
        // 100 of 120 tokens were computed.
        assert_eq!(reading_speed(&request), Some(50.0));
        // 18 tokens in 6 seconds.
        assert_eq!(throughput(&[&request, &request]), Some(3.0));
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let mut request = request();
        request.timings = Some(ServerTimings {
            load: Some(3.0),
            ..ServerTimings::default()
        });
        assert_eq!(reading_speed(&request), None);
        request.timings = None;
        request.usage = None;
        assert_eq!(reading_speed(&request), None);
        request.times.pieces.clear();
        assert_eq!(time_to_first_token(&request), None);
        assert_eq!((writing_speed(&request), throughput(&[&request])), (None, None));
    }

    #[test]
    fn who_knows_best_counts_the_tokens_of_an_answer() {
        let mut request = request();
        request.counted_tokens = Some(5);
        assert_eq!(answer_tokens(&request), 9);
        if let Some(usage) = &mut request.usage {
            usage.completion_tokens = 0;
        }
        assert_eq!(answer_tokens(&request), 5);
        request.counted_tokens = None;
        assert_eq!(answer_tokens(&request), 3);
    }

    #[test]
    fn a_failed_request_takes_time_and_gives_no_token() {
        let mut failed = request();
        failed.times.ended = 19.0;
        failed.failure = Some(Failure {
            kind: FailureKind::Stalled,
            reason: "no piece came".to_owned(),
            hint: None,
        });
        // 9 tokens in 9 seconds.
        assert_eq!(throughput(&[&request(), &failed]), Some(1.0));
    }

    #[test]
    fn quartiles_are_those_of_numpy() {
        assert_eq!(quartiles(&[]), None);
        assert_eq!(quartiles(&[3.0]), Some([3.0; 3]));
        // numpy.percentile([1, 2, 3, 10], [25, 50, 75])
        assert_eq!(quartiles(&[10.0, 1.0, 3.0, 2.0]), Some([1.75, 2.5, 4.75]));
    }
}
