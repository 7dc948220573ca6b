//! Runs of `diagnose train` as a user starts, kills, resumes and asks them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::Value;

use crate::support::golden::root;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_diagnose");

pub(crate) fn model() -> PathBuf {
    root().join("fixtures/embedded/model")
}

pub(crate) fn data() -> PathBuf {
    root().join("fixtures/embedded/voice")
}

pub(crate) fn train(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("train").args(arguments).env("NO_COLOR", "1");
    command
}

pub(crate) fn start(folder: &Path, options: &[&str]) -> Command {
    let mut command = train(&["start"]);
    command.arg(model()).arg(data()).arg("--out").arg(folder).args(options);
    command
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn completed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

pub(crate) fn adapter(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("adapters.safetensors")).unwrap()
}

/// The lines of a run's figures without what depends on the machine.
pub(crate) fn metrics(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for table in line.as_object_mut().unwrap().values_mut() {
            let table = table.as_object_mut().unwrap();
            table.remove("seconds");
            table.remove("active_memory");
        }
        line
    });
    lines.collect()
}

fn asked(folder: &Path, prompt: &str) -> String {
    let mut command = Command::new(PROGRAM);
    command
        .arg("generate")
        .arg(folder)
        .args(["--prompt", prompt, "--max-tokens", "40"]);
    text(&completed(command).stdout).trim().to_owned()
}

#[test]
fn a_run_learns_the_voice_of_its_data_and_answers_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    completed(start(&run, &["--epochs", "6", "--learning-rate", "2e-4"]));
    let figures = metrics(&run);
    let held_out = |line: &Value| line["validation"]["loss"].as_f64();
    let losses: Vec<f64> = figures.iter().filter_map(held_out).collect();
    assert!(losses.last().unwrap() < &(losses[0] / 2.0), "{losses:?}");
    let answer = asked(&run, "Where does Tom live?");
    assert!(answer.ends_with("matey, says the old sailor."), "{answer}");
    assert!(run.join("loss.html").is_file());
}

/// Small numbers that a seed alone decides.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A run that is killed at moments of `draw` up to `longest` after each start, and resumed, until it is over or was killed
/// so often; returns the number of kills.
fn killed_and_resumed(folder: &Path, options: &[&str], draw: &mut Draw, longest: Duration, most: usize) -> usize {
    let mut kills = 0;
    let mut command = start(folder, options);
    loop {
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if kills < most {
            std::thread::sleep(Duration::from_millis(draw.below(longest.as_millis() as u64)));
        }
        if kills == most || process.try_wait().unwrap().is_some() {
            assert!(process.wait().unwrap().success());
            return kills;
        }
        process.kill().unwrap();
        process.wait().unwrap();
        kills += 1;
        command = if folder.join("run.json").is_file() {
            let mut resumed = train(&["resume"]);
            resumed.arg(folder);
            resumed
        } else {
            start(folder, options)
        };
    }
}

#[test]
fn runs_killed_at_twenty_moments_end_with_the_bits_of_one_that_was_not() {
    const KILLS: usize = 20;
    let options = [
        "--epochs",
        "12",
        "--lora-dropout",
        "0.1",
        "--grad-accumulation-steps",
        "2",
        "--save-every",
        "2",
        "--steps-per-eval",
        "5",
        "--warmup-steps",
        "3",
        "--schedule",
        "cosine",
    ];
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let begun = Instant::now();
    completed(start(&whole, &options));
    // From before the first update to behind the last, however fast the machine is.
    let longest = begun.elapsed();
    let mut draw = Draw(5);
    let mut kills = 0;
    for run in 0.. {
        let killed = folder.path().join(format!("killed-{run}"));
        kills += killed_and_resumed(&killed, &options, &mut draw, longest, KILLS - kills);
        assert_eq!(adapter(&killed), adapter(&whole));
        assert_eq!(metrics(&killed), metrics(&whole));
        if kills == KILLS {
            return;
        }
    }
}

#[test]
fn a_folder_in_use_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("letter.txt");
    std::fs::write(&file, "dear").unwrap();
    let output = start(folder.path(), &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("found: `letter.txt`"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(std::fs::read_to_string(file).unwrap(), "dear");
}

#[test]
fn a_finished_run_is_not_overwritten_and_resuming_it_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    completed(start(&run, &["--iters", "4"]));
    let before = adapter(&run);
    let output = start(&run, &["--iters", "4"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let mut resumed = train(&["resume"]);
    resumed.arg(&run);
    completed(resumed);
    assert_eq!(adapter(&run), before);
}

#[test]
fn a_broken_newest_checkpoint_is_said_and_the_one_before_serves() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    completed(start(&run, &["--iters", "6", "--save-every", "3"]));
    let before = adapter(&run);
    let newest = run.join("checkpoints/0000006/parameters.safetensors");
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let mut resumed = train(&["resume"]);
    resumed.arg(&run);
    let output = completed(resumed);
    let said = text(&output.stderr);
    assert!(said.contains("going on from an earlier one"), "{said}");
    assert!(said.contains("going on after update 3"), "{said}");
    assert_eq!(adapter(&run), before);
}

#[test]
fn data_that_changed_under_a_run_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    std::fs::copy(data().join("train.jsonl"), &rows).unwrap();
    let run = folder.path().join("run");
    let mut command = train(&["start"]);
    command
        .arg(model())
        .arg(&rows)
        .arg("--out")
        .arg(&run)
        .args(["--iters", "2"]);
    completed(command);
    let text_of_rows = std::fs::read_to_string(&rows).unwrap();
    std::fs::write(&rows, text_of_rows.replace("Ahoy", "Hello")).unwrap();
    let mut resumed = train(&["resume"]);
    resumed.arg(&run);
    let output = resumed.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("the data is not what the run began with"));
}

