//! `diagnose` in several processes: what each did is known, right runs are left in peace, and faults between them are named.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use approx::assert_relative_eq;
use mlx_diagnose::evidence::{Evidence, RanksEvidence};
use rstest::rstest;
use serde_json::Value;

use super::distributed::host_file;
use super::fine_tuning_runs::{PROGRAM, text};
use crate::support::golden::root;
use crate::support::temporary::left_in;

/// Rows whose answers have several lengths.
fn rows() -> PathBuf {
    root().join("fixtures/embedded/voice/train.jsonl")
}

/// Difference allowed between losses, in nats: sums of the same terms in another order.
const LOSS_TOLERANCE: f64 = 1e-5;
/// Relative difference allowed between a mean of products and the product of the mean: sums of thousands of terms in f32.
const PROJECTION_TOLERANCE: f64 = 1e-5;

fn diagnosed(launcher: &[&str], out: &Path, options: &[&str]) -> Output {
    let temporary = tempfile::tempdir().unwrap();
    let output = Command::new(PROGRAM)
        .args(launcher)
        .args(["--max-tokens", "8", "--data"])
        .arg(rows())
        .arg("--out")
        .arg(out)
        .args(options)
        .env("NO_COLOR", "1")
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(left_in(temporary.path()), [""; 0], "{}", text(&output.stderr));
    output
}

fn together(processes: usize, out: &Path, options: &[&str]) -> Output {
    diagnosed(&["launch", "-n", &processes.to_string(), "--"], out, options)
}

/// Rows enough for each of four processes.
const BATCH: [&str; 2] = ["--batch-size", "8"];

fn evidence(out: &Path) -> Evidence {
    let path = out.join("evidence.json");
    Evidence::parse(&path, &std::fs::read_to_string(&path).unwrap()).unwrap()
}

fn report(out: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap()
}

/// The names of the findings that nothing explains, notes aside.
fn roots(out: &Path) -> Vec<String> {
    let report = report(out);
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["root"] == true && finding["severity"] != "info")
        .map(|finding| finding["name"].as_str().unwrap().to_owned())
        .collect()
}

fn losses(evidence: &Evidence) -> Vec<f64> {
    let steps = &evidence.training.ran().unwrap().steps;
    steps.iter().map(|step| step.loss.unwrap()).collect()
}

/// What holds in every right run, computed from nothing but the numbers of its processes.
fn assert_right(ranks: &RanksEvidence, size: usize) {
    assert_eq!(ranks.size, size);
    assert_eq!(ranks.start, vec![ranks.start[0]; size]);
    for update in &ranks.updates {
        let first = &update.ranks[0];
        assert!(update.ranks.iter().all(|rank| rank.parameters == first.parameters));
        let mut rows: Vec<usize> = update.ranks.iter().flat_map(|rank| rank.rows.clone()).collect();
        assert_eq!(rows.len(), update.rows, "no row is lost");
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), update.rows, "no row is computed twice");
        let (mut products, mut targets) = (0.0, 0.0);
        for rank in &update.ranks {
            products += rank.own.unwrap().projection * rank.supervised_tokens as f64;
            targets += rank.supervised_tokens as f64;
        }
        for rank in &update.ranks {
            let applied = rank.applied.unwrap();
            let distance = (applied.projection - products / targets).abs();
            assert!(
                distance <= PROJECTION_TOLERANCE * applied.norm,
                "{distance} in update {}",
                update.update
            );
        }
    }
}

#[rstest]
#[case::two(2)]
#[case::four(4)]
fn a_right_diagnosis_in_several_processes_is_silent_and_is_that_of_one(#[case] processes: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (many, one) = (folder.path().join("many"), folder.path().join("one"));
    let output = together(processes, &many, &BATCH);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(diagnosed(&[], &one, &BATCH).status.success());
    let (found, expected) = (evidence(&many), evidence(&one));
    assert_right(found.ranks.ran().unwrap(), processes);
    assert_eq!(found.ranks.ran().unwrap().updates.len(), found.settings.steps);
    assert!(roots(&many).is_empty(), "{:?}", roots(&many));
    let (found, expected) = (losses(&found), losses(&expected));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_relative_eq!(*found, *expected, epsilon = LOSS_TOLERANCE);
    }
    // One process alone speaks, and the report has a line for each.
    let printed = text(&output.stdout);
    assert!(!printed.contains("[0]") && !printed.contains("[1]"), "{printed}");
    assert!(printed.contains("as rank 0"), "{printed}");
    let page = std::fs::read_to_string(many.join("report.html")).unwrap();
    assert!(page.contains("Where the time of an update goes"));
}

