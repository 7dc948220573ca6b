//! What each scenario asks of a server, and what it records.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mlx_diagnose::compare::scenarios::{Arrivals, SCENARIOS};
use mlx_diagnose::compare::servers::NextTokens;
use mlx_diagnose::compare::{FailureKind, Figure, Format, Outcome, Plan, Start, TestRecord};

use crate::compare::fake_server::{RESIDENT, Script, failure, pair, quick_plan, tests_of};
use crate::support::skip;

fn one_round(scenario: &str) -> Plan {
    Plan {
        rounds: 1,
        ..quick_plan(&[scenario])
    }
}

/// The first test of a plan, which is that of the GGUF side.
fn first_test(plan: &Plan, script: Script) -> (TestRecord, Arc<Script>) {
    let (tests, script) = tests_of(plan, script);
    (tests.into_iter().next().unwrap(), script)
}

fn groups(test: &TestRecord) -> Vec<&str> {
    let mut groups: Vec<&str> = test.requests.iter().map(|request| request.group.as_str()).collect();
    groups.dedup();
    groups
}

fn phases(test: &TestRecord) -> Vec<&str> {
    test.phases.iter().map(|phase| phase.name.as_str()).collect()
}

fn figure<'test>(test: &'test TestRecord, name: &str) -> Option<&'test Figure> {
    test.figures.iter().find(|figure| figure.name == name)
}

#[test]
fn names_of_scenarios_are_unique_and_their_summaries_are_fragments() {
    let names: BTreeSet<&str> = SCENARIOS.iter().map(|scenario| scenario.name()).collect();
    assert_eq!(names.len(), SCENARIOS.len());
    for scenario in SCENARIOS {
        let is_kebab = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        assert!(scenario.name().bytes().all(is_kebab), "{}", scenario.name());
        let summary = scenario.summary();
        assert!(
            !summary.is_empty() && !summary.ends_with('.') && !summary.contains('\n'),
            "{summary}"
        );
    }
}

#[test]
fn no_prompt_begins_like_another_in_all_of_a_run() {
    let plan = quick_plan(&["simple-generation", "memory-leak", "concurrency"]);
    let (tests, script) = tests_of(&plan, Script::default());
    let requests = script.requests.lock().unwrap();
    let of_one_format = requests.len() / 2;
    let nonce = |request: &mlx_diagnose::compare::client::ChatRequest| {
        assert_eq!(request.messages[0].role, "system");
        request.messages[0].content.split_once(". ").unwrap().0.to_owned()
    };
    let nonces: BTreeSet<String> = requests.iter().map(nonce).collect();
    assert_eq!(
        nonces.len(),
        of_one_format,
        "both formats are asked the same, and nobody twice"
    );
    assert_eq!(
        tests.iter().map(|test| test.requests.len()).sum::<usize>(),
        requests.len()
    );
}

#[test]
fn a_chat_template_without_system_messages_gets_the_number_in_front_of_the_question() {
    let script = Script {
        on_ask: Box::new(|_, request| match request.messages[0].role {
            "system" => Err(failure(FailureKind::ServerError, "System role not supported")),
            _ => Ok("yes".to_owned()),
        }),
        ..Script::default()
    };
    let (test, script) = first_test(&one_round("simple-generation"), script);
    assert_eq!(test.outcome, Outcome::Completed);
    assert_eq!(groups(&test), ["warm-up-probe", "warm-up", "measure"]);
    assert_eq!(
        test.notes,
        ["requests have no system message since those with one were refused: System role not supported"]
    );
    let requests = script.requests.lock().unwrap();
    let question = &requests[1].messages;
    assert_eq!(question.len(), 1);
    assert!(
        question[0].content.starts_with(|first: char| first.is_ascii_digit()),
        "{question:?}"
    );
}

/// Both formats are to be asked the same: a failure that has nothing to do with the prompt does not change it.
#[test]
fn a_failure_that_passes_takes_no_system_message_away() {
    let reasons = [
        (
            FailureKind::ServerError,
            "the server failed with status 500: out of memory",
        ),
        (FailureKind::Refused, "the server refused with status 401: invalid key"),
        (FailureKind::ServerError, "System role not supported"),
    ];
    for (kind, reason) in reasons {
        let asked = AtomicUsize::new(0);
        // The second attempt fails as well: the system message was not at fault.
        let script = Script {
            on_ask: Box::new(move |_, _| match asked.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => Err(failure(kind, reason)),
                _ => Ok("yes".to_owned()),
            }),
            ..Script::default()
        };
        let (test, script) = first_test(&one_round("simple-generation"), script);
        assert_eq!(test.notes, [""; 0], "{reason}");
        let requests = script.requests.lock().unwrap();
        let last = &requests[test.requests.len() - 1].messages;
        assert_eq!(last[0].role, "system", "{reason}");
    }
}

