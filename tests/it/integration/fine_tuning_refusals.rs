//! What `diagnose train` does not begin, and what it does not go on with.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};

use crate::integration::fine_tuning_runs::{PROGRAM, adapter, completed, data, model, start, text, train};
use crate::support::interrupting::{EXIT_KILLED_BY_INTERRUPT, interrupted};

/// Far more updates than a test waits for.
const ENDLESS: [&str; 2] = ["--iters", "100000"];

fn copied(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn resume(folder: &Path) -> Command {
    let mut command = train(&["resume"]);
    command.arg(folder);
    command
}

fn refused(mut command: Command, expected: &str) {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(expected), "{said}");
}

/// A run that goes on until it is ended.
fn endless(run: &Path) -> Child {
    let mut command = start(run, &ENDLESS);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn waited_for(path: &Path) {
    while !path.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn state(run: &Path, checkpoint: &str) -> Value {
    let text = std::fs::read_to_string(run.join("checkpoints").join(checkpoint).join("state.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_folder_in_which_a_run_goes_on_is_refused_until_the_run_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut first = endless(&run);
    waited_for(&run.join("run.json"));
    refused(start(&run, &ENDLESS), "a run is going on in");
    refused(resume(&run), "a run is going on in");
    first.kill().unwrap();
    first.wait().unwrap();
    refused(start(&run, &ENDLESS), "diagnose train resume");
}

#[test]
fn no_option_for_a_number_takes_what_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let help = text(&completed(train(&["start", "--help"])).stdout);
    let options = help.lines().filter_map(|line| line.trim().strip_suffix(" <F>"));
    let mut options: Vec<&str> = options.filter(|option| option.starts_with("--")).collect();
    options.push("--epochs");
    assert_eq!(options.len(), 8, "{options:?}");
    for option in options {
        for value in ["nan", "inf"] {
            let run = folder.path().join("run");
            refused(start(&run, &[option, value]), &format!("{option}: "));
            assert!(!run.exists());
        }
    }
}

#[test]
fn a_run_does_not_go_on_with_another_model() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("model");
    copied(&model(), &base);
    let run = folder.path().join("run");
    let mut command = train(&["start"]);
    command
        .arg(&base)
        .arg(data())
        .arg("--out")
        .arg(&run)
        .args(["--iters", "2"]);
    completed(command);
    let before = adapter(&run);
    // The last weight is another one, of the same size.
    let weights = base.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    refused(resume(&run), "the model is not what the run began with");
    assert_eq!(adapter(&run), before);
}

#[test]
fn a_run_does_not_go_on_with_other_rows_for_validation() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows");
    std::fs::create_dir(&rows).unwrap();
    let given = std::fs::read_to_string(data().join("train.jsonl")).unwrap();
    let lines: Vec<&str> = given.lines().collect();
    std::fs::write(rows.join("train.jsonl"), lines[6..].join("\n")).unwrap();
    std::fs::write(rows.join("valid.jsonl"), lines[..6].join("\n")).unwrap();
    let run = folder.path().join("run");
    let mut command = train(&["start"]);
    command
        .arg(model())
        .arg(&rows)
        .arg("--out")
        .arg(&run)
        .args(["--iters", "2"]);
    completed(command);
    std::fs::write(rows.join("valid.jsonl"), lines[..2].join("\n")).unwrap();
    refused(resume(&run), "the validation data is not what the run began with");
}

#[test]
fn a_checkpoint_whose_bytes_were_lost_on_disk_is_not_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    completed(start(&run, &["--iters", "4", "--save-every", "2"]));
    let before = adapter(&run);
    let zero = |checkpoint: &str| {
        let path = run.join("checkpoints").join(checkpoint).join("parameters.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let half = bytes.len() / 2;
        bytes[half..].fill(0);
        std::fs::write(&path, bytes).unwrap();
    };
    zero("0000004");
    let said = text(&completed(resume(&run)).stderr);
    assert!(said.contains("found: other bytes than were written"), "{said}");
    assert!(said.contains("going on after update 2"), "{said}");
    assert_eq!(adapter(&run), before);
    zero("0000002");
    zero("0000004");
    refused(resume(&run), "no checkpoint of the run can be used");
    assert_eq!(adapter(&run), before);
}

#[rstest]
#[case::fewer_than_one_update_takes("30", 1)]
#[case::no_multiple_of_an_update("3", 2)]
#[case::a_multiple_of_an_update("2", 2)]
fn a_run_trains_on_as_many_batches_as_were_asked_for(#[case] accumulated: &str, #[case] updates: usize) {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    completed(start(&run, &["--iters", "4", "--grad-accumulation-steps", accumulated]));
    let progress = &state(&run, &format!("{updates:07}"))["progress"];
    assert_eq!(progress["batches"], 4);
    assert_eq!(progress["update"], updates);
}

#[rstest]
#[case::something_else_is_in_it(|folder: &Path| {
    std::fs::create_dir(folder.join("used")).unwrap();
    std::fs::write(folder.join("used/letter.txt"), "dear").unwrap();
    folder.join("used")
}, "is not empty")]
#[case::it_cannot_be_made(|_: &Path| "/proc/run".into(), "cannot write")]
fn a_configuration_whose_run_could_not_begin_is_not_ready(
    #[case] output: fn(&Path) -> PathBuf,
    #[case] expected: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("run.yml");
    let settings = json!({"model": model(), "data": data(), "adapter_path": output(folder.path()), "iters": 2});
    std::fs::write(&configuration, settings.to_string()).unwrap();
    let mut command = train(&["validate"]);
    command.arg(&configuration);
    refused(command, expected);
}