#[rstest]
#[case("start-not-shared", "ranks-diverged")]
#[case("reduction-noisy=0.001", "ranks-diverged")]
#[case("gradients-kept", "gradients-not-averaged")]
#[case("gradients-partly-kept", "gradients-not-averaged")]
#[case("gradients-summed", "gradients-not-averaged")]
#[case("means-averaged", "rank-weighting-wrong")]
#[case("same-rows", "same-data-on-every-rank")]
#[case("slow-process", "straggler")]
#[case("process-killed", "rank-lost")]
fn a_fault_between_processes_is_named(#[case] fault: &str, #[case] rule: &str) {
    let folder = tempfile::tempdir().unwrap();
    let output = together(2, folder.path(), &["--batch-size", "8", "--inject", fault]);
    assert_eq!(roots(folder.path()), [rule], "{}", text(&output.stderr));
}

#[test]
fn a_lost_process_is_reported_with_what_was_known_until_then() {
    let folder = tempfile::tempdir().unwrap();
    let output = together(4, folder.path(), &["--batch-size", "8", "--inject", "process-killed"]);
    assert_eq!(output.status.code(), Some(2));
    let evidence = evidence(folder.path());
    let ranks = evidence.ranks.ran().unwrap();
    let lost = ranks.lost.as_ref().unwrap();
    // It dies in the third update.
    assert_eq!((lost.rank, lost.updates, ranks.updates.len()), (3, 2, 2));
    assert!(evidence.baseline.ran().is_some(), "what was measured before is kept");
    assert!(text(&output.stdout).contains("rank 3 was lost after 2 updates"));
}

#[test]
fn a_process_that_is_lost_before_training_is_reported_too() {
    let folder = tempfile::tempdir().unwrap();
    let (hosts, out) = (host_file(folder.path(), 2), folder.path().join("out"));
    let prompts = folder.path().join("prompts.txt");
    // Answered for much longer than it takes to notice.
    std::fs::write(&prompts, "Tell me about the bakery.\n".repeat(2_000)).unwrap();
    let temporary = [0, 1].map(|_| tempfile::tempdir().unwrap());
    let process = |rank: usize| {
        let mut command = Command::new(PROGRAM);
        command.args(["--out", out.to_str().unwrap(), "--prompts", prompts.to_str().unwrap()]);
        command.env("TMPDIR", temporary[rank].path());
        command.env("MLX_RANK", rank.to_string()).env("MLX_HOSTFILE", &hosts);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let (mut first, mut second) = (process(0), process(1));
    // Both have met and agreed by then.
    std::thread::sleep(Duration::from_secs(3));
    second.kill().unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(2));
    second.wait().unwrap();
    assert_eq!(roots(&out), ["rank-lost"]);
    assert_eq!(
        left_in(temporary[0].path()),
        [""; 0],
        "what is left is that of the killed process"
    );
}

#[test]
fn rows_that_are_copies_of_each_other_are_not_taken_for_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("copies.jsonl");
    let text = std::fs::read_to_string(rows()).unwrap();
    let three: Vec<&str> = text.lines().take(3).collect();
    std::fs::write(&data, format!("{}\n", three.join("\n")).repeat(8)).unwrap();
    let out = folder.path().join("out");
    let output = Command::new(PROGRAM)
        .args([
            "launch",
            "-n",
            "2",
            "--",
            "--batch-size",
            "8",
            "--max-tokens",
            "8",
            "--data",
        ])
        .args([&data, &PathBuf::from("--out"), &out])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    assert_eq!(roots(&out), ["duplicate-rows"]);
}

fn text_of(output: &Output) -> String {
    [text(&output.stdout), text(&output.stderr)].concat()
}

