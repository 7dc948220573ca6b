//! This program beside others: the protocol, the turns, and what is made of the figures.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin_cmd;
use mlx_diagnose::bench::{SystemDescription, Unit};
use mlx_diagnose::device::Selection;
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::model::Tokenizer;
use mlx_diagnose::peers::{
    Ability, Absent, Bar, Barred, Comparison, Contestant, Decoded, Difference, Job, Measure, Memory, PeerError,
    PeerWorker, Prefilled, Purpose, RaceOptions, Roster, Shape, Start, Status, Trained, TurnRecord, Turned, Verdict,
    Workload, advantage, compare_work, judge, made_up_rows, race, to_markdown, turns,
};
use mlx_diagnose::python::Python;
use rstest::rstest;
use tempfile::TempDir;

use crate::diagnosis::rules::snapshots;
use crate::support::golden::root;
use crate::support::skip;

const GREETING: &str = r#"echo '{"protocol": 1, "versions": {}, "devices": ["cpu"], "libraries": []}'"#;
/// What a whole contestant says to `load` and to `memory`.
const LOADED: &str = r#"read line; echo '{"id": 1, "result": {}}'"#;
const MEMORY: &str = r#"read line; echo '{"id": 2, "result": {"resident": 1000, "framework": null}}'"#;

/// A contestant that is a shell script; `@` in it is the folder.
fn fake(folder: &Path, id: &str, script: &str) -> Contestant {
    let program = folder.join(id);
    let script = script.replace('@', &folder.display().to_string());
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    Contestant {
        id: id.to_owned(),
        title: format!("the {id} one"),
        start: Start::Program { program },
        model: PathBuf::from("/model"),
        dtype: "float32".to_owned(),
        device: "cpu".to_owned(),
        threads: Some(2),
        does: Ability::Everything,
        exact: true,
        versions: BTreeMap::new(),
    }
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_folder(&root().join("fixtures/embedded/model")).unwrap()
}

fn options(turns: usize) -> RaceOptions {
    RaceOptions {
        turns,
        timeout: Duration::from_secs(2),
        ..RaceOptions::default()
    }
}

fn raced(contestants: &[Contestant], turns: usize, interrupt: &Interrupt) -> Vec<TurnRecord> {
    let work = [Workload::Loading];
    race(
        contestants,
        &work,
        &tokenizer(),
        &options(turns),
        interrupt,
        &mut |_| {},
    )
    .unwrap()
}

/// The words of what went wrong with a contestant whose script this is.
fn failure(script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let records = raced(&[fake(folder.path(), "fake", script)], 1, &Interrupt::default());
    records[0].outcome.clone().unwrap_err()
}

#[rstest]
#[case::that_dies("read line; echo 'Killed by nobody' >&2; exit 7", &["`load`", "exit code 7", "found: Killed by nobody"])]
#[case::that_is_killed("read line; kill -9 $$", &["`load`", "signal 9", "out of memory"])]
#[case::that_hangs("read line; echo busy >&2; sleep 60", &["did not answer within 2 s", "found: busy"])]
#[case::that_prints_rubbish("read line; echo 'Loading checkpoint shards: 100%'", &["no answer", "found: Loading checkpoint"])]
#[case::that_answers_another_question(r#"read line; echo '{"id": 9, "result": {}}'; sleep 9"#, &["no answer", "`load`"])]
#[case::that_lacks_memory(
    r#"read line; echo '{"id": 1, "error": {"kind": "memory", "message": "out of memory: 9 GB"}}'; sleep 9"#,
    &["could not: out of memory: 9 GB"]
)]
fn a_contestant(#[case] script: &str, #[case] words: &[&str]) {
    let begun = Instant::now();
    let error = failure(&format!("{GREETING}; {script}"));
    for word in words {
        assert!(error.contains(word), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[rstest]
#[case::lacks_a_package(
    r#"echo '{"error": {"kind": "missing", "message": "No module named mlx_lm; needed: mlx-lm"}}'; exit 3"#,
    "found: No module named mlx_lm"
)]
#[case::is_of_another_version(
    r#"echo '{"protocol": 9, "versions": {}, "devices": [], "libraries": []}'; sleep 9"#,
    "found: 9"
)]
#[case::is_something_else("echo hello", "found: hello")]
fn a_program_that(#[case] script: &str, #[case] words: &str) {
    let error = failure(script);
    assert!(error.contains(words), "{error}");
}

