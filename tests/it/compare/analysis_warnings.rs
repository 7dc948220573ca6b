//! What of a comparison is not to be trusted is told.

use mlx_diagnose::compare::{Format, Usage};

use crate::compare::analysis_records::{Made, answered, compared, memory, test, timings};
use crate::compare::analysis_sides::{FAST, SLOW, both, requests, warnings};

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