#[test]
fn a_report_of_several_processes_is_a_document_and_repeats() {
    let folder = tempfile::tempdir().unwrap();
    let baseline = folder.path().join("baseline.json");
    let baseline = baseline.to_str().unwrap();
    let stored = together(
        2,
        &folder.path().join("first"),
        &[&BATCH[..], &["--save-baseline", baseline]].concat(),
    );
    assert!(stored.status.success(), "{}", text_of(&stored));
    let options = [&BATCH[..], &["--baseline", baseline, "--format", "json"]].concat();
    let repeated = together(2, &folder.path().join("second"), &options);
    assert!(repeated.status.success(), "{}", text_of(&repeated));
    let document: Value = serde_json::from_slice(&repeated.stdout).unwrap();
    assert_eq!(document["ranks"]["ranks"].as_array().unwrap().len(), 2);
}

#[test]
fn a_batch_with_fewer_rows_than_processes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = together(4, &folder.path().join("out"), &["--batch-size", "2"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("2 for 4 processes"),
        "{}",
        text_of(&output)
    );
}

/// The processes of a diagnosis with options of their own.
fn processes(folder: &Path, options: &[&[&str]]) -> Vec<Output> {
    let hosts = host_file(folder, options.len());
    let started: Vec<_> = options
        .iter()
        .enumerate()
        .map(|(rank, options)| {
            Command::new(PROGRAM)
                .args(*options)
                .args(["--max-tokens", "8", "--out"])
                .arg(folder.join(format!("out-{rank}")))
                .env("MLX_RANK", rank.to_string())
                .env("MLX_HOSTFILE", &hosts)
                .env("NO_COLOR", "1")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    started
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect()
}

#[test]
fn a_process_that_cannot_train_says_why_and_keeps_none_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let outputs = processes(folder.path(), &[&[], &["--data", "no-such-file.jsonl"]]);
    let said = text(&outputs[1].stderr);
    assert!(said.contains("no-such-file.jsonl"), "{said}");
    let report = report(&folder.path().join("out-0"));
    assert_eq!(report["verdict"], "incomplete");
    assert!(
        report["headline"]
            .as_str()
            .unwrap()
            .contains("another process cannot train"),
        "{report:#}"
    );
    for output in outputs {
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn processes_with_other_settings_or_rows_train_nothing() {
    for (options, what) in [
        (["--learning-rate", "2e-4"], "other settings at rank 1"),
        (["--data", rows().to_str().unwrap()], "other rows at rank 1"),
        (["--inject", "gradients-kept"], "other faults planted at rank 1"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let outputs = processes(folder.path(), &[&[], &options]);
        for output in outputs {
            let said = [text(&output.stdout), text(&output.stderr)].concat();
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains(what), "{said}");
        }
    }
}

#[rstest]
#[case(&["--check-only"])]
#[case(&["--apply-fix"])]
#[case(&["--trainer", "mlx-lm"])]
#[case(&["--adapter", "somewhere", "--model", "anywhere"])]
fn what_one_process_does_alone_is_refused(#[case] options: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = together(2, &folder.path().join("out"), options);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let refused = format!("one process alone does `{}`", options[0]);
    assert!(said.contains(&refused), "{said}");
    assert!(!folder.path().join("out").exists());
}

#[test]
fn an_interrupted_diagnosis_of_several_processes_ends_with_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut command = Command::new(PROGRAM);
    command.args([
        "launch",
        "-n",
        "2",
        "--",
        "--steps",
        "100000",
        "--batch-size",
        "8",
        "--data",
    ]);
    command.arg(rows()).arg("--out").arg(&out).env("NO_COLOR", "1");
    let mut launcher = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(launcher.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("phase 1 of 5: baseline")));
    // They train for minutes from now on.
    std::thread::sleep(Duration::from_secs(1));
    let asked = Command::new("kill")
        .args(["-s", "INT", &launcher.id().to_string()])
        .status();
    assert!(asked.unwrap().success());
    let said: Vec<String> = said.map(Result::unwrap).collect();
    assert_eq!(launcher.wait().unwrap().code(), Some(2), "{said:?}");
    let evidence = evidence(&out);
    let interrupted = evidence.interrupted.as_deref();
    assert_eq!(interrupted, Some("interrupted by the user in the training phase"));
    // Both ended after the same update.
    let ranks = evidence.ranks.ran().unwrap();
    assert_eq!(ranks.updates.len(), evidence.training.ran().unwrap().steps.len());
    assert_right(ranks, 2);
}
