//! Running a comparison: the order of tests, what happens when one fails, and what is left of it all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use insta::assert_snapshot;
use mlx_diagnose::compare::run::{Ended, Event, Observer, Remaining, ResumeError, compare, resume, tests};
use mlx_diagnose::compare::scenarios::SCENARIOS;
use mlx_diagnose::compare::{
    FailureKind, Format, Outcome, Plan, Record, ResultsError, ResultsFolder, Start, TestKey, TestRecord,
};
use mlx_diagnose::interrupt::Interrupt;

use crate::compare::fake_server::{
    Deaf, RESIDENT, Script, failure, machine, pair, quick_plan, run_into, tests_of, with_parts,
};

fn outcome_names(tests: &[TestRecord]) -> Vec<String> {
    let name = |outcome: &Outcome| match outcome {
        Outcome::Completed => "completed".to_owned(),
        Outcome::Skipped { .. } => "skipped".to_owned(),
        Outcome::Failed { failure } => format!("failed: {failure}"),
        Outcome::Interrupted => "interrupted".to_owned(),
    };
    tests
        .iter()
        .map(|test| format!("{} {}", test.key.file_name(), name(&test.outcome)))
        .collect()
}

#[test]
fn formats_take_turns_and_so_does_who_is_first() {
    let (tests, script) = tests_of(&quick_plan(&["simple-generation", "memory-leak"]), Script::default());
    let expected = [
        "pair-gguf-simple-generation-0 completed",
        "pair-mlx-simple-generation-0 completed",
        "pair-mlx-simple-generation-1 completed",
        "pair-gguf-simple-generation-1 completed",
        "pair-gguf-memory-leak-0 completed",
        "pair-mlx-memory-leak-0 completed",
    ];
    assert_eq!(outcome_names(&tests), expected);
    // One model is in memory at a time.
    let of = |format: &str| [format!("{format} load"), format!("{format} unload")];
    let order = ["gguf", "mlx", "mlx", "gguf", "gguf", "gguf", "mlx", "mlx"];
    assert_eq!(script.take_events(), order.map(of).concat());
}

#[test]
fn pairs_come_one_after_the_other() {
    let plan = Plan {
        pairs: vec![pair("one"), pair("two")],
        rounds: 1,
        ..quick_plan(&["simple-generation", "quality"])
    };
    let order: Vec<String> = tests(&plan, SCENARIOS).iter().map(TestKey::file_name).collect();
    let expected = [
        "one-gguf-simple-generation-0",
        "one-mlx-simple-generation-0",
        "one-gguf-quality-0",
        "one-mlx-quality-0",
        "two-gguf-simple-generation-0",
        "two-mlx-simple-generation-0",
        "two-gguf-quality-0",
        "two-mlx-quality-0",
    ];
    assert_eq!(order, expected);
    assert_eq!(
        outcome_names(&tests_of(&plan, Script::default()).0).len(),
        expected.len()
    );
}

#[test]
fn a_model_that_does_not_load_is_recorded_and_the_run_goes_on() {
    let script = Script {
        on_load: Box::new(|format, _| match format {
            Format::Gguf => Err(failure(FailureKind::NotLoaded, "there is no such model")),
            Format::Mlx => Ok(Start::Process),
        }),
        ..Script::default()
    };
    let plan = Plan {
        rounds: 1,
        ..quick_plan(&["simple-generation", "concurrency"])
    };
    let (tests, _) = tests_of(&plan, script);
    let expected = [
        "pair-gguf-simple-generation-0 failed: there is no such model",
        "pair-mlx-simple-generation-0 completed",
        "pair-gguf-concurrency-0 failed: there is no such model",
        "pair-mlx-concurrency-0 completed",
    ];
    assert_eq!(outcome_names(&tests), expected);
    assert!(
        tests[0].memory.is_some(),
        "memory was watched while the model was loaded"
    );
}

