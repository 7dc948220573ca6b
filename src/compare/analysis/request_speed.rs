//! How fast single requests were answered. Latencies count from when a request was due, in seconds.

use super::thresholds::AT_ONCE_SECONDS;
use super::tokens::answer_tokens;
use crate::compare::RequestRecord;

/// Until the first piece of text; `None` where there is none.
pub(in crate::compare) fn time_to_first_token(request: &RequestRecord) -> Option<f64> {
    Some(request.times.pieces.first()? - request.due)
}

/// For each token after the first; `None` where there is none, or all [came at once](came_at_once).
pub(in crate::compare) fn time_per_output_token(request: &RequestRecord) -> Option<f64> {
    let (tokens, _) = answer_tokens(request);
    let first = request.times.pieces.first()?;
    (tokens > 1 && !came_at_once(request)).then(|| (request.times.ended - first) / (tokens - 1) as f64)
}

/// Whether an answer of several tokens came in one moment: then something held it back, and when its pieces came does not tell
/// how fast they were written.
pub(super) fn came_at_once(request: &RequestRecord) -> bool {
    let pieces = &request.times.pieces;
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
        return false;
    };
    answer_tokens(request).0 > 1 && last - first < AT_ONCE_SECONDS * pieces.len() as f64
}

/// Tokens of the answer in a second, reading the prompt included.
pub(in crate::compare) fn tokens_per_second(request: &RequestRecord) -> Option<f64> {
    let (tokens, _) = answer_tokens(request);
    speed(tokens as f64, request.times.ended - request.due)
}

/// Tokens of the prompt that were computed, in a second until the first piece of text; `None` where the server does not count
/// them, or the request had to wait for the model too.
pub(in crate::compare) fn prompt_tokens_per_second(request: &RequestRecord) -> Option<f64> {
    let usage = request.usage?;
    let loading = request.timings.and_then(|timings| timings.load);
    if loading.is_some_and(|seconds| seconds > 0.0) {
        return None;
    }
    // One that does not tell what was cached is taken at its word: each prompt begins with a number of its own.
    let computed = usage.prompt_tokens.saturating_sub(usage.cached_tokens.unwrap_or(0));
    speed(computed as f64, time_to_first_token(request)?).filter(|_| computed > 0)
}

/// Tokens of all answers in a second, from when the first request was due to when the last one ended, failed or not.
pub(in crate::compare) fn throughput(requests: &[&RequestRecord]) -> Option<f64> {
    let answered = requests.iter().filter(|request| request.failure.is_none());
    // A sum of counts that a server made up may exceed any integer.
    let tokens: f64 = answered.map(|request| answer_tokens(request).0 as f64).sum();
    let due = requests.iter().map(|request| request.due).reduce(f64::min)?;
    let ended = requests.iter().map(|request| request.times.ended).reduce(f64::max)?;
    speed(tokens, ended - due)
}

fn speed(tokens: f64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| tokens / seconds)
}

#[cfg(test)]
mod tests {
    use super::{prompt_tokens_per_second, throughput, time_per_output_token, time_to_first_token};
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
        assert_eq!(time_per_output_token(&request), Some(0.5));
        // 100 of 120 tokens were computed.
        assert_eq!(prompt_tokens_per_second(&request), Some(50.0));
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
        assert_eq!(prompt_tokens_per_second(&request), None);
        request.timings = None;
        request.usage = None;
        assert_eq!(prompt_tokens_per_second(&request), None);
        request.times.pieces.clear();
        assert_eq!(time_to_first_token(&request), None);
        assert_eq!(time_per_output_token(&request), None);
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
}