#[test]
fn a_model_and_data_that_are_not_there_are_refused_with_the_lines_that_name_them() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("run.yml");
    let settings = |model: &str, data: &str| format!("iters: 2\nmodel: {model}\nadapter_path: out\n\ndata: {data}\n");
    let (there, here) = (model().display().to_string(), data().display().to_string());
    for (written, expected) in [
        (settings("./no-model", &here), &["given: run.yml:2: model"][..]),
        (settings(&there, "no-data"), &["given: run.yml:5: data"]),
        (
            settings("./no-model", "no-data"),
            &["given: run.yml:2: model", "given: run.yml:5: data"],
        ),
        (
            settings("./no-model", "no-data") + "batch_size: 0\n",
            &[
                "given: run.yml:2: model",
                "given: run.yml:5: data",
                "run.yml:6: batch_size",
            ],
        ),
    ] {
        std::fs::write(&configuration, written).unwrap();
        for expected in expected {
            let mut command = train(&["validate", "run.yml"]);
            command.current_dir(folder.path());
            refused(command, expected);
        }
    }
}

#[test]
fn a_configuration_that_is_ready_leaves_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("run.yml");
    let settings = json!({"model": model(), "data": data(), "adapter_path": folder.path().join("a/b"), "iters": 2});
    std::fs::write(&configuration, settings.to_string()).unwrap();
    let mut command = train(&["validate"]);
    command.arg(&configuration);
    let said = text(&completed(command).stdout);
    assert!(said.contains("ready: `diagnose train start --config"), "{said}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
}

#[test]
fn rows_without_an_end_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = train(&["start"]);
    command.arg(model()).arg("/dev/zero").arg("--out").arg(folder.path());
    refused(command, "data `/dev/zero` is too large for what is no file");
}

