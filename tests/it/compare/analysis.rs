//! What is measured from records whose truth is known.

use approx::assert_relative_eq;
use mlx_diagnose::compare::analysis::{Analysis, Confidence, analyse};
use mlx_diagnose::compare::{FailureKind, Format, MemorySample, RequestRecord, Usage};

use crate::compare::analysis_records::{Made, answered, compared, failed, memory, phase, test, timings};
use crate::compare::analysis_sides::{FAST, MB, Pace, SLOW, both, leaking, requests, simple, warnings};

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
fn an_analysis_is_always_the_same_and_survives_its_file() {
    let (leak, samples) = leaking(Format::Gguf);
    let made = both(SLOW, FAST).with(leak, samples);
    let analysis = analyse(&made.record, &made.samples);
    assert_eq!(analysis, analyse(&made.record, &made.samples));
    let text = serde_json::to_string(&analysis).unwrap();
    assert_eq!(serde_json::from_str::<Analysis>(&text).unwrap(), analysis);
}