#[test]
fn a_server_that_cannot_be_opened_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let results = ResultsFolder::create(folder.path()).unwrap();
    let plan = Plan {
        rounds: 1,
        ..quick_plan(&["simple-generation"])
    };
    let ended = with_parts(&Arc::new(Script::default()), &Interrupt::default(), |parts| {
        let parts = mlx_diagnose::compare::run::Parts {
            open: &|_, _| Err(failure(FailureKind::NotStarted, "`llama-server` is not installed")),
            scenarios: parts.scenarios,
            watch: parts.watch,
            counter: &|_| Err("`tokenizer.json` is missing".to_owned()),
            routing: parts.routing,
            machine: machine(),
            interrupt: Interrupt::default(),
            program: PathBuf::new(),
        };
        compare(&plan, &parts, &results, &Deaf)
    });
    let expected = [
        "pair-gguf-simple-generation-0 failed: `llama-server` is not installed",
        "pair-mlx-simple-generation-0 failed: `llama-server` is not installed",
    ];
    assert_eq!(outcome_names(&ended.record.tests), expected);
}

#[test]
fn a_single_request_that_fails_does_not_end_its_test() {
    let asked = Mutex::new(0);
    let script = Script {
        on_ask: Box::new(move |_, _| {
            let mut asked = asked.lock().unwrap();
            *asked += 1;
            match *asked {
                2 => Err(failure(FailureKind::BrokenOff, "the connection ended in the middle")),
                _ => Ok("yes".to_owned()),
            }
        }),
        ..Script::default()
    };
    let (tests, _) = tests_of(&quick_plan(&["simple-generation"]), script);
    assert_eq!(tests[0].outcome, Outcome::Completed);
    let failed: Vec<bool> = tests[0]
        .requests
        .iter()
        .map(|request| request.failure.is_some())
        .collect();
    assert_eq!(failed, [false, true, false]);
}

#[test]
fn a_test_without_any_answer_has_failed() {
    let script = Script {
        on_ask: Box::new(|_, _| Err(failure(FailureKind::Stalled, "no piece came for 10 s"))),
        ..Script::default()
    };
    let (tests, _) = tests_of(&quick_plan(&["simple-generation"]), script);
    let expected = "pair-gguf-simple-generation-0 failed: no request was answered: no piece came for 10 s";
    assert_eq!(outcome_names(&tests)[0], expected);
}

#[test]
fn a_model_that_does_not_unload_is_told_and_what_was_measured_stays() {
    let script = Script {
        on_unload: Box::new(|_| Err(failure(FailureKind::TimedOut, "it had to be killed"))),
        ..Script::default()
    };
    let (tests, _) = tests_of(&quick_plan(&["simple-generation"]), script);
    assert_eq!(tests.len(), 4);
    for test in tests {
        assert_eq!(test.outcome, Outcome::Completed);
        assert_eq!(
            test.notes,
            ["the model was not unloaded as it should be: it had to be killed"]
        );
    }
}

#[test]
fn a_test_over_its_time_ends_and_the_next_one_begins() {
    let mut plan = Plan {
        repeats: 1000,
        rounds: 1,
        ..quick_plan(&["simple-generation"])
    };
    plan.limits.test = 0.3;
    let script = Script {
        latency: Duration::from_millis(10),
        ..Script::default()
    };
    let (tests, script) = tests_of(&plan, script);
    for (test, name) in tests.iter().zip(outcome_names(&tests)) {
        assert!(name.ends_with("failed: the test took longer than 0.3 s"), "{name}");
        assert!(
            !test.requests.is_empty() && test.requests.len() < 1000,
            "{} requests",
            test.requests.len()
        );
    }
    assert_eq!(
        script.take_events(),
        ["gguf load", "gguf unload", "mlx load", "mlx unload"]
    );
}