#[test]
fn a_slow_contestant_has_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let slow = fake(
        folder.path(),
        "slow",
        &format!("{GREETING}; sleep 1; {LOADED}; {MEMORY}"),
    );
    let records = raced(&[slow], 1, &Interrupt::default());
    let turned = records[0].outcome.as_ref().unwrap();
    // The clock begins with the process.
    assert!(turned.loading >= 1.0, "{turned:?}");
    assert_eq!(turned.memory.unwrap().resident, 1000);
}

#[test]
fn turns_alternate_within_each_workload() {
    let order: Vec<_> = turns(2, 3, 2).collect();
    let round = |workload| [(workload, 0), (workload, 1), (workload, 2)];
    assert_eq!(order, [round(0), round(0), round(1), round(1)].concat());
}

#[test]
fn processes_come_one_after_the_other_and_the_others_go_on_when_one_dies() {
    let folder = tempfile::tempdir().unwrap();
    let whole = |name: &str| format!("echo {name} >>'@/order'; {GREETING}; {LOADED}; {MEMORY}");
    let contestants = [
        fake(folder.path(), "first", &whole("first")),
        fake(folder.path(), "broken", "echo broken >>'@/order'; exit 1"),
        fake(folder.path(), "last", &whole("last")),
    ];
    let records = raced(&contestants, 3, &Interrupt::default());
    let order = fs::read_to_string(folder.path().join("order")).unwrap();
    // Who fails is not asked again.
    assert_eq!(
        order.split_whitespace().collect::<Vec<_>>(),
        ["first", "broken", "last", "first", "last", "first", "last"]
    );
    let failed: Vec<&str> = records
        .iter()
        .filter(|record| record.outcome.is_err())
        .map(|record| record.contestant.as_str())
        .collect();
    assert_eq!(failed, ["broken"]);
}

#[test]
fn the_users_wish_to_stop_ends_all_of_a_contestant_and_keeps_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let contestants = [
        fake(folder.path(), "whole", &format!("{GREETING}; {LOADED}; {MEMORY}")),
        fake(
            folder.path(),
            "stuck",
            &format!("{GREETING}; (trap '' INT TERM; while :; do date >>'@/sign'; sleep 0.1; done) & sleep 60"),
        ),
    ];
    let interrupt = Interrupt::default();
    let raised = interrupt.clone();
    let sign = folder.path().join("sign");
    let seen = sign.clone();
    let user = std::thread::spawn(move || {
        let begun = Instant::now();
        while !seen.exists() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        raised.request();
    });
    let options = RaceOptions {
        timeout: Duration::from_mins(1),
        ..options(3)
    };
    let work = [Workload::Loading];
    let records = race(&contestants, &work, &tokenizer(), &options, &interrupt, &mut |_| {}).unwrap();
    user.join().unwrap();
    assert_eq!(records.len(), 1);
    let size = || fs::metadata(&sign).unwrap().len();
    let then = size();
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(size(), then);
}

#[rstest]
#[case::too_few_tokens(
    r#"{"losses": [1.0, 0.9], "seconds": [1, 1], "tokens": 63}"#,
    "found: 63\n  expected: 64"
)]
#[case::a_step_without_a_time(r#"{"losses": [1.0, 0.9], "seconds": [1], "tokens": 64}"#, "found: 1\n  expected: 2")]
#[case::no_step(r#"{"losses": [], "seconds": [], "tokens": 64}"#, "found: 0\n  expected: 1")]
#[case::a_loss_that_is_no_number(r#"{"losses": [null], "seconds": [1], "tokens": 64}"#, "no answer")]
fn a_contestant_that_did_other_work_is_told(#[case] trained: &str, #[case] words: &str) {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("{GREETING}; {LOADED}; read line; echo '{{\"id\": 2, \"result\": {trained}}}'; sleep 9");
    let work = [Workload::Training(Shape { rows: 2, tokens: 32 })];
    let contestants = [fake(folder.path(), "fake", &script)];
    let interrupt = Interrupt::default();
    let records = race(&contestants, &work, &tokenizer(), &options(1), &interrupt, &mut |_| {}).unwrap();
    let error = records[0].outcome.clone().unwrap_err();
    assert!(error.contains(words), "{error}");
}

#[test]
fn rows_have_their_length_differ_and_are_the_same_every_time() {
    let tokenizer = tokenizer();
    let rows = made_up_rows(&tokenizer, 0, 4, 700).unwrap();
    assert!(rows.iter().all(|row| row.len() == 700));
    assert!((1..4).all(|row| rows[row] != rows[0]));
    assert_eq!(made_up_rows(&tokenizer, 2, 1, 700).unwrap()[0], rows[2]);
}