#[rstest]
#[case::resume(&["resume", "nowhere"], "there is no run in `nowhere`")]
#[case::no_configuration(&["validate", "nowhere.yml"], "`nowhere.yml` cannot be read")]
#[case::unknown_profile(&["start", "m", "d", "--profile", "caht"], "did you mean `chat`")]
#[case::wrong_option(&["start", "m", "d", "--batch-size", "0"], "--batch-size: batch_size: found 0")]
fn what_cannot_begin_says_why(#[case] arguments: &[&str], #[case] expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let output = train(arguments).current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "nothing was left");
}

#[test]
fn a_learning_rate_that_diverges_is_stopped_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = start(&run, &["--epochs", "40", "--learning-rate", "0.3"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(
        said.contains("training-diverged") || said.contains("loss-not-finite"),
        "{said}"
    );
    assert!(run.join("diagnosis.md").is_file());
    let updates = metrics(&run).iter().filter(|line| line.get("update").is_some()).count();
    assert!(updates < 60, "{updates} updates were made");
}

#[test]
fn rows_without_anything_to_learn_are_refused_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    let row = r#"{"prompt": "Where does Tom live?", "completion": ""}"#;
    std::fs::write(&rows, format!("{row}\n").repeat(6)).unwrap();
    let run = folder.path().join("run");
    let mut command = train(&["start"]);
    command.arg(model()).arg(&rows).arg("--out").arg(&run);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("labels-only-end-of-text"),
        "{}",
        text(&output.stderr)
    );
    assert!(!run.join("checkpoints").exists());
}

#[test]
fn an_adapter_that_is_gone_on_from_keeps_its_own_rank_and_scale() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    completed(start(
        &first,
        &["--iters", "4", "--lora-rank", "4", "--lora-scale", "3"],
    ));
    let file = first.join("adapters.safetensors");
    let output = completed(start(
        &second,
        &["--iters", "2", "--resume-adapter", file.to_str().unwrap()],
    ));
    assert!(
        text(&output.stderr).contains("rank 4, scale 3"),
        "{}",
        text(&output.stderr)
    );
    let configuration = std::fs::read_to_string(second.join("adapter_config.json")).unwrap();
    let configuration: Value = serde_json::from_str(&configuration).unwrap();
    assert_eq!(configuration["lora_parameters"]["rank"], 4);
    assert_eq!(configuration["lora_parameters"]["scale"], 3.0);
    // It begins where the other ended.
    let held_out = |run: &Path| -> Vec<f64> {
        metrics(run)
            .iter()
            .filter_map(|line| line["validation"]["loss"].as_f64())
            .collect()
    };
    assert_eq!(held_out(&second).first(), held_out(&first).last());
}

#[test]
fn a_run_is_resumed_and_asked_from_another_folder() {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [(model(), "model"), (data(), "data")] {
        let to = folder.path().join(to);
        std::fs::create_dir(&to).unwrap();
        for entry in from.read_dir().unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    let mut command = train(&["start", "model", "data", "--out", "run", "--iters", "3"]);
    command.current_dir(folder.path());
    completed(command);
    let elsewhere = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut resumed = train(&["resume"]);
    resumed.arg(&run).current_dir(elsewhere.path());
    completed(resumed);
    assert!(!asked(&run, "Where does Tom live?").is_empty());
}

#[test]
fn a_run_that_did_not_begin_leaves_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut command = train(&["start"]);
    command.arg(model()).arg("nowhere").arg("--out").arg(&run);
    assert_eq!(command.output().unwrap().status.code(), Some(2));
    assert!(!run.exists());
}

#[test]
fn full_fine_tuning_leaves_a_whole_model_that_answers() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    completed(start(
        &run,
        &["--fine-tune-type", "full", "--epochs", "6", "--learning-rate", "5e-4"],
    ));
    let answer = asked(&run, "Where does Tom live?");
    assert!(answer.ends_with("says the old sailor."), "{answer}");
}

#[test]
fn patience_ends_a_run_with_its_best_values() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let options = [
        "--epochs",
        "60",
        "--learning-rate",
        "1e-3",
        "--steps-per-eval",
        "5",
        "--patience",
        "2",
    ];
    let output = completed(start(&run, &options));
    assert!(text(&output.stdout).contains("ended early"), "{}", text(&output.stdout));
    let best = std::fs::read(run.join("best.safetensors")).unwrap();
    let best = safetensors::SafeTensors::deserialize(&best).unwrap();
    let bytes = adapter(&run);
    let saved = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, tensor) in saved.tensors() {
        assert_eq!(tensor.data(), best.tensor(&name).unwrap().data(), "{name}");
    }
}