/// Ends a comparison in the middle of its second test.
fn interrupted(folder: &Path, plan: &Plan) -> (Record, ResultsFolder) {
    let interrupt = Interrupt::default();
    let wish = interrupt.clone();
    let script = Arc::new(Script {
        on_ask: Box::new(move |format, _| {
            if format == Format::Mlx {
                wish.request();
            }
            Ok("yes".to_owned())
        }),
        ..Script::default()
    });
    let results = ResultsFolder::create(folder).unwrap();
    let ended = with_parts(&script, &interrupt, |parts| compare(plan, parts, &results, &Deaf));
    assert_eq!(
        script.take_events(),
        ["gguf load", "gguf unload", "mlx load", "mlx unload"]
    );
    (ended.record, results)
}

#[test]
fn an_interrupted_comparison_leaves_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (record, results) = interrupted(folder.path(), &quick_plan(&["simple-generation"]));
    assert!(record.interrupted);
    let expected = [
        "pair-gguf-simple-generation-0 completed",
        "pair-mlx-simple-generation-0 interrupted",
    ];
    assert_eq!(outcome_names(&record.tests), expected);
    assert_eq!(record.tests[1].requests.len(), 1);
    let read = results.read().unwrap();
    assert_eq!(read.record, record);
    assert_eq!(read.samples.len(), 2);
}

#[test]
fn a_resumed_comparison_measures_only_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let plan = quick_plan(&["simple-generation"]);
    let (earlier, results) = interrupted(folder.path(), &plan);
    let script = Arc::new(Script::default());
    let ended = with_parts(&script, &Interrupt::default(), |parts| {
        resume(earlier.clone(), &plan, parts, &results, &Deaf).unwrap()
    });
    assert_eq!(
        script.take_events(),
        [
            "mlx load",
            "mlx unload",
            "mlx load",
            "mlx unload",
            "gguf load",
            "gguf unload"
        ]
    );
    let record = ended.record;
    assert!(!record.interrupted);
    assert_eq!((&record.began, &record.tests[0]), (&earlier.began, &earlier.tests[0]));
    assert_eq!(record.tests.len(), 4);
    let read = results.read().unwrap();
    assert_eq!(read.record, record);
    assert_eq!(read.samples.len(), 4);
}

#[test]
fn another_plan_or_machine_cannot_be_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let plan = quick_plan(&["simple-generation"]);
    let (earlier, results) = interrupted(folder.path(), &plan);
    let other = Plan {
        repeats: 3,
        warm_ups: 0,
        ..plan.clone()
    };
    with_parts(&Arc::new(Script::default()), &Interrupt::default(), |parts| {
        let refused = resume(earlier.clone(), &other, parts, &results, &Deaf).unwrap_err();
        assert_snapshot!(refused, @r"
        these results are of another plan
          found: another value of `repeats`, `warm-ups`
          expected: the plan that was measured
          hint: measure anew without `--resume`, or change the plan back
        ");
        let mut elsewhere = earlier.clone();
        elsewhere.machine.usable_cores = 64;
        elsewhere.machine.load_average = None;
        let refused = resume(elsewhere, &plan, parts, &results, &Deaf).unwrap_err();
        assert_eq!(refused, ResumeError::OtherMachine(vec!["`usable-cores`".to_owned()]));
    });
}

#[test]
fn requests_and_samples_that_cannot_be_written_are_told_and_the_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let results = ResultsFolder::create(folder.path()).unwrap();
    let metrics = results.path().join("metrics");
    let blocked = metrics.clone();
    let script = Arc::new(Script {
        // From the second test on there is no folder for them.
        on_load: Box::new(move |format, _| {
            if format == Format::Mlx {
                let _ = std::fs::rename(&blocked, blocked.with_extension("away"));
            }
            Ok(Start::Process)
        }),
        ..Script::default()
    });
    let plan = Plan {
        rounds: 1,
        ..quick_plan(&["simple-generation"])
    };
    let ended = with_parts(&script, &Interrupt::default(), |parts| {
        compare(&plan, parts, &results, &Deaf)
    });
    assert_eq!(ended.not_written, None);
    let names = outcome_names(&ended.record.tests);
    assert_eq!(names[0], "pair-gguf-simple-generation-0 completed");
    let beginning = "pair-mlx-simple-generation-0 failed: the requests and samples of a test cannot be written: ";
    assert!(names[1].starts_with(beginning), "{names:?}");
    std::fs::rename(metrics.with_extension("away"), &metrics).unwrap();
    let read = results.read().unwrap();
    assert_eq!(read.record, ended.record);
    assert_eq!(read.samples.len(), 1, "those of the first test are whole");
}