fn trained(losses: &[f64]) -> Turned {
    Turned {
        loading: 1.0,
        trained: Some(Trained {
            losses: losses.to_vec(),
            seconds: vec![9.0, 2.0, 4.0][..losses.len()].to_vec(),
            tokens: 64,
        }),
        memory: Some(Memory {
            resident: 3_000_000_000,
            framework: None,
        }),
        ..Turned::default()
    }
}

fn record(contestant: &str, turned: Turned) -> TurnRecord {
    TurnRecord {
        workload: 0,
        contestant: contestant.to_owned(),
        outcome: Ok(turned),
    }
}

fn named(id: &str, dtype: &str) -> Contestant {
    let folder = tempfile::tempdir().unwrap();
    Contestant {
        dtype: dtype.to_owned(),
        exact: dtype == "float32",
        ..fake(folder.path(), id, "exit 1")
    }
}

const TRAINING: Workload = Workload::Training(Shape { rows: 2, tokens: 32 });

/// Whether the second contestant's losses are those of the first, and how far they are apart.
fn judged(dtype: &str, reference: &[f64], losses: &[f64]) -> (Option<bool>, f64, usize) {
    let contestants = [named("diagnose", "float32"), named("peer", dtype)];
    let records = [record("diagnose", trained(reference)), record("peer", trained(losses))];
    let checks = compare_work(&contestants, &[TRAINING], &records);
    let check = checks.iter().find(|check| check.contestant == "peer").unwrap();
    match check.difference {
        Difference::Losses { largest, steps, .. } => (check.same, largest, steps),
        Difference::Answers { .. } => panic!("{check:?}"),
    }
}

#[test]
fn losses_are_compared_step_by_step() {
    // A thousandth of the loss is allowed in float32.
    assert_eq!(judged("float32", &[4.0, 2.0], &[4.0, 2.0]), (Some(true), 0.0, 2));
    let (same, largest, _) = judged("float32", &[4.0, 2.0], &[4.003, 2.0]);
    approx::assert_relative_eq!(largest, 0.003 / 4.0, max_relative = 1e-9);
    assert_eq!(same, Some(true));
    assert_eq!(judged("float32", &[4.0, 2.0], &[4.0, 2.003]).0, Some(false));
    // Below 1 nat it is a thousandth of a nat.
    assert_eq!(judged("float32", &[0.1, 0.01], &[0.1005, 0.01]).0, Some(true));
    // A step that only one of them took is not compared.
    assert_eq!(judged("float32", &[4.0, 2.0, 1.0], &[4.0]), (Some(true), 0.0, 1));
}

#[test]
fn in_sixteen_bits_only_the_loss_before_any_update_is_judged() {
    assert_eq!(
        judged("bfloat16", &[4.0, 2.0], &[4.0625, 9.0]),
        (Some(true), 0.015_625, 1)
    );
    assert_eq!(judged("bfloat16", &[4.0, 2.0], &[4.2, 2.0]).0, Some(false));
}

#[rstest]
#[case::the_same(&[5, 6, 7, 8], Some(true))]
#[case::another_word_late(&[5, 6, 9, 9], Some(true))]
#[case::other_words(&[5, 9, 7, 8], Some(false))]
fn answers_must_begin_alike(#[case] answer: &[u32], #[case] same: Option<bool>) {
    let work = Workload::Generation {
        prefill: 8,
        prompt: 8,
        new: 4,
        at_once: vec![1],
    };
    let answered = |tokens: &[u32]| Turned {
        prefilled: Some(Prefilled { seconds: 2.0, token: 3 }),
        decoded: vec![Decoded {
            seconds: 4.0,
            to_first: 1.0,
            tokens: vec![tokens.to_vec()],
        }],
        ..Turned::default()
    };
    let contestants = [
        named("diagnose", "float32"),
        named("peer", "float32"),
        named("packed", "int4"),
    ];
    let records = [
        record("diagnose", answered(&[5, 6, 7, 8])),
        record("peer", answered(answer)),
        record("packed", answered(&[0, 0, 0, 0])),
    ];
    let checks = compare_work(&contestants, std::slice::from_ref(&work), &records);
    // The token after the prompt that was read counts too.
    assert_eq!(checks[1].same, same, "{checks:?}");
    assert_eq!(checks[2].same, None);
    let comparison = comparison(&contestants, &[work], &records);
    let median = |measure: &str| {
        let report = comparison
            .measures
            .iter()
            .find(|report| report.name == measure)
            .unwrap();
        report.figures[0].measurement.median
    };
    // 8 tokens in 2 s; 3 tokens after the first in 3 s.
    assert_eq!((median("prefill-8"), median("decoding-1")), (4.0, 1.0));
}

