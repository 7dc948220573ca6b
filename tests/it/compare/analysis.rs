//! What is said of records whose truth is known.

use std::collections::BTreeMap;
use std::path::Path;

use approx::assert_relative_eq;
use mlx_diagnose::compare::analysis::{Analysis, Confidence, NotMeasured, analyse, is_complete};
use mlx_diagnose::compare::report::{report_files, to_text};
use mlx_diagnose::compare::{
    FailureKind, Format, MemorySample, Outcome, RequestRecord, ServerDescription, ServerKind, Start, TestRecord, Unit,
    Usage,
};

use crate::compare::analysis_records::{
    Made, answered, compared, failed, failure, figure, memory, phase, test, timings,
};

const MB: u64 = 1_000_000;
/// Within which no measure differs from one request to the next by more than its noise.
const JITTER: [f64; 8] = [1.0, 1.01, 0.99, 1.005, 0.995, 1.008, 0.992, 1.0];

/// How one side does.
#[derive(Clone, Copy)]
struct Pace {
    first: f64,
    gap: f64,
    at_once: f64,
    memory: u64,
    load: f64,
}

const SLOW: Pace = Pace {
    first: 0.2,
    gap: 0.04,
    at_once: 0.04,
    memory: 1000 * MB,
    load: 4.0,
};
const FAST: Pace = Pace {
    first: 0.1,
    gap: 0.02,
    at_once: 0.02,
    memory: 700 * MB,
    load: 2.0,
};

fn requests(group: &str, pace: Pace) -> Vec<RequestRecord> {
    let jitter = JITTER.into_iter().enumerate();
    jitter
        .map(|(number, jitter)| answered(group, 10.0 * number as f64, pace.first * jitter, pace.gap * jitter, 11))
        .collect()
}

/// One side of all that decides.
fn side(made: Made, format: Format, pace: Pace) -> Made {
    let mut simple = test("simple-generation", format, 0);
    simple.requests = requests("measure", pace);
    let samples = vec![
        memory(0.0, pace.memory / 2),
        memory(1.0, pace.memory),
        memory(2.0, pace.memory - 1),
    ];
    let mut loaded = test("cold-start", format, 0);
    loaded.figures = ["ready-cold", "ready-warm"]
        .map(|name| figure(name, Unit::Seconds, &[pace.load]))
        .to_vec();
    let mut made = made.with(simple, samples.clone()).with(loaded, samples.clone());
    for (round, jitter) in JITTER.into_iter().enumerate().take(5) {
        let mut concurrent = test("concurrency", format, round);
        let pace = Pace {
            gap: pace.at_once * jitter,
            ..pace
        };
        concurrent.requests = requests("concurrency-4", pace);
        concurrent.requests.iter_mut().for_each(|request| {
            let begun = request.due;
            request.due = 0.0;
            request.times.sent = 0.0;
            request.times.ended -= begun;
            request.times.pieces.iter_mut().for_each(|piece| *piece -= begun);
        });
        made = made.with(concurrent, samples.clone());
    }
    made
}

fn both(gguf: Pace, mlx: Pace) -> Made {
    let made = Made::of(&["cold-start", "simple-generation", "concurrency"]);
    side(side(made, Format::Gguf, gguf), Format::Mlx, mlx)
}

fn simple(requests: &[RequestRecord]) -> Made {
    let made = Made::of(&["simple-generation"]);
    made.with_both(|format| {
        let mut test = test("simple-generation", format, 0);
        test.requests = requests.to_vec();
        (test, vec![memory(0.0, MB)])
    })
}

fn warnings(requests: &[RequestRecord]) -> Vec<String> {
    let mut warnings = simple(requests).judged().warnings;
    warnings.retain(|warning| !warning.contains("the noise is not known"));
    warnings
}

#[test]
fn latencies_count_from_when_a_request_was_due() {
    // Due at 2, sent at 5: first text at 6, then two gaps of a second, and the end half a second after the last.
    let mut request = answered("measure", 5.0, 1.0, 1.0, 3);
    request.due = 2.0;
    request.times.ended += 0.5;
    let pair = simple(&[request]).judged();
    let median = |measure: &str| compared(&pair, "simple-generation", measure).mlx.unwrap().median;
    assert_relative_eq!(median("time-to-first-token"), 4.0);
    assert_relative_eq!(median("inter-token-latency"), 1.0);
    assert_relative_eq!(median("time-per-output-token"), 2.5 / 2.0);
    assert_relative_eq!(median("end-to-end"), 6.5);
    assert_relative_eq!(median("tokens-per-second"), 3.0 / 6.5);
    assert_relative_eq!(median("prompt-tokens-per-second"), 100.0 / 4.0);
    assert_eq!(
        compared(&pair, "simple-generation", "inter-token-latency")
            .mlx
            .unwrap()
            .count,
        2
    );
}

#[test]
fn throughput_is_all_tokens_by_the_time_from_the_first_due_to_the_last_end() {
    let mut at_once = answered("concurrency-4", 1.0, 0.5, 0.1, 16);
    at_once.times.ended = 9.0;
    let requests = vec![
        answered("warm-up", 0.0, 0.5, 0.1, 50),
        at_once,
        answered("concurrency-4", 2.0, 0.5, 0.1, 20),
        failed("concurrency-4", 4.0, FailureKind::Stalled, "nothing came"),
    ];
    let pair = simple(&requests).judged();
    let throughput = compared(&pair, "simple-generation", "throughput-concurrency-4");
    assert_relative_eq!(throughput.gguf.unwrap().median, 36.0 / 8.0);
    assert!(
        throughput.title.ends_with(", 4 requests at a time"),
        "{}",
        throughput.title
    );
    let errors = compared(&pair, "simple-generation", "error-share-concurrency-4");
    assert_relative_eq!(errors.gguf.unwrap().mean, 1.0 / 3.0);
}

#[test]
fn titles_tell_formulas_that_tools_disagree_about() {
    let pair = simple(&[answered("measure", 0.0, 0.1, 0.1, 5)]).judged();
    let title = &compared(&pair, "simple-generation", "time-per-output-token").title;
    assert_eq!(
        title,
        "Time per output token: (end \u{2212} first text) / (tokens \u{2212} 1)"
    );
}