#[test]
fn rows_from_a_pipe_are_read_to_their_end() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut command = train(&["start"]);
    command
        .arg(model())
        .arg("/dev/stdin")
        .arg("--out")
        .arg(&run)
        .args(["--iters", "1", "--no-guards"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let rows = std::fs::read(data().join("train.jsonl")).unwrap();
    std::io::Write::write_all(&mut process.stdin.take().unwrap(), &rows).unwrap();
    let output: Output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn an_adapter_whose_settings_are_in_doubt_answers_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    completed(start(&run, &["--iters", "1"]));
    let path = run.join("adapter_config.json");
    let whole: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let asked = |key: &str, value: Value| {
        let mut changed = whole.clone();
        *changed.pointer_mut(key).unwrap() = value;
        std::fs::write(&path, changed.to_string()).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("generate").arg("--model").arg(model());
        command
            .arg("--adapter")
            .arg(&run)
            .args(["--prompt", "Where is Tom?", "--max-tokens", "2"]);
        command
    };
    let (scale, rank) = ("/lora_parameters/scale", "/lora_parameters/rank");
    completed(asked(scale, whole["lora_parameters"]["scale"].clone()));
    refused(asked(scale, Value::Null), "`scale` is null");
    refused(asked(scale, json!("2")), "`scale` is \"2\"");
    refused(asked(scale, json!(1e300)), "`scale` is 1e+300");
    refused(asked(rank, json!(3)), "`rank` is 3 and the tensors have 8");
    refused(asked("/fine_tune_type", json!("foo")), "`fine_tune_type` is \"foo\"");
    refused(asked("/fine_tune_type", json!("dora")), "the magnitudes");
}

#[test]
fn an_answer_has_at_least_one_token() {
    let mut command = Command::new(PROGRAM);
    command.arg("generate").arg("--model").arg(model());
    command.args(["--prompt", "Where is Tom?", "--max-tokens", "0"]);
    refused(command, "must be at least 1");
}

#[test]
fn a_second_interrupt_ends_a_run_at_once_and_cleanly() {
    const ROUNDS: u64 = 8;
    for round in 0..ROUNDS {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let mut process = endless(&run);
        waited_for(&run.join("metrics.jsonl"));
        std::thread::sleep(Duration::from_millis(40 * round));
        let ended = interrupted(&mut process);
        assert_eq!(ended.code(), Some(EXIT_KILLED_BY_INTERRUPT), "round {round}");
    }
}

#[test]
fn figures_that_were_lost_are_said_and_the_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    completed(start(&run, &["--iters", "4", "--save-every", "2"]));
    let before = adapter(&run);
    std::fs::remove_dir_all(run.join("checkpoints/0000004")).unwrap();
    std::fs::write(run.join("metrics.jsonl"), b"\xff\xfe garbage\n").unwrap();
    let output = completed(resume(&run));
    let said = text(&output.stderr);
    assert!(
        said.contains("lacks the figures of 2 of the 2 updates that were made"),
        "{said}"
    );
    assert!(!text(&output.stdout).contains("before,"), "{}", text(&output.stdout));
    assert_eq!(adapter(&run), before);
}

#[test]
fn a_finished_run_that_is_resumed_says_that_nothing_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    completed(start(&run, &["--iters", "2"]));
    let output = completed(resume(&run));
    let said = text(&output.stdout);
    assert!(said.starts_with("nothing is left to train"), "{said}");
    assert!(!said.contains("at the peak"), "{said}");
    assert_eq!(text(&output.stderr), "");
    let output = start(&run, &["--iters", "2"]).output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("the run in this folder is finished"), "{said}");
}

#[test]
fn without_guards_a_number_that_is_not_finite_is_told_in_our_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = start(&run, &["--iters", "2", "--lora-scale", "1e30", "--no-guards"])
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("not finite in update 1"), "{said}");
    assert!(!said.contains("src/"), "{said}");
    assert!(said.contains("scale 1e30"), "{said}");
}

#[test]
fn a_run_that_made_no_update_names_no_curves() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = start(&run, &["--iters", "2", "--lora-scale", "1e30"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(!said.contains("loss.html"), "{said}");
    assert!(!said.contains("diagnose generate"), "{said}");
    assert!(said.contains("diagnosis.md"), "{said}");
}

#[test]
fn a_disk_that_takes_no_more_is_named_with_what_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    // A limit on the length of files fails in the middle of one, as a full disk does.
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -f 64; trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(PROGRAM)
        .args(["train", "start"])
        .arg(model())
        .arg(data())
        .arg("--out")
        .arg(&run)
        .args(["--iters", "4", "--save-every", "2"]);
    let output = limited.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("cannot be written\n  found: File too large (os error 27)"),
        "{said}"
    );
    assert!(said.contains("diagnose train resume"), "{said}");
    assert!(!said.contains(".rs:") && !said.contains("download"), "{said}");
    completed(resume(&run));
    let whole = folder.path().join("whole");
    completed(start(&whole, &["--iters", "4", "--save-every", "2"]));
    assert_eq!(adapter(&run), adapter(&whole));
}

#[test]
fn an_adapter_with_a_number_that_is_not_finite_is_named_and_not_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    completed(start(&run, &["--iters", "1"]));
    let path = run.join("adapters.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let mut fuse = Command::new(PROGRAM);
    fuse.arg("fuse").arg(&run).arg("--out").arg(folder.path().join("fused"));
    refused(fuse, "the adapter holds numbers that are not finite");
    let again = folder.path().join("again");
    let resumed = start(&again, &["--iters", "1", "--resume-adapter", run.to_str().unwrap()]);
    refused(resumed, "holds numbers that are not finite");
}