#[test]
fn a_length_that_was_not_asked_for_is_told_and_one_that_cannot_be_is_left_out() {
    let with = |count: usize| {
        let script = Script {
            counts: Some(count),
            on_ask: Box::new(|_, _| Ok("a word ".repeat(20))),
            ..Script::default()
        };
        let plan = Plan {
            answer_tokens: 50,
            ..one_round("simple-generation")
        };
        let (test, _) = first_test(&plan, script);
        let usage = test.requests[1].usage.map(|usage| usage.completion_tokens);
        (usage, test.notes)
    };
    assert_eq!(with(50), (Some(50), Vec::new()));
    assert_eq!(
        with(120),
        (
            Some(120),
            vec!["the server does not keep to the length of answers: 120 tokens by its own count where 50 were asked for".to_owned()]
        )
    );
    let (usage, notes) = with(1_000_000_000_000);
    assert_eq!(usage, None);
    assert!(
        notes
            .iter()
            .all(|note| note.starts_with("the server counted 1000000000000 tokens in an answer of 140 bytes")),
        "{notes:?}"
    );
    assert_eq!(notes.len(), 1);
}

#[test]
fn another_model_that_answers_is_told() {
    let script = Script {
        answers_as: Some("other-model-7b".to_owned()),
        ..Script::default()
    };
    let (test, _) = first_test(&one_round("simple-generation"), script);
    let note = "`model` was asked, and the server names `other-model-7b` as the model that answered: another name of it, or \
                another model";
    assert_eq!(test.notes, [note]);
    assert_eq!(test.server.unwrap().details["answered-as"], "other-model-7b");
}

#[test]
fn simple_generation_warms_up_and_asks_prompts_in_turn() {
    let plan = Plan {
        prompts: vec!["first".to_owned(), "second".to_owned()],
        repeats: 3,
        ..one_round("simple-generation")
    };
    let (test, script) = first_test(&plan, Script::default());
    assert_eq!(phases(&test), ["load", "warm-up", "measure", "unload"]);
    let asked: Vec<String> = test.requests.iter().map(|request| request.group.clone()).collect();
    assert_eq!(asked, ["warm-up", "measure", "measure", "measure"]);
    let requests = script.requests.lock().unwrap();
    let prompts: Vec<&str> = requests
        .iter()
        .take(4)
        .map(|request| request.messages[1].content.as_str())
        .collect();
    assert_eq!(prompts, ["first", "first", "second", "first"]);
    assert_eq!(requests[0].max_tokens, plan.answer_tokens);
    let memory = test.memory.unwrap();
    assert_eq!(memory.holder.as_deref(), Some("fake (7)"));
}

#[test]
fn answers_are_counted_by_the_pair_s_own_tokenizer() {
    let mut plan = one_round("simple-generation");
    let (test, _) = first_test(&plan, Script::default());
    assert!(test.requests.iter().all(|request| request.counted_tokens.is_none()));
    plan.pairs[0].tokenizer = Some("tokenizer".into());
    let (test, _) = first_test(&plan, Script::default());
    assert!(test.requests.iter().all(|request| request.counted_tokens == Some(5)));
}