#[test]
fn rounds_of_a_scenario_are_pooled() {
    let mut made = Made::of(&["simple-generation"]);
    for round in 0..3 {
        made = made.with_both(|format| {
            let mut test = test("simple-generation", format, round);
            test.requests = requests("measure", SLOW);
            (test, vec![memory(0.0, MB * (round as u64 + 1))])
        });
    }
    let pair = made.judged();
    assert_eq!(
        compared(&pair, "simple-generation", "time-to-first-token")
            .gguf
            .unwrap()
            .count,
        24
    );
    let peak = compared(&pair, "simple-generation", "peak-memory").gguf.unwrap();
    assert_eq!((peak.count, peak.median), (3, 2.0 * MB as f64));
}

#[test]
fn memory_is_told_at_its_peak_after_loading_and_by_phase() {
    let mut loaded = test("simple-generation", Format::Gguf, 0);
    loaded.phases = vec![phase("load", 0.0, 2.0), phase("measure", 3.0, 9.0)];
    loaded.requests = vec![answered("measure", 3.0, 0.1, 0.1, 11)];
    let samples = [
        (0.5, 50),
        (1.5, 900),
        (2.1, 400),
        (2.5, 410),
        (2.9, 420),
        (3.5, 700),
        (8.0, 650),
        (9.5, 20),
    ];
    let samples: Vec<MemorySample> = samples.into_iter().map(|(at, bytes)| memory(at, bytes)).collect();
    let pair = Made::of(&["simple-generation"]).with(loaded, samples).judged();
    let value = |measure: &str| compared(&pair, "simple-generation", measure).gguf.unwrap().median;
    assert_eq!(value("peak-memory"), 900.0);
    assert_eq!(value("memory-after-load"), 410.0);
    assert_eq!(value("peak-memory-load"), 900.0);
    assert_eq!(value("peak-memory-measure"), 700.0);
    assert_eq!(value("peak-anonymous-memory"), 225.0);
    assert_eq!(value("peak-file-memory"), 450.0);
}

#[test]
fn a_format_that_is_better_in_all_serves_better_for_sure() {
    let pair = both(SLOW, FAST).judged();
    assert_eq!(pair.verdict.better, Some(Format::Mlx));
    assert_eq!(pair.verdict.confidence, Confidence::High);
    assert_eq!(
        pair.verdict.headline,
        "MLX serves better: 2.0 times the tokens in a second in 0.70 of the memory"
    );
    assert_eq!(pair.verdict.reasons.len(), 5);
    assert!(
        pair.verdict.reasons[0].starts_with(
            "MLX answers sooner: time to first token (short questions) is 200 ms with GGUF, 100 ms with MLX (0.50 times"
        ),
        "{}",
        pair.verdict.reasons[0]
    );
    assert!(
        pair.verdict.reasons[2].contains("throughput (4 requests at a time) is"),
        "{}",
        pair.verdict.reasons[2]
    );
    assert_eq!((pair.warnings, pair.not_measured), (vec![], vec![]));
    let other = both(FAST, SLOW).judged().verdict;
    assert_eq!((other.better, other.confidence), (Some(Format::Gguf), Confidence::High));
    assert_eq!(
        other.headline,
        "GGUF serves better: 2.0 times the tokens in a second in 0.70 of the memory"
    );
}

#[test]
fn the_ratio_is_mlx_by_gguf_and_says_who_is_better_beyond_the_noise() {
    let pair = both(SLOW, FAST).judged();
    let ratio = compared(&pair, "simple-generation", "time-to-first-token")
        .ratio
        .unwrap();
    assert_relative_eq!(ratio.estimate, 0.5, max_relative = 1e-9);
    let [low, high] = ratio.interval.unwrap();
    assert!(low < 0.5 && 0.5 < high && high < 0.52, "{low} {high}");
    let better = |measure: &str| compared(&pair, "simple-generation", measure).better;
    assert_eq!(better("time-to-first-token"), Some(Format::Mlx));
    assert_eq!(better("tokens-per-second"), Some(Format::Mlx));
    assert_eq!(better("peak-file-memory"), None);
}

#[test]
fn equal_formats_are_called_alike() {
    let verdict = both(SLOW, SLOW).judged().verdict;
    assert_eq!((verdict.better, verdict.confidence), (None, Confidence::Medium));
    assert_eq!(
        verdict.headline,
        "neither format serves better: the two are alike in time to first token, time per output token, throughput, peak memory and \
         time to load"
    );
    assert!(
        verdict.reasons[0].starts_with("neither answers sooner: "),
        "{}",
        verdict.reasons[0]
    );
}

#[test]
fn a_difference_within_the_noise_decides_nothing() {
    let little = Pace {
        first: 1.01 * SLOW.first,
        ..SLOW
    };
    let pair = both(SLOW, little).judged();
    assert_eq!(compared(&pair, "simple-generation", "time-to-first-token").better, None);
}

#[test]
fn formats_that_are_good_at_different_things_are_both_praised() {
    let frugal = Pace {
        memory: 400 * MB,
        load: 2.0,
        ..SLOW
    };
    let hungry = Pace {
        memory: 1000 * MB,
        load: 4.0,
        ..FAST
    };
    let verdict = both(frugal, hungry).judged().verdict;
    assert_eq!((verdict.better, verdict.confidence), (None, Confidence::Low));
    assert_eq!(
        verdict.headline,
        "the formats are good at different things: GGUF needs less memory and loads faster, MLX answers sooner, writes faster and \
         serves more at a time"
    );
}

#[test]
fn one_loss_of_five_leaves_a_verdict_that_is_less_sure() {
    let hungry = Pace {
        memory: 1500 * MB,
        ..FAST
    };
    let verdict = both(SLOW, hungry).judged().verdict;
    assert_eq!(
        (verdict.better, verdict.confidence),
        (Some(Format::Mlx), Confidence::Medium)
    );
    assert_eq!(
        verdict.headline,
        "MLX serves better: 2.0 times the tokens in a second in 1.5 times the memory"
    );
}

