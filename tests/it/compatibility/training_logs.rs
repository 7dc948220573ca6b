//! What trainers write while they run, read back.

use std::fs;

use mlx_diagnose::evidence::{LogEntry, LogEvidence, LoggedNumber};
use mlx_diagnose::training_log::read;
use rstest::rstest;

/// Lines of `mlx_lm.lora` 0.32.2 as it wrote them into a file, colours and all.
const TABLE: &str = "Loading pretrained model
\u{1b}[34m│\u{1b}[0m    \u{1b}[39mbatch · iters\u{1b}[0m   \u{1b}[1m2 · 20\u{1b}[0m   \u{1b}[34m│\u{1b}[0m
Trainable parameters: 8.350% (0.082M/0.981M)
  \u{1b}[1miter   train_loss     tok/s     tokens\u{1b}[0m
  \u{1b}[38;5;244m   1\u{1b}[0m    \u{1b}[1;35mval\u{1b}[0m \u{1b}[1m3.878\u{1b}[0m    \u{1b}[38;5;244m1.77s\u{1b}[0m
  \u{1b}[38;5;244m   5\u{1b}[0m    \u{1b}[1;32m3.215 ▼\u{1b}[0m    \u{1b}[1m    6\u{1b}[0m    \u{1b}[38;5;244m  0.3k\u{1b}[0m
  \u{1b}[38;5;244m1,000\u{1b}[0m    \u{1b}[1;32m  nan ▼\u{1b}[0m    \u{1b}[1m  152\u{1b}[0m    \u{1b}[38;5;244m  0.6k\u{1b}[0m
\u{1b}[1;34mtrain\u{1b}[0m \u{1b}[34m██████\u{1b}[0m \u{1b}[1;34m100%\u{1b}[0m \u{1b}[38;5;244m·\u{1b}[0m \u{1b}[1;34m   20\u{1b}[0m\u{1b}[38;5;244m/20\u{1b}[0m
";

/// The same in the words of mlx-lm before 0.32.
const SENTENCES: &str = "Starting training..., iters: 1000
Iter 1: Val loss 3.878, Val took 1.770s
Iter 5: Train loss 3.215, Learning Rate 1.000e-05, It/sec 0.514, Tokens/sec 6.1, Trained Tokens 300, Peak mem 2.1 GB
Iter 1000: Train loss nan, Learning Rate 1.000e-05, It/sec 0.514, Tokens/sec 6.1, Trained Tokens 600, Peak mem 2.1 GB
Iter 100: Saved adapter weights to adapters/adapters.safetensors.
";

const TRAINER_STATE: &str = r#"{"global_step": 1000, "log_history": [
  {"epoch": 0.1, "eval_loss": 3.878, "eval_runtime": 1.7, "step": 1},
  {"epoch": 0.5, "grad_norm": 7.25, "learning_rate": 1e-05, "loss": 3.215, "step": 5},
  {"epoch": 1.0, "grad_norm": NaN, "learning_rate": 1e-05, "loss": NaN, "step": 1000},
  {"epoch": 1.0, "total_flos": 1.0, "train_loss": 3.0, "train_runtime": 9.0, "step": 1000}
], "note": "NaN in \"text\" stays"}"#;

const JSON_LINES: &str = r#"{"iteration": 1, "val_loss": 3.878}
{"iteration": 5, "train_loss": 3.215, "lr": 1e-05, "grad_norm": 7.25}

{"iteration": 1000, "train_loss": null, "lr": 1e-05, "grad_norm": Infinity}
{"iteration": 1001, "train_lo"#;

const TABLE_OF_NAMES: &str = "step,loss,eval_loss,learning_rate,grad_norm
1,,3.878,,
5,3.215,,1e-05,7.25
1000,nan,,1e-05,inf
";

fn parsed(name: &str, text: &str) -> LogEvidence {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    read(&path).unwrap()
}

fn entry(step: usize) -> LogEntry {
    LogEntry {
        step,
        loss: None,
        validation_loss: None,
        gradient_norm: None,
        learning_rate: None,
    }
}

#[rstest]
#[case::a_table("mlx-lm", TABLE, false, false)]
#[case::sentences("mlx-lm", SENTENCES, true, false)]
#[case::trainer_state("trainer_state.json", TRAINER_STATE, true, true)]
#[case::json_lines("JSON lines", JSON_LINES, true, true)]
#[case::csv("CSV", TABLE_OF_NAMES, true, true)]
fn every_format_says_the_same(#[case] format: &str, #[case] text: &str, #[case] rates: bool, #[case] norms: bool) {
    let log = parsed("log", text);
    let learning_rate = rates.then_some(1e-5);
    let norm = |norm| norms.then_some(norm);
    let expected = [
        LogEntry {
            validation_loss: Some(LoggedNumber::Finite(3.878)),
            ..entry(1)
        },
        LogEntry {
            loss: Some(LoggedNumber::Finite(3.215)),
            gradient_norm: norm(LoggedNumber::Finite(7.25)),
            learning_rate,
            ..entry(5)
        },
        LogEntry {
            loss: Some(LoggedNumber::NotFinite),
            gradient_norm: norm(LoggedNumber::NotFinite),
            learning_rate,
            ..entry(1000)
        },
    ];
    assert_eq!(
        (log.format.as_str(), log.entries.as_slice()),
        (format, expected.as_slice())
    );
    assert_eq!(
        log.first_not_finite().map(|(entry, name)| (entry.step, name)),
        Some((1000, "loss"))
    );
}

#[test]
fn a_norm_that_is_infinite_only_at_first_is_a_scale_that_was_looked_for() {
    let lines = |norms: [&str; 3]| -> String {
        let line =
            |(step, norm): (usize, &str)| format!("{{\"step\": {step}, \"loss\": 2.5, \"grad_norm\": {norm}}}\n");
        norms.into_iter().enumerate().map(line).collect()
    };
    assert_eq!(
        parsed("log", &lines(["Infinity", "1.5", "1.4"])).first_not_finite(),
        None
    );
    let lost = parsed("log", &lines(["1.5", "NaN", "NaN"]));
    assert_eq!(
        lost.first_not_finite().map(|(entry, name)| (entry.step, name)),
        Some((1, "gradient norm"))
    );
}

#[rstest]
#[case::numbers(
    "{'loss': 3.2, 'grad_norm': 7.25, 'learning_rate': 1e-05, 'epoch': 0.5}",
    "{'loss': nan, 'grad_norm': nan, 'epoch': 1.0}"
)]
#[case::texts(
    "{'loss': '3.2', 'grad_norm': '7.25', 'learning_rate': '1e-05', 'epoch': '0.5'}",
    "{'loss': 'nan', 'grad_norm': 'nan', 'epoch': '1'}"
)]
fn what_transformers_prints_is_counted_in_its_order(#[case] first: &str, #[case] second: &str) {
    let bar = " 50%|#####     | 1/2 [00:01<00:01,  1.00s/it]\r";
    let summary = "{'train_runtime': 9.0, 'train_loss': 3.0}";
    let log = parsed(
        "log",
        &format!("Some heading\n{bar}{first}\n{bar}{second}\n{summary}\n"),
    );
    let expected = [
        LogEntry {
            loss: Some(LoggedNumber::Finite(3.2)),
            gradient_norm: Some(LoggedNumber::Finite(7.25)),
            learning_rate: Some(1e-5),
            ..entry(1)
        },
        LogEntry {
            loss: Some(LoggedNumber::NotFinite),
            gradient_norm: Some(LoggedNumber::NotFinite),
            ..entry(2)
        },
    ];
    assert_eq!(
        (log.format.as_str(), log.entries.as_slice()),
        ("transformers' output", expected.as_slice())
    );
}

#[test]
fn a_pipe_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("no regular file"), "{error}");
}

#[rstest]
#[case::another_text("Hello,\nthis is no log.\n", "holds no losses")]
#[case::nothing("", "holds no losses")]
#[case::another_object("{\"step\": 1}\n", "holds no losses")]
fn what_is_no_log_is_refused(#[case] text: &str, #[case] message: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    fs::write(&path, text).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

#[rstest]
#[case::a_foreign_line_of_json("{\"step\": 1, \"loss\": 3}\nUserWarning: slow\n{\"step\": 2, \"loss\": 2}\n", &["line 2"])]
#[case::a_heading_of_json("Loading\n{\"step\": 1, \"loss\": 3}\n{\"step\": 2, \"loss\": 2}\n", &["line 1"])]
#[case::half_a_line_of_json("{\"step\": 1, \"loss\": 3}\n{\"step\": 2, \"loss\": 2}\n{\"step\": 3, \"lo", &["line 3"])]
#[case::half_a_line_of_csv("step,epoch,loss\n1,0.1,3\n2,0.2,2\n3,0.", &["line 4"])]
#[case::no_number_in_csv("step,loss\n1,3\n\n2,2\n3,-\n", &["line 5"])]
#[case::too_many_fields("step,loss\n1,3\n2,2\n3,1,0\n", &["line 4"])]
#[case::a_step_beyond_all_counts("{\"step\": 1, \"loss\": 3}\n{\"step\": 1e300, \"loss\": 9}\n{\"step\": 2, \"loss\": 2}\n", &["line 2"])]
#[case::a_negative_step("step,loss\n1,3\n-1,9\n2,2\n", &["line 3"])]
#[case::semicolons_and_commas("Step;Train Loss\n1;3,0\n2;2,0\n", &[])]
#[case::tabulators("Step\tLoss\n1\t3\n2\t2\n", &[])]
#[case::the_last_step_first("step,loss\n2,2\n1,3\n", &[])]
fn what_can_be_read_is_kept_and_the_rest_is_counted(#[case] text: &str, #[case] left_out: &[&str]) {
    let log = parsed("log", text);
    assert_eq!(log.losses(), [(1, 3.0), (2, 2.0)]);
    assert_eq!(
        (log.lines_left_out.total, log.lines_left_out.first),
        (left_out.len(), left_out.iter().map(|&line| line.to_owned()).collect())
    );
}

#[rstest]
#[case::little_endian(u16::to_le_bytes)]
#[case::big_endian(u16::to_be_bytes)]
fn a_log_in_utf_16_is_read(#[case] bytes: fn(u16) -> [u8; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let text: Vec<u8> = format!("\u{feff}{SENTENCES}").encode_utf16().flat_map(bytes).collect();
    fs::write(&path, text).unwrap();
    assert_eq!(read(&path).unwrap().losses(), [(5, 3.215)]);
}

#[test]
fn a_file_of_two_runs_keeps_its_order() {
    let log = parsed("log", "step,loss\n1,3\n2,2\n1,3.5\n2,2.5\n");
    assert_eq!(log.losses(), [(1, 3.0), (2, 2.0), (1, 3.5), (2, 2.5)]);
}