fn comparison(contestants: &[Contestant], workloads: &[Workload], records: &[TurnRecord]) -> Comparison {
    let roster = Roster {
        contestants: contestants.to_vec(),
        absent: Vec::new(),
    };
    let system = SystemDescription::read(&Selection::of(None).unwrap());
    Comparison::new(system, "model", &roster, workloads, &options(2), records, true)
}

#[test]
fn a_figure_is_the_median_of_all_turns_and_the_first_step_of_each_is_left_out() {
    let contestants = [named("diagnose", "float32"), named("torch-cpu-float32", "float32")];
    let slow = Turned {
        trained: Some(Trained {
            losses: vec![4.0],
            seconds: vec![32.0],
            tokens: 64,
        }),
        ..trained(&[4.0])
    };
    let records = [
        record("diagnose", trained(&[4.0, 3.0, 2.0])),
        // A step that is alone counts.
        record("torch-cpu-float32", slow),
        record("diagnose", trained(&[4.0, 3.0, 2.0])),
    ];
    let comparison = comparison(&contestants, &[TRAINING], &records);
    let report = &comparison.measures[0];
    assert_eq!(
        (report.name.as_str(), report.unit),
        ("training-2x32", Unit::TokensPerSecond)
    );
    // 64 tokens in 2 s and in 4 s, twice.
    assert_eq!(report.figures[0].measurement.samples.values(), [32.0, 16.0, 32.0, 16.0]);
    assert_eq!(report.figures[0].measurement.median, 24.0);
    assert_eq!(report.figures[1].measurement.median, 2.0);
    assert_eq!(report.figures[1].advantage, Some(12.0));
    let bar = |measure: &str, peer: &str| {
        let mut bars = comparison.bars.iter();
        bars.find(|bar| bar.measure == measure && bar.peer == peer)
            .unwrap()
            .clone()
    };
    let training = bar("training-2x32", "torch-cpu-float32");
    assert_eq!((training.reached, training.verdict), (Some(12.0), Verdict::Held));
    let memory = bar("memory-training-2x32", "torch-cpu-float32");
    assert_eq!((memory.reached, memory.verdict), (Some(1.0), Verdict::Held));
    let absent = bar("training-2x32", "mlx-lm");
    assert_eq!((absent.reached, absent.verdict), (None, Verdict::NotMeasured));
}

#[test]
fn a_bar_is_held_from_the_factor_on_that_it_needs() {
    assert_eq!(advantage(Unit::TokensPerSecond, 30.0, 10.0), 3.0);
    assert_eq!(advantage(Unit::Seconds, 0.5, 2.0), 4.0);
    assert_eq!(advantage(Unit::Bytes, 4.0, 2.0), 0.5);
    let bars = [Bar {
        barred: Barred::Loading,
        ours: "ours",
        peer: "peer",
        needed: 2.0,
    }];
    let verdict = |ours: f64| {
        let median = |_: &str, id: &str| Some(if id == "ours" { ours } else { 3.0 });
        judge(&bars, &[Measure::Loading, Measure::Prefill(8)], median)
    };
    assert_eq!(verdict(1.5).len(), 1);
    assert_eq!(verdict(1.5)[0].verdict, Verdict::Held);
    assert_eq!(verdict(1.6)[0].verdict, Verdict::Missed);
}

#[test]
fn whoever_is_not_measured_is_told_with_what_to_do() {
    let failed = TurnRecord {
        workload: 0,
        contestant: "mlx-lm".to_owned(),
        outcome: Err("asked for `load`, it ended with exit code 1\n  found: libblas.so: no such file".to_owned()),
    };
    let mut roster = Roster::nobody();
    roster.contestants = vec![named("diagnose", "float32"), named("mlx-lm", "float32")];
    roster.absent.push(Absent {
        id: "mlx-lm-openblas".to_owned(),
        title: "mlx-lm, OpenBLAS in its place".to_owned(),
        reason: "OpenBLAS is not installed".to_owned(),
        hint: Some("Debian, Ubuntu: `apt install libopenblas0-pthread`".to_owned()),
    });
    let system = SystemDescription::read(&Selection::of(None).unwrap());
    let records = [record("diagnose", trained(&[4.0, 3.0])), failed];
    let comparison = Comparison::new(system, "model", &roster, &[TRAINING], &options(1), &records, true);
    assert!(comparison.has_failures());
    let page = to_markdown(&comparison);
    let (_, end) = page.split_once("## Bars").unwrap();
    snapshots().bind(|| insta::assert_snapshot!("peers_not_measured", end));
}