#[test]
fn results_that_cannot_be_written_end_the_run_and_leave_the_earlier_ones_whole() {
    let folder = tempfile::tempdir().unwrap();
    let results = ResultsFolder::create(folder.path()).unwrap();
    let (path, away) = (results.path().to_owned(), folder.path().join("away"));
    let target = away.clone();
    let script = Arc::new(Script {
        on_load: Box::new(move |format, _| {
            if format == Format::Mlx {
                std::fs::rename(&path, &target).unwrap();
                std::fs::write(&path, "no folder").unwrap();
            }
            Ok(Start::Process)
        }),
        ..Script::default()
    });
    let heard = Heard::default();
    let ended = with_parts(&script, &Interrupt::default(), |parts| {
        compare(&quick_plan(&["simple-generation"]), parts, &results, &heard)
    });
    let failure = ended.not_written.unwrap();
    assert_eq!(failure.kind, FailureKind::NotWritten);
    assert!(
        failure.reason.starts_with("the results cannot be written: "),
        "{failure}"
    );
    assert_eq!(script.take_events().len(), 4, "the second test is the last one");
    for once in [
        "the results cannot be written: ",
        "a line of the log cannot be written: ",
    ] {
        let told = heard.lines().iter().filter(|line| line.starts_with(once)).count();
        assert_eq!(told, 1, "{once}");
    }
    let read = ResultsFolder::at(&away).read().unwrap();
    assert_eq!(read.record.tests, ended.record.tests[..1]);
}

/// Remembers what the log would say, and what is left at the beginning of each test.
#[derive(Default)]
struct Heard {
    lines: Mutex<Vec<String>>,
    remaining: Mutex<Vec<(usize, usize, Remaining)>>,
}