#[test]
fn the_highest_concurrency_of_both_decides_throughput() {
    let mut made = both(SLOW, FAST);
    let mut more = test("concurrency", Format::Gguf, 9);
    more.requests = requests("concurrency-8", FAST);
    made = made.with(more, vec![memory(0.0, 1)]);
    let reasons = made.judged().verdict.reasons;
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("throughput (4 requests at a time) is")),
        "{reasons:?}"
    );
    let mut more = test("concurrency", Format::Mlx, 9);
    more.requests = requests("concurrency-8", FAST);
    let reasons = made.with(more, vec![memory(0.0, 1)]).judged().verdict.reasons;
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("throughput (8 requests at a time) is")),
        "{reasons:?}"
    );
}

#[test]
fn how_fast_the_longest_prompts_are_read_decides_too() {
    let long = |made: Made, format: Format, tokens: usize, pace: Pace| {
        let mut test = test("context-stress", format, 0);
        test.requests = requests(&format!("context-{tokens}"), pace);
        made.with(test, vec![memory(0.0, 1)])
    };
    let mut made = both(FAST, FAST);
    made = long(made, Format::Gguf, 512, FAST);
    made = long(made, Format::Mlx, 512, FAST);
    let alike = made.judged().verdict;
    assert_eq!(alike.better, None);
    let reason = "neither reads long prompts faster: time to first token (prompts of 512 tokens) is 100 ms with GGUF";
    assert!(alike.reasons[1].starts_with(reason), "{:?}", alike.reasons);

    // One that only one format answered is no comparison.
    made = long(made, Format::Gguf, 4000, SLOW);
    assert!(made.judged().verdict.reasons[1].starts_with(reason));
    made = long(made, Format::Mlx, 4000, FAST);
    let verdict = made.judged().verdict;
    let reason =
        "MLX reads long prompts faster: time to first token (prompts of 4000 tokens) is 200 ms with GGUF, 100 ms";
    assert!(verdict.reasons[1].starts_with(reason), "{:?}", verdict.reasons);
    assert_eq!(
        verdict.headline,
        "MLX serves better: its first token after a long prompt in 0.50 of the time"
    );
}

#[test]
fn the_longest_prompt_counts_though_it_is_what_its_scenario_measures_in_the_main() {
    let long = |made: Made, format: Format, pace: Pace| {
        let mut test = test("context-stress", format, 0);
        test.requests = vec![
            answered("context-2048", 0.0, 10.0 * pace.first, pace.gap, 11),
            answered("measure", 5.0, 100.0 * pace.first, pace.gap, 11),
        ];
        made.with(test, vec![memory(0.0, 1)])
    };
    let made = long(long(both(SLOW, SLOW), Format::Gguf, SLOW), Format::Mlx, FAST);
    let pair = made.judged();
    let reason = "MLX reads long prompts faster: time to first token (prompts of 4000 tokens) is 20.0 s with GGUF, 10.0 s with \
                  MLX (0.50 times, n = 1)";
    assert_eq!(pair.verdict.reasons[1], reason);
    let title = &compared(&pair, "context-stress", "time-to-first-token-context-4000").title;
    assert!(title.ends_with(", prompts of 4000 tokens"), "{title}");
    // A single value on each side has no interval.
    let ratio = compared(&pair, "context-stress", "time-to-first-token-context-4000").ratio;
    assert_eq!(ratio.unwrap().interval, None);
}

#[test]
fn a_verdict_says_what_the_other_format_is_better_at() {
    let mut made = both(SLOW, FAST);
    for (format, pace) in [(Format::Gguf, FAST), (Format::Mlx, SLOW)] {
        let mut test = test("context-stress", format, 0);
        test.requests = requests("measure", pace);
        made = made.with(test, vec![memory(0.0, 1)]);
    }
    let verdict = made.judged().verdict;
    assert_eq!(
        verdict.headline,
        "MLX serves better: 2.0 times the tokens in a second in 0.70 of the memory; GGUF reads long prompts faster"
    );
    assert_eq!(
        (verdict.better, verdict.confidence),
        (Some(Format::Mlx), Confidence::Medium)
    );
}

#[test]
fn every_reason_names_what_it_was_measured_on() {
    let reasons = both(SLOW, FAST).judged().verdict.reasons;
    let settings = [
        "time to first token (short questions) is",
        "time per output token (short questions) is",
        "throughput (4 requests at a time) is",
        "peak memory (short questions) is",
        "time to load (files read from disk) is",
    ];
    assert_eq!(reasons.len(), settings.len());
    for (reason, setting) in reasons.iter().zip(settings) {
        assert!(reason.contains(setting), "{reason}");
    }
}

#[test]
fn a_refusal_is_no_fault_of_a_format() {
    let made = |kind: FailureKind, count: usize| {
        Made::of(&["simple-generation"]).with_both(|format| {
            let mut test = test("simple-generation", format, 0);
            test.requests = match format {
                Format::Mlx => requests("measure", SLOW),
                Format::Gguf => vec![failed("measure", 0.0, kind, "status 401"); count],
            };
            (test, vec![memory(0.0, 1)])
        })
    };
    // Both have memory: what else is compared must not be taken for a verdict on speed.
    let without_memory = |mut made: Made| {
        made.samples.clear();
        made.judged().verdict
    };
    let refused = without_memory(made(FailureKind::Refused, 8));
    assert_eq!((refused.better, refused.confidence), (None, Confidence::None));
    assert_eq!(
        refused.headline,
        "which format serves better cannot be said: only MLX was measured, and the server of GGUF refused 8 requests"
    );
    assert_eq!(
        made(FailureKind::Refused, 8).judged().warnings[0],
        "simple-generation, GGUF: 8 of 8 requests failed: 8 as `status 401`"
    );
    // Three failures of a server are few.
    let failing = without_memory(made(FailureKind::ServerError, 3));
    assert_eq!(
        (failing.better, failing.confidence),
        (Some(Format::Mlx), Confidence::Low)
    );
}

#[test]
fn a_server_that_died_before_it_was_ready_did_not_break_off() {
    let made = |was_ready: bool| {
        let mut made = both(SLOW, SLOW);
        let mut died = test("quality", Format::Mlx, 0);
        died.outcome = Outcome::Failed {
            failure: failure(FailureKind::Died, "no such model"),
        };
        died.server = was_ready.then(|| ServerDescription {
            kind: ServerKind::OpenAi,
            version: None,
            address: "http://127.0.0.1:1".to_owned(),
            command: None,
            model: "model".to_owned(),
            quantisation: None,
            context_length: None,
            start: Start::Process,
            details: BTreeMap::new(),
        });
        made = made.with(died, Vec::new());
        made.judged().verdict.headline
    };
    assert!(!made(false).contains("broke off"), "{}", made(false));
    assert!(made(true).starts_with("MLX broke off 1 test; "), "{}", made(true));
}

