//! Which format serves better, how sure that is, and why.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_diagnose::compare::analysis::{Confidence, NotMeasured, analyse};
use mlx_diagnose::compare::report::{report_files, to_text};
use mlx_diagnose::compare::{FailureKind, Format, Outcome, ServerDescription, ServerKind, Start};

use crate::compare::analysis_records::{Made, answered, compared, failed, failure, memory, test};
use crate::compare::analysis_sides::{FAST, MB, Pace, SLOW, both, leaking, requests, side};

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