impl Heard {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

impl Observer for Heard {
    fn hear(&self, event: &Event<'_>) {
        self.lines.lock().unwrap().extend(event.line());
        if let Event::TestBegins {
            number, of, remaining, ..
        } = event
        {
            self.remaining.lock().unwrap().push((*number, *of, *remaining));
        }
    }
}

#[test]
fn what_is_left_is_estimated_from_finished_tests_of_the_same_kind() {
    let folder = tempfile::tempdir().unwrap();
    let results = ResultsFolder::create(folder.path()).unwrap();
    let heard = Heard::default();
    let script = Arc::new(Script::default());
    let ended = with_parts(&script, &Interrupt::default(), |parts| {
        compare(&quick_plan(&["simple-generation"]), parts, &results, &heard)
    });
    let remaining = heard.remaining.lock().unwrap();
    let (numbers, unknown): (Vec<_>, Vec<_>) = remaining
        .iter()
        .map(|(number, of, left)| ((*number, *of), left.unknown))
        .unzip();
    assert_eq!(numbers, [(1, 4), (2, 4), (3, 4), (4, 4)]);
    assert_eq!(unknown, [4, 0, 0, 0]);
    approx::assert_relative_eq!(remaining[3].2.seconds, ended.record.tests[0].seconds);
}

#[test]
fn the_log_says_what_happened_with_the_time_of_each_line() {
    let folder = tempfile::tempdir().unwrap();
    let script = Arc::new(Script {
        on_load: Box::new(|format, _| match format {
            Format::Gguf => Ok(Start::Process),
            Format::Mlx => Err(mlx_diagnose::compare::Failure {
                hint: Some("free some".to_owned()),
                ..failure(FailureKind::NotLoaded, "there is no memory left")
            }),
        }),
        on_ask: Box::new(|_, _| Err(failure(FailureKind::Malformed, "what came is no event"))),
        ..Script::default()
    });
    let plan = Plan {
        rounds: 1,
        repeats: 1,
        ..quick_plan(&["simple-generation", "mixture"])
    };
    let mut plan = plan;
    plan.pairs[0].mixture = Some(false);
    let (_, results) = run_into(folder.path(), &plan, &script);
    let log = std::fs::read_to_string(results.path().join("mlx_gguf_testing.log")).unwrap();
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME");
    settings.add_filter(r"\d+\.\d s", "N s");
    settings.bind(|| {
        assert_snapshot!(log, @r"
        TIME pair-gguf-simple-generation-0: test 1 of 4 begins
        TIME pair-gguf-simple-generation-0: load
        TIME pair-gguf-simple-generation-0: warm-up
        TIME pair-gguf-simple-generation-0: a request of `warm-up` failed: what came is no event
        TIME pair-gguf-simple-generation-0: measure
        TIME pair-gguf-simple-generation-0: a request of `measure` failed: what came is no event
        TIME pair-gguf-simple-generation-0: unload
        TIME pair-gguf-simple-generation-0: failed after N s: no request was answered: what came is no event
        TIME pair-mlx-simple-generation-0: test 2 of 4 begins
        TIME pair-mlx-simple-generation-0: load
        TIME pair-mlx-simple-generation-0: failed after N s: there is no memory left
            hint: free some
        TIME pair-gguf-mixture-0: test 3 of 4 begins
        TIME pair-gguf-mixture-0: nothing to measure: the model is no mixture of experts
        TIME pair-mlx-mixture-0: test 4 of 4 begins
        TIME pair-mlx-mixture-0: nothing to measure: the model is no mixture of experts
        ");
    });
}

#[test]
fn results_are_read_back_as_they_were_measured() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = quick_plan(&["simple-generation", "mixture", "quality"]);
    plan.pairs[0].name = "Llama 3.3/70B".to_owned();
    let (ended, results) = run_into(folder.path(), &plan, &Arc::new(Script::default()));
    let read = results.read().unwrap();
    assert_eq!(read.record, ended.record);
    let watched: BTreeMap<_, _> = ended
        .record
        .tests
        .iter()
        .filter_map(|test| Some((&test.key, test.memory.as_ref()?.taken)))
        .collect();
    let samples: BTreeMap<_, _> = read.samples.iter().map(|(key, samples)| (key, samples.len())).collect();
    assert_eq!(samples, watched);
    let name = results.path().file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.len() == 15 && name.as_bytes()[8] == b'_', "{name}");
    assert!(
        results
            .path()
            .join("metrics/Llama_3.3_70B-gguf-simple-generation-0.memory.json")
            .is_file()
    );
    assert_eq!(
        std::fs::read_dir(results.path().join("logs")).unwrap().count(),
        0,
        "no server printed anything"
    );
}

#[test]
fn tables_hold_every_request_piece_and_sample() {
    let folder = tempfile::tempdir().unwrap();
    let (ended, results) = run_into(
        folder.path(),
        &quick_plan(&["simple-generation"]),
        &Arc::new(Script::default()),
    );
    let test = &ended.record.tests[0];
    let rows = |extension: &str| -> Vec<BTreeMap<String, String>> {
        let path = results
            .path()
            .join(format!("metrics/{}.{extension}.csv", test.key.file_name()));
        csv::Reader::from_path(path)
            .unwrap()
            .deserialize()
            .map(Result::unwrap)
            .collect()
    };
    let requests = rows("requests");
    assert_eq!(requests.len(), test.requests.len());
    for (row, request) in requests.iter().zip(&test.requests) {
        let pieces: Vec<f64> = row["pieces"].split(' ').map(|piece| piece.parse().unwrap()).collect();
        assert_eq!(pieces, request.times.pieces);
        assert_eq!((&row["group"], &row["text"]), (&request.group, &request.text));
        assert_eq!(row["completion_tokens"], "5");
        assert_eq!(row["failure"], "");
    }
    let memory = rows("memory");
    assert_eq!(
        memory.len(),
        2 * test.memory.as_ref().unwrap().taken,
        "a row for the process and one for all"
    );
    assert_eq!(
        (memory[0]["name"].as_str(), memory[1]["name"].as_str()),
        ("all", "fake, \"server\"")
    );
    assert_eq!(memory[1]["charged"], RESIDENT.to_string());
}