/// The results of a run that went well, and what it printed.
fn results(arguments: &[&str]) -> (Comparison, String) {
    let folder = TempDir::new().unwrap();
    let output = cargo_bin_cmd!("diagnose")
        .args(["bench", "--tiny", "--output-dir"])
        .arg(folder.path())
        .args(arguments)
        .output()
        .unwrap();
    let text = fs::read_to_string(folder.path().join("pytorch_comparison_results.json"))
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(crate::benchmark::report::faults("pytorch", &value), [] as [String; 0]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (
        serde_json::from_value(value).unwrap(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

#[test]
fn results_are_written_when_nobody_was_asked_for() {
    let (comparison, _) = results(&["--only", "snapshot", "--repeats", "1"]);
    let torch = comparison
        .contestants
        .iter()
        .find(|contestant| contestant.id == "torch")
        .unwrap();
    assert_eq!(torch.status, Status::Skipped);
    let absence = torch.absence.as_ref().unwrap();
    assert_eq!(absence.reason, "it was not asked for");
    assert_eq!(absence.hint.as_deref(), Some("`diagnose bench --peers torch`"));
}

#[test]
fn results_are_written_without_torch_and_hold_this_program() {
    let arguments = [
        "--peers",
        "torch",
        "--peers-alone",
        "--python-torch",
        "/no/such/python",
        "--peer-turns",
        "1",
    ];
    let (comparison, page) = results(&arguments);
    let status = |id: &str| {
        let mut contestants = comparison.contestants.iter();
        contestants.find(|contestant| contestant.id == id).unwrap()
    };
    assert_eq!(status("torch").status, Status::Skipped);
    let absence = status("torch").absence.as_ref().unwrap();
    assert!(absence.reason.contains("cannot be run"), "{absence:?}");
    let hint = absence.hint.as_ref().unwrap();
    assert!(
        hint.contains("/no/such/python -m pip install torch transformers peft"),
        "{hint}"
    );
    assert_eq!(status("diagnose").status, Status::Measured);
    let measured: Vec<&str> = comparison
        .measures
        .iter()
        .map(|measure| measure.name.as_str())
        .collect();
    for name in [
        "loading",
        "training-2x32",
        "prefill-64",
        "decoding-1",
        "decoding-4",
        "memory-generation",
    ] {
        assert!(measured.contains(&name), "{measured:?}");
    }
    assert!(page.starts_with("# diagnose beside other programs\n"), "{page}");
}

#[test]
fn torch_takes_the_same_steps() {
    let python = Python::from_environment();
    let is_there = Command::new(&python.0)
        .args(["-c", "import torch, transformers, peft"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !is_there {
        skip::because(&format!("no torch, transformers and peft for `{}`", python.name()));
        return;
    }
    let arguments = [
        "--peers",
        "torch",
        "--peers-alone",
        "--peer-work",
        "training",
        "--peer-turns",
        "1",
    ];
    let (comparison, _) = results(&arguments);
    let mut checks = comparison.work.iter();
    let check = checks.find(|check| check.contestant == "torch-cpu-float32").unwrap();
    let Difference::Losses { steps, largest, .. } = check.difference else {
        panic!("{check:?}");
    };
    // The first loss, and what three updates made of it.
    assert_eq!((steps, check.same), (4, Some(true)));
    assert!(largest < 1e-5, "{largest}");
}

#[test]
fn a_worker_that_was_not_loaded_refuses() {
    let own = Contestant {
        start: Start::Own {
            program: cargo_bin_cmd!("diagnose").get_program().into(),
        },
        model: root().join("fixtures/embedded/model"),
        ..named("diagnose", "float32")
    };
    let interrupt = Interrupt::default();
    let timeout = Duration::from_mins(1);
    let (mut worker, seconds) = PeerWorker::load(&own, Purpose::Training, &interrupt, timeout).unwrap();
    assert!(seconds > 0.0);
    let job = Job::Prefill { prompt: vec![1] };
    let refused = worker.call::<Prefilled>(&job).unwrap_err();
    assert!(matches!(refused, PeerError::Refused { .. }), "{refused}");
    assert!(
        refused.to_string().contains("no model was loaded for answers"),
        "{refused}"
    );
}
