//! `diagnose bench` as a user runs it. How long anything takes is never a test.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};

use mlx_diagnose::bench::{BenchResults, FILES, RESULTS, SUBJECTS, read_results};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rstest::rstest;
use serde_json::{Value, json};

use crate::benchmark::report::{DEFINITIONS, faults};
use crate::command_line::program::{diagnose, stderr, stdout, text};

fn bench(arguments: &[&str]) -> Output {
    diagnose().arg("bench").args(arguments).output().unwrap()
}

/// Measures these subjects into `folder`, three times each.
fn measured(folder: &Path, only: &str, more: &[&str]) -> Output {
    let arguments = [
        "--tiny",
        "--only",
        only,
        "--repeats",
        "3",
        "--warm-ups",
        "0",
        "--output-dir",
        text(folder),
    ];
    bench(&[&arguments, more].concat())
}

#[test]
fn every_subject_is_measured_or_says_why_not() {
    let output = bench(&["--tiny", "--repeats", "1", "--warm-ups", "0", "--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(faults("results", &value), [] as [String; 0]);
    let results: BenchResults = serde_json::from_value(value).unwrap();
    let names: Vec<&str> = results.subjects.iter().map(|subject| subject.name.as_str()).collect();
    let expected: Vec<&str> = SUBJECTS.iter().map(|subject| subject.name).collect();
    assert_eq!(names, expected);
    for subject in &results.subjects {
        let measured = subject.outcome.ran().unwrap_or_else(|| panic!("{subject:?}"));
        assert!(
            !measured.figures.is_empty() || !measured.lacking.is_empty(),
            "{subject:?}"
        );
        let figures = measured.figures.iter().map(|figure| &figure.name);
        let unique: BTreeSet<&String> = figures
            .chain(measured.lacking.iter().map(|lacking| &lacking.name))
            .collect();
        assert_eq!(
            unique.len(),
            measured.figures.len() + measured.lacking.len(),
            "{subject:?}"
        );
    }
    let has = |subject: &str, name: &str| assert!(results.figure(subject, name).is_some(), "{subject}/{name}");
    for name in ["forward", "backward", "update", "step", "tokens-per-second"] {
        has("training", name);
    }
    for name in [
        "prefill",
        "decode",
        "decode-4",
        "decode-8",
        "decode-share-of-memory-read",
    ] {
        has("generation", name);
    }
    for name in ["load-folder", "load-packed-folder", "start-to-logits"] {
        has("loading", name);
    }
    for kind in ["forward", "input-gradient", "weight-gradient", "decode"] {
        has("products", &format!("{kind}-output"));
    }
    has("probes", "all-probes");
    // A snapshot is handles: MLX holds nothing more after it.
    assert_eq!(results.figure("snapshot", "memory-of-capture").unwrap().median, 0.0);
    // The full comparison reads both snapshots, so that memory's own speed bounds it; sums of 0 would say it read nothing.
    assert!(results.figure("snapshot", "full-difference-rate").unwrap().median > 0.0);
}

#[test]
fn the_files_of_a_run_keep_to_their_schema_and_serve_as_a_baseline() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    let output = measured(&first, "optimizer,snapshot", &["--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for (file, definition) in DEFINITIONS {
        let value: Value = serde_json::from_str(&fs::read_to_string(first.join(file)).unwrap()).unwrap();
        assert_eq!(faults(definition, &value), [] as [String; 0], "{file}");
    }
    assert_eq!(stdout(&output), fs::read_to_string(first.join(RESULTS)).unwrap());
    for file in FILES {
        assert!(first.join(file).is_file(), "{file}");
    }
    let second = folder.path().join("second");
    let output = measured(&second, "optimizer,snapshot", &["--baseline", text(&first)]);
    // Whether this machine was slower the second time is not what is tested.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("against the baseline of "),
        "{}",
        stdout(&output)
    );
    assert!(
        fs::read_to_string(second.join("benchmark_results.md"))
            .unwrap()
            .contains("## Against the baseline")
    );
}

/// The first run's files with every second a thousandth: whatever the machine does, the next run is slower than that.
#[test]
fn a_program_that_got_slower_fails_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(measured(folder.path(), "optimizer", &[]).status.code(), Some(0));
    let path = folder.path().join(RESULTS);
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for figure in value["subjects"][0]["outcome"]["ran"]["figures"]
        .as_array_mut()
        .unwrap()
    {
        let median = figure["median"].as_f64().unwrap() / 1000.0;
        figure["samples"] = json!([median, median, median]);
        for field in ["median", "low", "high"] {
            figure[field] = json!(median);
        }
        figure["outliers"] = json!([]);
    }
    fs::write(&path, value.to_string()).unwrap();
    let output = bench(&[
        "--tiny",
        "--only",
        "optimizer",
        "--repeats",
        "3",
        "--baseline",
        text(folder.path()),
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("slower: optimizer/attach-adapters: "),
        "{}",
        stdout(&output)
    );
    let few = bench(&[
        "--tiny",
        "--only",
        "optimizer",
        "--repeats",
        "2",
        "--baseline",
        text(folder.path()),
    ]);
    assert_eq!(few.status.code(), Some(0), "{}", stderr(&few));
    assert!(stdout(&few).contains(" 2 not judged"), "{}", stdout(&few));
}

#[test]
fn a_baseline_of_another_machine_is_refused_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(measured(folder.path(), "optimizer", &[]).status.code(), Some(0));
    let mut results = read_results(folder.path()).unwrap();
    results.system.usable_cores += 6;
    fs::write(folder.path().join(RESULTS), serde_json::to_string(&results).unwrap()).unwrap();
    let output = bench(&["--tiny", "--only", "optimizer", "--baseline", text(folder.path())]);
    assert_eq!(output.status.code(), Some(2));
    let error = stderr(&output);
    assert!(error.contains("cannot be compared: another usable cores"), "{error}");
    assert!(!error.contains("round 1") && stdout(&output).is_empty(), "{error}");
}