/// What is said of a folder after `change`.
fn refused(change: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        rounds: 1,
        ..quick_plan(&["simple-generation"])
    };
    let (_, results) = run_into(folder.path(), &plan, &Arc::new(Script::default()));
    change(results.path());
    let refused: ResultsError = results.read().unwrap_err();
    refused
        .to_string()
        .replace(&results.path().display().to_string(), "RESULTS")
}

#[test]
fn results_that_are_no_results_are_told() {
    let rewritten = |from: &'static str, to: &'static str| {
        move |path: &Path| {
            let file = path.join("test_results.json");
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains(from));
            std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
        }
    };
    assert_snapshot!(refused(rewritten("\"schema_version\": 1", "\"schema_version\": 99")), @r"
    `RESULTS/test_results.json` was written by another version of this program
      found: version 99 of the format
      expected: version 1
      hint: read it with the version that wrote it, or measure again
    ");
    assert_snapshot!(refused(rewritten("\"interrupted\"", "\"ended\"")), @r"
    `RESULTS/test_results.json` is no result of a comparison
      found: unknown field `ended`, expected one of `schema_version`, `began`, `machine`, `plan`, `interrupted`, `tests` at line 76 column 9
      expected: a file that `diagnose compare` wrote with version 1 of the format
    ");
    assert_snapshot!(refused(|path| std::fs::write(path.join("test_results.json"), "[1, 2]").unwrap()), @r"
    `RESULTS/test_results.json` is no result of a comparison
      found: trailing characters at line 1 column 5
      expected: a file that `diagnose compare` wrote with version 1 of the format
    ");
    assert_snapshot!(refused(|path| std::fs::remove_file(path.join("test_results.json")).unwrap()), @r"
    `RESULTS/test_results.json` is missing
      hint: name a folder that `diagnose compare run` made, such as `results/20260131_120000`
    ");
    let cut = |path: &Path| {
        let file = path.join("test_results.json");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    };
    assert!(
        refused(cut).starts_with("`RESULTS/test_results.json` ends in the middle\n"),
        "{}",
        refused(cut)
    );
}

#[test]
fn a_record_whose_plan_says_nothing_is_no_result() {
    let emptied = |name: &'static str| {
        move |path: &Path| {
            let file = path.join("test_results.json");
            let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            record["plan"][name] = serde_json::json!([]);
            std::fs::write(&file, record.to_string()).unwrap();
        }
    };
    for name in ["pairs", "scenarios", "formats"] {
        assert_eq!(
            refused(emptied(name)),
            format!(
                "`RESULTS/test_results.json` is no result of a comparison\n  found: a plan without {name}\n  expected: the plan that \
                 was measured"
            )
        );
    }
}

#[test]
fn tests_of_which_too_many_requests_failed_are_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        rounds: 1,
        ..quick_plan(&["simple-generation"])
    };
    let (
        Ended {
            record: mut earlier, ..
        },
        results,
    ) = run_into(folder.path(), &plan, &Arc::new(Script::default()));
    let request = earlier.tests[1].requests.last_mut().unwrap();
    request.failure = Some(failure(FailureKind::Stalled, "nothing came"));
    let script = Arc::new(Script::default());
    let ended = with_parts(&script, &Interrupt::default(), |parts| {
        resume(earlier.clone(), &plan, parts, &results, &Deaf).unwrap()
    });
    assert_eq!(script.take_events(), ["mlx load", "mlx unload"]);
    assert_eq!(ended.record.tests[0], earlier.tests[0]);
    assert!(
        ended.record.tests[1]
            .requests
            .iter()
            .all(|request| request.failure.is_none())
    );
}