#[test]
fn a_cold_start_is_measured_with_pages_cold_and_warm() {
    if !cfg!(target_os = "linux") {
        skip::because("pages can be dropped on Linux only");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gguf"), "weights").unwrap();
    let mut plan = one_round("cold-start");
    plan.pairs[0].gguf.model = folder.path().join("gguf").display().to_string();
    let (test, _) = first_test(&plan, Script::default());
    assert_eq!(test.outcome, Outcome::Completed, "{test:?}");
    assert_eq!(phases(&test), ["cold", "load", "unload", "warm", "load", "unload"]);
    for name in ["ready-cold", "ready-warm"] {
        assert_eq!(figure(&test, name).unwrap().values, [0.25]);
    }
    for name in ["first-token-cold", "first-token-warm"] {
        assert!(figure(&test, name).unwrap().values[0] > 0.0);
    }
    assert_eq!(figure(&test, "memory-after-load").unwrap().values, [RESIDENT as f64; 2]);
    assert_eq!(test.notes, [""; 0]);
}

#[test]
fn a_model_whose_files_are_elsewhere_has_no_cold_pages() {
    let (test, _) = first_test(&one_round("cold-start"), Script::default());
    assert_eq!(
        phases(&test),
        ["preparation", "load", "unload", "warm", "load", "unload"]
    );
    assert_eq!(figure(&test, "ready-cold"), None);
    assert_eq!(figure(&test, "ready-warm").unwrap().values, [0.25]);
    assert_eq!(
        test.notes,
        ["loading with cold pages is not measured: only the server knows where the model's files lie"]
    );
}

#[test]
fn a_model_that_was_there_already_has_no_time_to_load() {
    let script = Script {
        on_load: Box::new(|_, _| Ok(Start::Already)),
        ..Script::default()
    };
    let (test, _) = first_test(&one_round("cold-start"), script);
    let names: Vec<&str> = test.figures.iter().map(|figure| figure.name.as_str()).collect();
    assert_eq!(names, ["memory-after-load"]);
    assert!(
        test.notes
            .iter()
            .any(|note| note.starts_with("the server had the model already")),
        "{:?}",
        test.notes
    );
}

/// The fake counts words, as the tokenizer of these tests does.
#[test]
fn long_prompts_are_as_long_as_they_are_said_to_be() {
    let mut plan = one_round("context-stress");
    for tokenizer in [None, Some("tokenizer".into())] {
        plan.pairs[0].tokenizer = tokenizer;
        let (test, script) = first_test(&plan, Script::default());
        for (group, tokens) in [
            ("context-512", 512),
            ("context-1024", 1024),
            ("context-2048", 2048),
            ("measure", 4000),
        ] {
            let request = test.requests.iter().find(|request| request.group == group).unwrap();
            let found = request.usage.unwrap().prompt_tokens;
            assert!(found.abs_diff(tokens) <= tokens / 20, "{group}: {found}");
        }
        assert_eq!(test.notes, [""; 0]);
        let load = &script.loads.lock().unwrap()[0];
        assert!(load.context_length > 4000 + plan.answer_tokens, "{load:?}");
    }
}

#[test]
fn only_shorter_prompts_than_the_context_are_asked() {
    let plan = Plan {
        context_tokens: 1024,
        ..one_round("context-stress")
    };
    let (test, _) = first_test(&plan, Script::default());
    assert_eq!(groups(&test), ["warm-up", "warm-up-probe", "context-512", "measure"]);
}

#[test]
fn leaks_are_looked_for_with_caches_on_and_off_after_a_load_each() {
    let (test, script) = first_test(&one_round("memory-leak"), Script::default());
    assert_eq!(groups(&test), ["warm-up", "leak-cache-on", "warm-up", "leak-cache-off"]);
    let caches: Vec<bool> = script
        .loads
        .lock()
        .unwrap()
        .iter()
        .take(2)
        .map(|load| load.prompt_cache)
        .collect();
    assert_eq!(caches, [true, false]);
    let of_leak = test.requests.iter().filter(|request| request.group == "leak-cache-off");
    assert_eq!(of_leak.count(), 3);
    let prompts: BTreeSet<String> = script
        .requests
        .lock()
        .unwrap()
        .iter()
        .map(|request| request.messages[1].content.clone())
        .collect();
    assert_eq!(prompts.len(), 3 + 1, "three questions and the warm-up");
}

#[test]
fn the_commands_of_all_loads_of_a_test_are_kept() {
    let script = Script {
        command: |request| {
            let cache = if request.prompt_cache { "on" } else { "off" };
            Some(["serve", "--port", "1", "--cache", cache].map(str::to_owned).to_vec())
        },
        ..Script::default()
    };
    let (test, _) = first_test(&one_round("memory-leak"), script);
    let server = test.server.unwrap();
    assert_eq!(server.command_line().unwrap(), "serve --port PORT --cache off");
    assert_eq!(server.details["earlier-command"], "serve --port PORT --cache on");
}

#[test]
fn processes_that_a_server_leaves_running_are_told() {
    let Ok(name) = std::fs::read_to_string("/proc/self/comm") else {
        skip::because("this system tells names of processes otherwise");
        return;
    };
    let (id, name) = (std::process::id(), name.trim_end().to_owned());
    let script = Script {
        process: (id, name.clone()),
        ..Script::default()
    };
    let (test, _) = first_test(&one_round("simple-generation"), script);
    let told = format!("of the server's processes, these are still running after it was ended: {name} ({id})");
    assert!(
        test.notes.iter().any(|note| note.starts_with(&told)),
        "{:?}",
        test.notes
    );
}

#[test]
fn memory_settles_before_the_next_request_of_a_leak_test() {
    let plan = Plan {
        memory_interval_ms: 5,
        ..one_round("memory-leak")
    };
    let (test, _) = first_test(&plan, Script::default());
    let requests: Vec<_> = test
        .requests
        .iter()
        .filter(|request| request.group == "leak-cache-on")
        .collect();
    for pair in requests.windows(2) {
        assert!(pair[1].due - pair[0].times.ended >= 0.015, "{pair:?}");
    }
}

#[test]
fn caches_that_cannot_be_turned_off_are_told() {
    let script = Script {
        on_load: Box::new(|_, request| {
            let refusal = failure(FailureKind::Unsupported, "its caches cannot be turned off");
            request.prompt_cache.then_some(Start::Load).ok_or(refusal)
        }),
        ..Script::default()
    };
    let (test, _) = first_test(&one_round("memory-leak"), script);
    assert_eq!(test.outcome, Outcome::Completed);
    assert_eq!(groups(&test), ["warm-up", "leak-cache-on"]);
    assert_eq!(
        test.notes,
        ["`leak-cache-off` is not measured: its caches cannot be turned off"]
    );
}

#[test]
fn as_many_requests_are_under_way_as_a_level_says() {
    let plan = Plan {
        concurrency: vec![3],
        repeats: 4,
        ..one_round("concurrency")
    };
    let script = Script {
        latency: Duration::from_millis(60),
        ..Script::default()
    };
    let (test, script) = first_test(&plan, script);
    assert_eq!(script.most_under_way.load(Ordering::SeqCst), 3);
    assert_eq!(script.loads.lock().unwrap()[0].parallel, 3);
    let of_level: Vec<_> = test
        .requests
        .iter()
        .filter(|request| request.group == "concurrency-3")
        .collect();
    assert_eq!(of_level.len(), 6, "a whole number of threes");
    assert!(of_level.iter().all(|request| request.concurrency == 3));
    assert!(of_level.is_sorted_by_key(|request| request.due));
}

#[test]
fn requests_at_a_rate_are_due_whether_answers_came_or_not() {
    let plan = Plan {
        concurrency: vec![1, 4],
        repeats: 4,
        warm_ups: 0,
        request_rate: Some(200.0),
        ..one_round("concurrency")
    };
    let script = Script {
        latency: Duration::from_millis(100),
        ..Script::default()
    };
    let (test, _) = first_test(&plan, script);
    assert_eq!(groups(&test), ["request-rate"]);
    let Arrivals::Due(expected) = Arrivals::poisson(200.0, 8, plan.seed) else {
        panic!("they are due at times")
    };
    let begin = test.requests[0].due - expected[0];
    for (request, expected) in test.requests.iter().zip(&expected) {
        approx::assert_abs_diff_eq!(request.due - begin, *expected, epsilon = 1e-9);
        assert!(request.times.sent >= request.due);
    }
    let last_due = test.requests.last().unwrap().due;
    let first_end = test
        .requests
        .iter()
        .map(|request| request.times.ended)
        .fold(f64::INFINITY, f64::min);
    assert!(
        last_due < begin + 0.1 && first_end >= begin + 0.1,
        "all were due before the first answer came"
    );
}

#[test]
fn requests_that_are_due_wait_where_too_many_are_under_way_and_that_is_told() {
    let plan = Plan {
        concurrency: vec![300],
        repeats: 300,
        warm_ups: 0,
        request_rate: Some(1e6),
        ..one_round("concurrency")
    };
    let script = Script {
        latency: Duration::from_millis(150),
        ..Script::default()
    };
    let (tests, script) = tests_of(&plan, script);
    assert_eq!(tests[0].requests.len(), 300);
    assert!(script.most_under_way.load(Ordering::SeqCst) <= 256);
    let [_, late] = tests[0].notes.as_slice() else {
        panic!("{:?}", tests[0].notes)
    };
    assert!(late.contains("requests were sent later than they were due"), "{late}");
}

#[test]
fn a_dense_model_has_nothing_to_measure_as_a_mixture() {
    let mut plan = one_round("mixture");
    plan.pairs[0].mixture = Some(false);
    let (test, script) = first_test(&plan, Script::default());
    let reason = "the model is no mixture of experts".to_owned();
    assert_eq!(test.outcome, Outcome::Skipped { reason });
    assert_eq!(script.take_events(), [""; 0], "nothing is loaded for it");
}

#[test]
fn a_server_may_tell_that_its_model_is_a_mixture() {
    let (test, _) = first_test(&one_round("mixture"), Script::default());
    let Outcome::Skipped { reason } = &test.outcome else {
        panic!("{test:?}")
    };
    assert!(reason.contains("`mixture: true`"), "{reason}");
    let script = Script {
        details: [("num_experts".to_owned(), "8".to_owned())].into(),
        ..Script::default()
    };
    let (tests, _) = tests_of(&one_round("mixture"), script);
    let [test, mlx] = tests.as_slice() else {
        panic!("{tests:?}")
    };
    assert_eq!(test.outcome, Outcome::Completed);
    let measured = [
        "warm-up",
        "concurrency-1",
        "concurrency-2",
        "concurrency-4",
        "concurrency-8",
    ];
    assert_eq!(groups(test), measured);
    // No API tells where tokens go; MLX's files do, once the server has given the memory back.
    assert_eq!(test.figures, []);
    let figures: Vec<&str> = mlx.figures.iter().map(|figure| figure.name.as_str()).collect();
    assert_eq!(figures, ["routing-entropy"]);
    assert_eq!(phases(mlx).last(), Some(&"unload"));
}

#[test]
fn words_of_a_text_get_their_log_probabilities() {
    let script = Script {
        // The next word of the text is not known to a fake; the article is in some places.
        on_next_tokens: Box::new(|_, _| {
            Ok(NextTokens {
                tokens: vec![(" of".to_owned(), -0.5), (" the".to_owned(), -1.25)],
            })
        }),
        ..Script::default()
    };
    let (test, _) = first_test(&one_round("quality"), script);
    let values = |name| figure(&test, name).unwrap().values.clone();
    let listed = values("log-probability");
    assert!(
        !listed.is_empty() && listed.iter().all(|value| [-0.5, -1.25].contains(value)),
        "{listed:?}"
    );
    assert_eq!(listed.len() + values("position-not-listed")[0] as usize, 32);
    for name in ["position", "top-log-probability", "top-is-next-word"] {
        assert_eq!(values(name).len(), listed.len(), "{name}");
    }
}

#[test]
fn an_api_without_log_probabilities_is_told_and_the_model_is_unloaded() {
    let (test, script) = first_test(&one_round("quality"), Script::default());
    let reason = "the API does not tell".to_owned();
    assert_eq!(test.outcome, Outcome::Skipped { reason });
    assert_eq!(script.take_events()[..2], ["gguf load", "gguf unload"]);
}

#[test]
fn long_scenarios_are_run_once_and_others_as_often_as_asked() {
    let plan = Plan {
        rounds: 3,
        ..Plan::with_defaults(vec![pair("pair")])
    };
    let rounds: Vec<(&str, usize)> = SCENARIOS
        .iter()
        .map(|scenario| (scenario.name(), scenario.rounds(&plan)))
        .collect();
    let expected = [
        ("cold-start", 3),
        ("simple-generation", 3),
        ("context-stress", 1),
        ("memory-leak", 1),
        ("mixture", 3),
        ("concurrency", 3),
        ("quality", 1),
    ];
    assert_eq!(rounds, expected);
}

#[test]
fn requests_stop_at_once_when_the_server_has_died() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let script = Script {
        on_ask: Box::new(
            move |format, _| match (format, counted.fetch_add(1, Ordering::SeqCst)) {
                (Format::Gguf, 2..) => Err(failure(FailureKind::Died, "the process was killed")),
                _ => Ok("yes".to_owned()),
            },
        ),
        ..Script::default()
    };
    let plan = Plan {
        repeats: 50,
        ..one_round("simple-generation")
    };
    let (test, _) = first_test(&plan, script);
    assert_eq!(
        test.requests.len(),
        3,
        "the one that failed is recorded, and no other is sent"
    );
    let failure = failure(FailureKind::Died, "the process was killed");
    assert_eq!(test.outcome, Outcome::Failed { failure });
}