#[test]
fn alike_is_said_only_of_what_was_measured() {
    let made = Made::of(&["memory-leak"]).with_both(|format| {
        let (mut test, _) = leaking(format);
        let bytes = if format == Format::Mlx { 40 * MB } else { 100 * MB };
        test.key.format = format;
        (test, vec![memory(0.0, bytes)])
    });
    let verdict = made.judged().verdict;
    assert_eq!(
        verdict.headline,
        "MLX serves better: in 0.40 of the memory; speed was not measured"
    );
    // One measure of six.
    assert_eq!(verdict.confidence, Confidence::Low);
}

#[test]
fn answers_that_came_in_one_moment_have_no_time_per_token() {
    let burst = |pieces: usize| {
        let mut request = answered("measure", 0.0, 2.0, 0.000_001, 8);
        request.times.pieces.truncate(pieces);
        request.times.ended += 0.000_5;
        request
    };
    for pieces in [1, 8] {
        let pair = simple(&[burst(pieces), burst(pieces)]).judged();
        let measures = ["time-per-output-token", "inter-token-latency"];
        let found = pair
            .comparisons
            .iter()
            .find(|comparison| measures.contains(&comparison.measure.as_str()));
        assert_eq!(found, None, "{pieces} pieces");
        assert_eq!(
            warnings(&[burst(pieces), answered("measure", 9.0, 0.1, 0.01, 8)])[0],
            "simple-generation, GGUF: 1 of 2 answers came all at once: something between holds the stream back, or the server \
             does not stream; its time to first token is that of the whole answer, and there is no time per output token"
        );
    }
}

#[test]
fn a_count_that_the_text_cannot_have_is_not_used() {
    let mut request = answered("measure", 0.0, 1.0, 1.0, 8);
    for count in [usize::MAX, 1_000_000_000_000, 4 * 32 + 17] {
        request.usage = Some(Usage {
            prompt_tokens: 10,
            completion_tokens: count,
            cached_tokens: None,
        });
        let pair = simple(&[request.clone(), request.clone()]).judged();
        // Eight pieces in eight seconds, twice within the same time.
        let throughput = compared(&pair, "simple-generation", "throughput").gguf.unwrap().median;
        assert_relative_eq!(throughput, 2.0);
        assert!(
            pair.warnings[1].starts_with(
                "simple-generation, GGUF: the server counts more tokens than the text can have in 2 answers, up to "
            ),
            "{:?}",
            pair.warnings
        );
    }
}

#[test]
fn answers_that_are_longer_than_was_asked_for_are_told() {
    let answer = |tokens| answered("measure", 0.0, 0.1, 0.1, tokens);
    assert_eq!(warnings(&[answer(130)]), Vec::<String>::new());
    assert_eq!(
        warnings(&[answer(131), answer(140), answer(20)])[0],
        "simple-generation, GGUF: 2 answers longer than the 128 tokens that were asked for, up to 140: the server does not keep \
         `max_tokens`"
    );
}

#[test]
fn sums_of_numbers_that_no_machine_has_do_not_overflow() {
    let mut huge = memory(0.0, 1);
    huge.processes[0].proportional = Some(u64::MAX);
    huge.processes[0].anonymous = Some(u64::MAX);
    let more = huge.processes[0].clone();
    huge.processes.push(more);
    let mut made = both(SLOW, SLOW);
    for samples in made.samples.values_mut() {
        samples.push(huge.clone());
    }
    for test in &mut made.record.tests {
        let memory = test.memory.as_mut().unwrap();
        (memory.taken, memory.missed) = (usize::MAX, usize::MAX);
    }
    let pair = made.judged();
    let peak = compared(&pair, "simple-generation", "peak-memory").gguf.unwrap();
    assert_eq!(peak.median, u64::MAX as f64);
}

#[test]
fn rounds_that_contradict_each_other_are_told() {
    let mut made = Made::of(&["concurrency"]);
    made.record.plan.rounds = 2;
    for (round, gap) in [0.01, 0.06].into_iter().enumerate() {
        made = made.with_both(|format| {
            let mut test = test("concurrency", format, round);
            let gap = if format == Format::Mlx { 0.01 } else { gap };
            test.requests = vec![answered("concurrency-8", 0.0, 0.0, gap, 101); 8];
            (test, vec![memory(0.0, 1)])
        });
    }
    // Neither is better by a median that lies between two rounds which contradict each other.
    let throughput = made.judged();
    let throughput = compared(&throughput, "concurrency", "throughput-concurrency-8");
    assert_eq!((throughput.ratio.unwrap().interval, throughput.better), (None, None));
    assert!(throughput.ratio.unwrap().estimate > 1.25);
    // 808 tokens in one second and in six.
    assert_eq!(
        made.judged().warnings,
        [
            "concurrency, GGUF: the rounds disagree (8 requests at a time): 808 and 135 tokens/s in turn; was the machine busy?"
        ]
    );
}

#[test]
fn a_prompt_of_another_length_than_it_is_called_by_is_told() {
    let mut made = Made::of(&["context-stress"]);
    made = made.with_both(|format| {
        let mut test = test("context-stress", format, 0);
        let prompt = |group: &str, prompt_tokens: usize| {
            let mut request = answered(group, 0.0, 1.0, 0.1, 11);
            request.usage = request.usage.map(|usage| Usage { prompt_tokens, ..usage });
            request
        };
        test.requests = vec![prompt("context-512", 520), prompt("measure", 20)];
        (test, vec![memory(0.0, 1)])
    });
    let warnings = made.judged().warnings;
    assert!(
        warnings.contains(
            &"context-stress, MLX: prompts are shorter or longer than they are called, by the server's count: that of 4000 has 20"
                .to_owned()
        ),
        "{warnings:?}"
    );
}