/// The results of a run that the user ends as soon as it says a line that begins with `cue`.
fn interrupted(arguments: &[&str], cue: &str) -> BenchResults {
    let folder = tempfile::tempdir().unwrap();
    let mut process = diagnose()
        .args(["bench", "--tiny", "--output-dir"])
        .arg(folder.path())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stderr.take().unwrap()).lines();
    for line in lines.map(Result::unwrap) {
        if line.starts_with(cue) {
            kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGINT).unwrap();
        }
    }
    assert_eq!(process.wait().unwrap().code(), Some(2));
    let results = read_results(folder.path()).unwrap();
    assert!(results.interrupted);
    results
}

#[test]
fn an_interrupt_before_anything_was_measured_says_so_everywhere() {
    // So many warm-ups that the first subject cannot be over before it is interrupted.
    let arguments = ["--only", "snapshot,probes", "--warm-ups", "1000000", "--repeats", "1"];
    let results = interrupted(&arguments, "round 1 of 1, 1 of 2: ");
    let absences: Vec<Option<String>> = results
        .subjects
        .iter()
        .map(|subject| subject.outcome.absence())
        .collect();
    let said = |text: &str| Some(format!("skipped: the benchmark was interrupted {text} it"));
    assert_eq!(absences, [said("during"), said("before")]);
}

#[test]
fn an_interrupt_leaves_the_rounds_that_were_measured_until_then() {
    let results = interrupted(&["--only", "optimizer", "--repeats", "1000000"], "round 3 of ");
    let figure = results.figures().map(|(_, figure)| figure).next().unwrap();
    assert!(figure.samples.values().len() >= 2, "{figure:?}");
}

#[test]
fn the_list_has_every_subject_and_measures_nothing() {
    let output = bench(&["--list"]);
    assert_eq!(output.status.code(), Some(0));
    let listed = stdout(&output);
    for subject in SUBJECTS {
        assert!(
            listed
                .lines()
                .any(|line| line.split_whitespace().next() == Some(subject.name)),
            "{listed}"
        );
    }
    assert_eq!(listed.lines().count(), SUBJECTS.len());
}

#[rstest]
#[case::a_slip(&["--only", "trainig"], "did you mean `training`?")]
#[case::an_unlike_name(&["--only", "zebra"], "there is no subject `zebra`")]
#[case::no_baseline(&["--baseline", "/no/such/folder"], "no such folder")]
#[case::a_file_for_a_folder(&["--output-dir", "/dev/null"], "cannot write to the folder `/dev/null`")]
#[case::no_model(&["--model", "/no/such/model"], "/no/such/model")]
#[case::no_repeats(&["--repeats", "0"], "--repeats")]
#[case::two_models(&["--tiny", "--model", "x"], "cannot be used with")]
fn what_cannot_be_done_is_refused_at_once(#[case] arguments: &[&str], #[case] words: &str) {
    let output = bench(arguments);
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains(words) && !error.contains("panicked"), "{error}");
    assert_eq!(stdout(&output), "");
}