#[test]
fn a_run_is_fused_by_its_folder_alone() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    completed(start(&run, &["--iters", "2"]));
    let fused = folder.path().join("fused");
    // A process that was killed in the middle of writing the same folder.
    let left_behind = folder.path().join(".partial-fused-killed");
    std::fs::create_dir(&left_behind).unwrap();
    let of_another = folder.path().join(".partial-fused2-killed");
    std::fs::create_dir(&of_another).unwrap();
    let mut fuse = Command::new(PROGRAM);
    fuse.arg("fuse").arg(&run).arg("--out").arg(&fused);
    let said = text(&completed(fuse).stdout);
    assert!(said.contains("layers fused"), "{said}");
    assert!(!left_behind.exists());
    assert!(of_another.exists());
    let asked = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command
            .arg("generate")
            .args(arguments)
            .args(["--prompt", "Where is Tom?", "--max-tokens", "8"]);
        text(&completed(command).stdout)
    };
    assert_eq!(
        asked(&[run.to_str().unwrap()]),
        asked(&["--model", fused.to_str().unwrap()])
    );
}

#[test]
fn a_fix_of_a_run_is_a_command_of_training() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = start(&run, &["--epochs", "40", "--learning-rate", "0.3"])
        .output()
        .unwrap();
    let said = text(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("diagnose train start"), "{said}");
    assert!(said.contains("--learning-rate 1e-4"), "{said}");
    assert!(said.contains("run-again"), "{said}");
    assert!(!said.contains("--check-only") && !said.contains("0.3 --"), "{said}");
}

#[test]
fn what_is_wrong_in_several_places_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let begun = |options: &[&str]| {
        let mut command = train(&["start"]);
        command.args(options).arg("--out").arg(&out);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    let here = model();
    let here = here.to_str().unwrap();
    let said = begun(&["/nope", "/nope2"]);
    assert!(
        said.contains("`/nope`") && said.contains("data `/nope2` cannot be read"),
        "{said}"
    );
    let said = begun(&["/nope", "/nope2", "--batch-size", "0"]);
    assert!(said.contains("--batch-size: batch_size: found 0"), "{said}");
    assert!(
        said.contains("`/nope`") && said.contains("data `/nope2` cannot be read"),
        "{said}"
    );
    let adapters = ["--lora-rank", "100000", "--lora-keys", "foo,bar", "--num-layers", "9"];
    let said = begun(&[&[here, "/nope2"], &adapters[..]].concat());
    for expected in [
        "data `/nope2` cannot be read",
        "the adapters' rank is too large",
        "no linear layer matches `foo`",
        "no linear layer matches `bar`",
        "cannot adapt the last 9 blocks",
    ] {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn what_is_noteworthy_of_a_run_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    let row = r#"{"prompt": "Where is Tom?", "completion": "In the harbour, matey."}"#;
    std::fs::write(&rows, format!("{row}\n")).unwrap();
    let mut command = train(&["start"]);
    command
        .arg(model())
        .arg(&rows)
        .arg("--out")
        .arg(folder.path().join("run"));
    command.args(["--iters", "2", "--warmup-steps", "9", "--no-guards"]);
    let said = text(&completed(command).stderr);
    assert!(said.contains("since there is only one row"), "{said}");
    assert!(
        said.contains("the warm-up of 9 updates is longer than the run of 2"),
        "{said}"
    );
}

#[test]
fn what_steers_a_terminal_in_data_and_paths_does_not_reach_it() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows\u{1b}[31m");
    std::fs::create_dir(&rows).unwrap();
    std::fs::write(rows.join("more\u{1b}[31m.jsonl"), "").unwrap();
    let begun = |row: &str| {
        std::fs::write(rows.join("train.jsonl"), row).unwrap();
        let mut command = train(&["start"]);
        command
            .arg(model())
            .arg(&rows)
            .arg("--out")
            .arg(folder.path().join("run"));
        let output = command.args(["--iters", "1", "--no-guards"]).output().unwrap();
        text(&output.stdout) + &text(&output.stderr)
    };
    for row in [
        "{\"messages\": [\u{1b}[31m\u{1b}]0;pwned\u{7}}",
        r#"{"\u001b[31m": "Ahoy"}"#,
        r#"{"prompt": "Where is Tom?", "completion": "In the harbour."}"#,
    ] {
        let said = begun(row);
        assert!(!said.contains(['\u{1b}', '\u{7}']), "{said:?}");
        assert!(!said.is_empty());
    }
}