#[test]
fn one_format_alone_is_measured_and_the_other_is_not_missed() {
    let mut made = side(
        Made::of(&["cold-start", "simple-generation", "concurrency"]),
        Format::Mlx,
        FAST,
    );
    made.record.plan.formats = vec![Format::Mlx];
    let pair = made.judged();
    assert_eq!(pair.not_measured, []);
    assert_eq!(
        pair.verdict.headline,
        "which format serves better cannot be said: only MLX was asked for"
    );
    let analysis = analyse(&made.record, &made.samples);
    let files = report_files(&made.record, &made.samples, &analysis);
    let text = to_text(&made.record, &analysis, Path::new("results"), &files);
    assert!(
        text.contains(
            "Time per output token: (end \u{2212} first text) / (tokens \u{2212} 1): 20.0 ms (19.9 to 20.1, n = 8)"
        ),
        "{text}"
    );
    let named = text.lines().last();
    assert_eq!(
        named,
        Some("  report.html, report.md, plots, metrics, test_results.json")
    );
    let with_no_files = to_text(&made.record, &analysis, Path::new("results"), &[]);
    assert_eq!(with_no_files.lines().last(), Some("  metrics, test_results.json"));
}

#[test]
fn times_that_a_server_makes_up_have_an_end() {
    let timed = |prompt: f64| {
        let mut request = answered("measure", 0.0, 0.5, 0.05, 11);
        request.timings = Some(timings(prompt, 0.0));
        request
    };
    assert_eq!(warnings(&[timed(-0.15)]), Vec::<String>::new());
    assert_eq!(
        warnings(&[timed(1e300)])[0],
        "simple-generation, GGUF: an answer took 1.00 s by this program's clock and 1.00e300 s by the server's, which cannot be"
    );
}

#[test]
fn a_first_answer_after_loading_is_not_measured_like_the_others() {
    let made = Made::of(&["cold-start"]).with_both(|format| {
        let mut test = test("cold-start", format, 0);
        test.requests = vec![answered("first-token-cold", 0.0, 0.1, 0.1, 8)];
        (test, vec![memory(0.0, 1)])
    });
    let pair = made.judged();
    let of_answers: Vec<&str> = pair
        .comparisons
        .iter()
        .filter(|comparison| comparison.measure.ends_with("first-token-cold"))
        .map(|comparison| comparison.title.as_str())
        .collect();
    assert_eq!(
        of_answers,
        [
            "End to end: end \u{2212} due, first answer, files read from disk",
            "Requests that failed, first answer, files read from disk"
        ]
    );
}

#[test]
fn few_requests_make_a_verdict_unsure() {
    let mut made = both(SLOW, FAST);
    for test in made
        .record
        .tests
        .iter_mut()
        .filter(|test| test.key.scenario == "simple-generation")
    {
        test.requests.truncate(4);
    }
    let pair = made.judged();
    assert_eq!(
        (pair.verdict.better, pair.verdict.confidence),
        (Some(Format::Mlx), Confidence::Low)
    );
    assert_eq!(
        pair.warnings,
        [Format::Gguf, Format::Mlx].map(|format| format!(
            "simple-generation, {}: 4 answered requests: the noise is not known of so few",
            format.title()
        ))
    );
}

/// Each request leaves a MB.
fn leaking(format: Format) -> (TestRecord, Vec<MemorySample>) {
    let mut test = test("memory-leak", format, 0);
    test.requests = (0..40)
        .map(|number| answered("leak-cache-off", f64::from(number), 0.1, 0.01, 11))
        .collect();
    let samples = (0..40_u32).map(|number| memory(f64::from(number) + 0.5, (100 + u64::from(number)) * MB));
    (test, samples.collect())
}

#[test]
fn a_leak_is_said_first_and_no_format_that_leaks_serves_better() {
    let (test, samples) = leaking(Format::Mlx);
    let verdict = both(SLOW, FAST).with(test, samples).judged().verdict;
    assert_eq!((verdict.better, verdict.confidence), (None, Confidence::Low));
    assert_eq!(
        verdict.headline,
        "MLX leaks 1.00 MB with each request; apart from that MLX serves better: 2.0 times the tokens in a second in 0.70 of the \
         memory"
    );
    assert_eq!(verdict.reasons[0], "MLX leaks 1.00 MB with each request");
    let (test, samples) = leaking(Format::Gguf);
    let verdict = both(SLOW, FAST).with(test, samples).judged().verdict;
    assert_eq!(
        (verdict.better, verdict.confidence),
        (Some(Format::Mlx), Confidence::High)
    );
    assert!(
        verdict
            .headline
            .starts_with("GGUF leaks 1.00 MB with each request; MLX serves better"),
        "{}",
        verdict.headline
    );
}

#[test]
fn failed_requests_are_said_first_with_their_kinds() {
    let mut made = both(SLOW, FAST);
    let simple = made
        .record
        .tests
        .iter_mut()
        .find(|test| test.key.scenario == "simple-generation" && test.key.format == Format::Mlx);
    let requests = &mut simple.unwrap().requests;
    requests.push(failed("measure", 90.0, FailureKind::ServerError, "status 500"));
    requests.push(failed("measure", 91.0, FailureKind::Stalled, "nothing came for 5 s"));
    requests.push(failed("measure", 92.0, FailureKind::ServerError, "status 500"));
    requests.push(failed("measure", 93.0, FailureKind::Interrupted, "the user ended it"));
    let pair = made.judged();
    // 52 of the 48 answered, three failed and one that the user ended.
    assert!(
        pair.verdict
            .headline
            .starts_with("MLX failed 3 of 52 requests; apart from that "),
        "{}",
        pair.verdict.headline
    );
    assert_eq!(pair.verdict.better, None);
    assert_eq!(
        pair.warnings,
        ["simple-generation, MLX: 3 of 12 requests failed: 2 as `status 500`, 1 as `nothing came for 5 s`"]
    );
}

#[test]
fn a_side_that_answers_nothing_loses() {
    let made = Made::of(&["simple-generation"]).with_both(|format| {
        let mut test = test("simple-generation", format, 0);
        test.requests = match format {
            Format::Gguf => requests("measure", SLOW),
            Format::Mlx => vec![failed("measure", 0.0, FailureKind::Empty, "no text"); 8],
        };
        (test, Vec::new())
    });
    let verdict = made.judged().verdict;
    assert_eq!(
        (verdict.better, verdict.confidence),
        (Some(Format::Gguf), Confidence::Medium)
    );
    assert_eq!(
        verdict.headline,
        "MLX failed 8 of 8 requests; GGUF serves better: MLX answered no request"
    );
}