#[test]
fn samples_that_are_missing_are_left_out_and_those_of_another_test_told() {
    const GGUF: &str = "metrics/pair-gguf-simple-generation-0.memory.json";
    const MLX: &str = "metrics/pair-mlx-simple-generation-0.memory.json";
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        rounds: 1,
        ..quick_plan(&["simple-generation"])
    };
    let (Ended { record, .. }, results) = run_into(folder.path(), &plan, &Arc::new(Script::default()));
    std::fs::remove_file(results.path().join(MLX)).unwrap();
    let read = results.read().unwrap();
    assert_eq!(read.record, record);
    assert_eq!(read.samples.keys().collect::<Vec<_>>(), [&record.tests[0].key]);
    let swapped = |path: &Path| {
        std::fs::copy(path.join(MLX), path.join(GGUF)).unwrap();
    };
    assert_snapshot!(refused(swapped), @r"
    `RESULTS/metrics/pair-gguf-simple-generation-0.memory.json` is no result of a comparison
      found: samples of `pair-mlx-simple-generation-0`
      expected: samples of `pair-gguf-simple-generation-0`
    ");
}

#[test]
fn a_folder_of_results_is_named_when_its_parent_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let (_, results) = run_into(folder.path(), &quick_plan(&["quality"]), &Arc::new(Script::default()));
    let told = ResultsFolder::at(folder.path()).read().unwrap_err().to_string();
    assert!(
        told.ends_with(&format!("did you mean `{}`?", results.path().display())),
        "{told}"
    );
}

#[test]
fn two_comparisons_in_one_second_have_a_folder_each() {
    let folder = tempfile::tempdir().unwrap();
    let paths: std::collections::BTreeSet<PathBuf> = (0..3)
        .map(|_| ResultsFolder::create(folder.path()).unwrap().path().to_owned())
        .collect();
    assert_eq!(paths.len(), 3);
}

#[test]
fn only_one_comparison_writes_into_a_folder_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let results = ResultsFolder::create(folder.path()).unwrap();
    let lock = results.lock().unwrap();
    let refused = ResultsFolder::at(results.path()).lock().unwrap_err().to_string();
    let told = refused
        .replace(&results.path().display().to_string(), "RESULTS")
        .replace(&std::process::id().to_string(), "ID");
    assert_snapshot!(told, @r"
    another comparison writes to `RESULTS`
      found: process ID
      expected: one comparison at a time; two would measure each other's load
      hint: wait until it has ended
    ");
    drop(lock);
    assert!(results.lock().is_ok());
    let nowhere = ResultsFolder::at(&folder.path().join("nowhere")).lock().unwrap_err();
    assert!(
        nowhere.to_string().contains("nowhere/.lock` cannot be locked"),
        "{nowhere}"
    );
}

#[test]
fn what_a_server_says_cannot_steer_the_terminal_of_who_reads_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let script = Arc::new(Script {
        on_ask: Box::new(|_, _| Err(failure(FailureKind::ServerError, "\u{1b}[31mred\u{7}\u{202e}"))),
        ..Script::default()
    });
    let (_, results) = run_into(folder.path(), &quick_plan(&["simple-generation"]), &script);
    let log = std::fs::read_to_string(results.path().join("mlx_gguf_testing.log")).unwrap();
    assert!(log.contains("failed: [31mred\n"), "{log}");
    assert!(
        !log.contains(|character: char| character.is_control() && character != '\n'),
        "{log}"
    );
}