#[test]
fn one_side_alone_is_no_comparison() {
    let made = side(
        Made::of(&["cold-start", "simple-generation", "concurrency"]),
        Format::Gguf,
        SLOW,
    );
    let pair = made.judged();
    assert_eq!((pair.verdict.better, pair.verdict.confidence), (None, Confidence::None));
    assert_eq!(
        pair.verdict.headline,
        "which format serves better cannot be said: only GGUF was measured"
    );
    let missing = |scenario: &str| NotMeasured {
        scenario: scenario.to_owned(),
        format: Some(Format::Mlx),
        reason: "it was not begun".to_owned(),
        hint: None,
    };
    assert_eq!(
        pair.not_measured,
        ["cold-start", "simple-generation", "concurrency"].map(missing)
    );
    let comparison = compared(&pair, "simple-generation", "time-to-first-token");
    assert_eq!(
        (comparison.mlx, comparison.ratio, comparison.better),
        (None, None, None)
    );
    let nothing = Made::of(&["quality"]).judged();
    assert_eq!(
        nothing.verdict.headline,
        "which format serves better cannot be said: too little was measured"
    );
    assert_eq!(nothing.not_measured[0].format, None);
}

#[test]
fn what_could_not_be_measured_is_listed_with_its_reason() {
    let outcomes = |scenario: &str, format: Format| match (scenario, format) {
        ("mixture", _) => Outcome::Skipped {
            reason: "the model is no mixture".to_owned(),
        },
        ("cold-start", Format::Mlx) => Outcome::Failed {
            failure: failure(FailureKind::NotLoaded, "the model is not there"),
        },
        ("quality", Format::Gguf) => Outcome::Interrupted,
        _ => Outcome::Completed,
    };
    let mut made = Made::of(&["mixture", "cold-start", "quality"]);
    for scenario in ["mixture", "cold-start", "quality"] {
        made = made.with_both(|format| {
            let mut test = test(scenario, format, 0);
            test.outcome = outcomes(scenario, format);
            test.figures = ["ready-cold", "ready-warm"]
                .map(|name| figure(name, Unit::Seconds, &[1.0]))
                .to_vec();
            (test, vec![memory(0.0, 1)])
        });
    }
    let entry = |scenario: &str, format, reason: &str, hint: Option<&str>| NotMeasured {
        scenario: scenario.to_owned(),
        format,
        reason: reason.to_owned(),
        hint: hint.map(str::to_owned),
    };
    assert_eq!(
        made.judged().not_measured,
        [
            entry("mixture", None, "the model is no mixture", None),
            entry(
                "cold-start",
                Some(Format::Mlx),
                "the model is not there",
                Some("look at its log")
            ),
            entry("quality", Some(Format::Gguf), "it was interrupted", None),
        ]
    );
}

#[test]
fn memory_that_could_not_be_read_and_values_of_one_side_are_listed() {
    let mut made = both(SLOW, FAST);
    for (key, samples) in &mut made.samples {
        if key.scenario == "simple-generation" && key.format == Format::Mlx {
            samples.clear();
        }
    }
    let missing = made.judged().not_measured;
    assert_eq!(missing.len(), 1);
    assert_eq!(
        (missing[0].scenario.as_str(), missing[0].format),
        ("simple-generation", Some(Format::Mlx))
    );
    assert_eq!(
        missing[0].reason,
        "memory: none of the server's processes could be read"
    );
    let mut made = both(SLOW, FAST);
    made.record.tests.iter_mut().for_each(|test| {
        if test.key.format == Format::Gguf {
            test.figures.clear();
        }
    });
    assert_eq!(
        unmeasured(&made),
        [
            (
                "cold-start",
                Some(Format::Gguf),
                "time to load (files read from disk) has no value"
            ),
            (
                "cold-start",
                Some(Format::Gguf),
                "time to load (files in memory) has no value"
            ),
        ]
        .map(|(scenario, format, reason)| (scenario.to_owned(), format, reason.to_owned()))
    );
}

/// What is said not to be measured, without hints.
fn unmeasured(made: &Made) -> Vec<(String, Option<Format>, String)> {
    let missing = made.judged().not_measured.into_iter();
    missing
        .map(
            |NotMeasured {
                 scenario,
                 format,
                 reason,
                 ..
             }| (scenario, format, reason),
        )
        .collect()
}

#[test]
fn what_both_sides_lack_is_listed_too() {
    let mut made = both(SLOW, FAST);
    made.record.tests.iter_mut().for_each(|test| test.figures.clear());
    let missing = unmeasured(&made);
    assert_eq!(
        missing[0],
        (
            "cold-start".to_owned(),
            None,
            "time to load (files read from disk) has no value".to_owned()
        )
    );
    assert_eq!(missing.len(), 2);
    let (mut leak, samples) = leaking(Format::Mlx);
    leak.key.format = Format::Mlx;
    let cached = "whether memory grows with the prompt cache on".to_owned();
    let missing = unmeasured(&both(SLOW, FAST).with(leak, samples));
    assert!(
        missing.contains(&("memory-leak".to_owned(), Some(Format::Mlx), cached)),
        "{missing:?}"
    );
}

#[test]
fn samples_whose_file_is_lost_are_told_from_processes_that_cannot_be_read() {
    let mut made = both(SLOW, FAST);
    let complete = is_complete(&made.record, &made.samples);
    made.samples
        .retain(|key, _| key.scenario != "cold-start" || key.format != Format::Gguf);
    let lost = (
        "cold-start".to_owned(),
        Some(Format::Gguf),
        "memory: the file of its samples is missing".to_owned(),
    );
    assert!(unmeasured(&made).contains(&lost), "{:?}", unmeasured(&made));
    assert_eq!((complete, is_complete(&made.record, &made.samples)), (true, false));
}

#[test]
fn a_comparison_is_complete_only_where_every_test_of_its_plan_was_measured() {
    let complete = |change: &dyn Fn(&mut Made)| {
        let mut made = both(SLOW, FAST);
        change(&mut made);
        is_complete(&made.record, &made.samples)
    };
    assert!(complete(&|_| ()));
    // Killed before the last round, and before anything.
    assert!(!complete(&|made| made.record.plan.rounds = 2));
    assert!(!complete(&|made| made.record.tests.clear()));
    assert!(!complete(&|made| made.record.interrupted = true));
    let fail = |made: &mut Made, count: usize| {
        for request in made.record.tests[0].requests.iter_mut().take(count) {
            request.failure = Some(failure(FailureKind::Stalled, "nothing came"));
        }
    };
    // One of eight requests is more than one in twenty.
    assert!(!complete(&|made| fail(made, 1)));
    assert!(!complete(&|made| fail(made, 8)));
    // A model that is no mixture lacks nothing; a plan of which nothing applies has measured nothing.
    let skip = |test: &mut TestRecord| {
        test.outcome = Outcome::Skipped {
            reason: "no mixture".to_owned(),
        };
    };
    assert!(complete(&|made| skip(&mut made.record.tests[0])));
    assert!(!complete(&|made| made.record.tests.iter_mut().for_each(skip)));
}

#[test]
fn rounds_that_were_not_begun_are_listed() {
    let mut made = both(SLOW, FAST);
    made.record.plan.rounds = 3;
    let missing = unmeasured(&made);
    let entry = |scenario: &str| (scenario.to_owned(), None, "2 rounds of it were not begun".to_owned());
    assert_eq!(missing, ["cold-start", "simple-generation"].map(entry));
}

#[test]
fn a_prompt_that_came_from_a_cache_is_told_and_a_template_that_did_is_not() {
    let cached = |cached_tokens: usize, prompt_tokens: usize| {
        let mut request = answered("measure", 0.0, 0.1, 0.1, 5);
        request.usage = Some(Usage {
            prompt_tokens,
            completion_tokens: 5,
            cached_tokens: Some(cached_tokens),
        });
        request
    };
    assert_eq!(warnings(&[cached(30, 55)]), Vec::<String>::new());
    assert_eq!(
        warnings(&[cached(30, 55), cached(36, 37), cached(0, 37)]),
        [Format::Gguf, Format::Mlx].map(|format| format!(
            "simple-generation, {}: 1 request answered from a prompt cache, up to 36 of 37 tokens: times to first token are too short",
            format.title()
        ))
    );
    assert_eq!(warnings(&[cached(49, 4000)]).len(), 2);
    let mut warm_up = cached(36, 37);
    warm_up.group = "warm-up-probe".to_owned();
    assert_eq!(warnings(&[warm_up, cached(0, 37)]), Vec::<String>::new());
    let mut leak = cached(36, 37);
    leak.group = "leak-cache-on".to_owned();
    assert_eq!(warnings(&[leak]), Vec::<String>::new());
}

#[test]
fn templates_that_differ_are_told() {
    let made = |difference: usize| {
        Made::of(&["simple-generation"]).with_both(|format| {
            let mut test = test("simple-generation", format, 0);
            test.requests = requests("measure", SLOW);
            if format == Format::Mlx {
                for usage in test.requests.iter_mut().filter_map(|request| request.usage.as_mut()) {
                    usage.prompt_tokens += difference;
                }
            }
            (test, vec![memory(0.0, 1)])
        })
    };
    assert_eq!(made(2).judged().warnings, Vec::<String>::new());
    assert_eq!(
        made(20).judged().warnings,
        [
            "simple-generation: the same prompts are 100 tokens with GGUF and 120 with MLX: the chat templates or tokenizers differ"
        ]
    );
}

#[test]
fn counts_that_disagree_are_told_with_both_numbers() {
    let counted = |own: usize| {
        let mut request = answered("measure", 0.0, 0.1, 0.1, 100);
        request.counted_tokens = Some(own);
        request
    };
    // One for the end of the text, and two of a hundred.
    assert_eq!(warnings(&[counted(97), counted(103)]), Vec::<String>::new());
    assert_eq!(
        warnings(&[counted(50), counted(100), counted(110)])[0],
        "simple-generation, GGUF: the server counts 200 tokens in 2 answers, the tokenizer 160"
    );
}

#[test]
fn tokens_are_the_servers_then_the_tokenizers_then_pieces_with_a_warning() {
    let mut request = answered("measure", 0.0, 1.0, 1.0, 4);
    let speed = |request: &RequestRecord| {
        let pair = simple(std::slice::from_ref(request)).judged();
        compared(&pair, "simple-generation", "tokens-per-second")
            .gguf
            .unwrap()
            .median
    };
    request.usage = Some(Usage {
        prompt_tokens: 10,
        completion_tokens: 40,
        cached_tokens: None,
    });
    request.counted_tokens = Some(20);
    assert_relative_eq!(speed(&request), 10.0);
    request.usage = None;
    assert_relative_eq!(speed(&request), 5.0);
    assert_eq!(warnings(&[request.clone()]), Vec::<String>::new());
    request.counted_tokens = None;
    assert_relative_eq!(speed(&request), 1.0);
    assert_eq!(
        warnings(&[request])[1],
        "simple-generation, MLX: pieces of the stream stand for tokens in 1 answer: the server tells no count, and no tokenizer was \
         given"
    );
}

#[test]
fn a_servers_own_times_are_compared_with_the_clients() {
    // One second from end to end.
    let timed = |prompt: f64, generation: f64| {
        let mut request = answered("measure", 0.0, 0.5, 0.05, 11);
        request.timings = Some(timings(prompt, generation));
        request
    };
    let pair = simple(&[timed(0.49, 0.48), timed(0.48, 0.48)]).judged();
    let apart = compared(&pair, "simple-generation", "difference-from-server-times")
        .gguf
        .unwrap();
    assert_relative_eq!(apart.minimum, 0.03, max_relative = 1e-9);
    assert_relative_eq!(apart.maximum, 0.04, max_relative = 1e-9);
    assert_eq!(warnings(&[timed(0.49, 0.48)]), Vec::<String>::new());
    assert_eq!(
        warnings(&[timed(0.4, 0.5)])[0],
        "simple-generation, GGUF: an answer took 1.00 s by this program's clock and 900 ms by the server's, 10.0% apart"
    );
    // With others at the same time a request waits for them.
    let mut waited = timed(0.1, 0.2);
    waited.concurrency = 4;
    assert_eq!(warnings(&[waited]), Vec::<String>::new());
}

#[test]
fn samples_that_were_missed_or_not_told_are_told() {
    let made = |missed: usize, unknown: &[&str]| {
        let mut made = both(SLOW, SLOW);
        let memory = made.record.tests[0].memory.as_mut().unwrap();
        memory.taken = 95;
        memory.missed = missed;
        memory.unknown = unknown.iter().map(|&reason| reason.to_owned()).collect();
        made.judged().warnings
    };
    assert_eq!(made(5, &[]), Vec::<String>::new());
    assert_eq!(
        made(6, &[]),
        ["simple-generation, GGUF: 6 of 101 samples of memory were missed: peaks between them are not seen"]
    );
    assert_eq!(
        made(0, &["memory of worker (7): denied"]),
        ["simple-generation, GGUF: the system does not tell everything: memory of worker (7): denied"]
    );
}

#[test]
fn a_busy_machine_is_told() {
    let mut made = both(SLOW, FAST);
    made.record.machine.load_average = Some([1.0, 5.0, 5.0]);
    assert_eq!(made.judged().warnings, Vec::<String>::new());
    made.record.machine.load_average = Some([1.5, 0.0, 0.0]);
    assert_eq!(
        made.judged().warnings,
        ["the machine was busy when the measurements began: 1.5 processes wanted to run on 2 cores"]
    );
}

/// Log-probabilities of one text by position, and whether the likeliest token is the next word there.
fn quality(gguf: &[(u32, f64, bool)], mlx: &[(u32, f64, bool)]) -> Made {
    Made::of(&["quality"]).with_both(|format| {
        let mut test = test("quality", format, 0);
        let own = if format == Format::Gguf { gguf } else { mlx };
        let column = |name: &str, unit: Unit, value: &dyn Fn(&(u32, f64, bool)) -> f64| {
            figure(name, unit, &own.iter().map(value).collect::<Vec<_>>())
        };
        test.figures = vec![
            column("position", Unit::Count, &|said| f64::from(said.0)),
            column("log-probability", Unit::Nats, &|said| said.1),
            column("top-is-next-word", Unit::Share, &|said| f64::from(u8::from(said.2))),
        ];
        (test, vec![memory(0.0, 1)])
    })
}

/// Positions one after the other, with the next word expected at each.
fn said(log_probabilities: &[f64]) -> Vec<(u32, f64, bool)> {
    let positions = (1_u32..).zip(log_probabilities);
    positions.map(|(position, value)| (position, *value, true)).collect()
}

#[test]
fn perplexity_is_that_of_the_mean_log_probability_and_the_lower_is_better() {
    let gguf = [-1.0, -2.0, -3.0, -0.5, -1.5, -2.5, -1.0, -0.5];
    let pair = quality(&said(&gguf), &said(&gguf.map(|value| value - 0.1))).judged();
    let perplexity = compared(&pair, "quality", "perplexity");
    assert_relative_eq!(perplexity.gguf.unwrap().median, 1.5_f64.exp(), max_relative = 1e-12);
    assert_relative_eq!(perplexity.mlx.unwrap().median, 1.6_f64.exp(), max_relative = 1e-12);
    // Each position is compared with itself, so that a constant difference has no noise.
    let ratio = perplexity.ratio.unwrap();
    let [low, high] = ratio.interval.unwrap();
    for end in [low, ratio.estimate, high] {
        assert_relative_eq!(end, 0.1_f64.exp(), max_relative = 1e-12);
    }
    assert_eq!(perplexity.better, Some(Format::Gguf));
    assert_eq!(compared(&pair, "quality", "log-probability").ratio, None);
    let same = quality(&said(&gguf), &said(&gguf)).judged();
    assert_eq!(compared(&same, "quality", "perplexity").better, None);
}

#[test]
fn formats_of_one_model_are_told_from_formats_of_two() {
    let gguf = [-1.0, -2.0, -3.0, -0.5, -1.5];
    let near = quality(&said(&gguf), &said(&gguf.map(|value| value + 0.01))).judged();
    assert_eq!(near.warnings, Vec::<String>::new());
    assert_eq!(
        near.verdict.reasons.last().unwrap(),
        "both formats give the words of a text nearly the same probabilities: at half of 5 places of a text the probabilities of \
         the next word differ by more than a factor of 1.01, and at 100% of them the word is the likeliest with both formats or \
         with neither"
    );
    // A value of one side alone is no missing one: a difference belongs to both.
    assert_eq!(near.not_measured, []);
    let mut far = said(&gguf.map(|value| value - 1.0));
    for position in [0, 1, 3] {
        far[position].2 = false;
    }
    let far = quality(&said(&gguf), &far).judged();
    assert_eq!(
        far.warnings,
        [
            "the formats do not hold the same model, or one of them computes it wrongly: at half of 5 places of a text the \
             probabilities of the next word differ by more than a factor of 2.72, and at 40% of them the word is the likeliest \
             with both formats or with neither"
        ]
    );
}

#[test]
fn a_position_that_one_format_alone_lists_is_left_out_and_told() {
    let gguf = said(&[-1.0, -2.0, -9.0, -3.0]);
    // Every word of MLX's is as likely as GGUF's at the same position; the third is not listed.
    let mlx = vec![gguf[0], gguf[1], gguf[3]];
    let pair = quality(&gguf, &mlx).judged();
    let perplexity = compared(&pair, "quality", "perplexity");
    for side in [perplexity.gguf, perplexity.mlx] {
        assert_relative_eq!(side.unwrap().median, 2.0_f64.exp(), max_relative = 1e-12);
    }
    assert_eq!(
        compared(&pair, "quality", "log-probability-difference")
            .mlx
            .unwrap()
            .maximum,
        0.0
    );
    assert_eq!(
        pair.warnings,
        ["left out of perplexities: 1 position of the text, whose next word one format alone lists"]
    );
    assert!(
        pair.comparisons
            .iter()
            .all(|comparison| comparison.measure != "position")
    );
}

#[test]
fn an_analysis_is_always_the_same_and_survives_its_file() {
    let (leak, samples) = leaking(Format::Gguf);
    let made = both(SLOW, FAST).with(leak, samples);
    let analysis = analyse(&made.record, &made.samples);
    assert_eq!(analysis, analyse(&made.record, &made.samples));
    let text = serde_json::to_string(&analysis).unwrap();
    assert_eq!(serde_json::from_str::<Analysis>(&text).unwrap(), analysis);
}
