//! The program as a user runs it: exit codes, files, and errors that name the remedy.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mlx_rs::Array;
use rstest::rstest;
use serde_json::Value;

use crate::support::golden::root;

pub(crate) fn diagnose() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diagnose"));
    command
        .env("NO_COLOR", "1")
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    diagnose().args(arguments).output().unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A copy of the embedded model to break.
fn model_copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(root().join("fixtures/embedded/model")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// The run fails before its first phase: exit code 2, a clear error with `words`, no panic, nothing on standard output.
fn assert_refused(output: &Output, words: &[&str]) {
    let error = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.starts_with("error:"), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
    assert_eq!(stdout(output), "");
}

#[rstest]
#[case::a_text(
    "{% set n = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "takes more than 256 MiB of memory"
)]
#[case::a_list(
    "{% set n = namespace(x=[1, 2]) %}{% for i in range(60) %}{% set n.x = (n.x + n.x)|list %}{% endfor %}",
    "takes more than 256 MiB of memory"
)]
#[case::what_it_prints(
    "{% for i in range(9999) %}{% for j in range(900) %}{{ messages[0].content * 9999 }}{% endfor %}{% endfor %}",
    "takes more than 256 MiB of memory"
)]
#[case::a_deep_list(
    "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% for j in range(900) %}{% set n.x = [[[[[[[[n.x]]]]]]]] %}{% endfor %}{% endfor %}",
    "takes more than 256 MiB of memory"
)]
#[case::a_comparison(
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
    "takes more than 30 seconds"
)]
#[case::its_own_length("{#LONG#}", "a text of 262145 bytes, more than 262144")]
fn a_template_that_takes_more_than_it_may_is_refused(#[case] template: &str, #[case] words: &str) {
    let model = model_copy();
    let template = template.replace("LONG", &"x".repeat(262_145 - 4));
    fs::write(model.path().join("chat_template.jinja"), template).unwrap();
    let data = root().join("fixtures/embedded/voice");
    let output = run(&["--model", text(model.path()), "--data", text(&data), "--check-only"]);
    assert_refused(&output, &[words, "hint: "]);
}

#[test]
fn an_answer_is_continued_from_the_conversation_before_it() {
    let model = root().join("fixtures/embedded/model");
    let mut command = diagnose();
    let arguments = ["generate", "--model", text(&model), "--max-tokens", "40"];
    let mut process = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut asked = process.stdin.take().unwrap();
    asked
        .write_all(b"Where does Tom live?\n\nWhere does Tom live?\n")
        .unwrap();
    drop(asked);
    let talked = stdout(&process.wait_with_output().unwrap());
    let alone = stdout(&run(&[&arguments[..], &["--prompt", "Where does Tom live?"]].concat()));
    assert!(!alone.trim().is_empty());
    assert!(talked.starts_with(&alone), "{talked}");
    assert_eq!(talked.lines().count(), 2, "{talked}");
}

/// Everything behind `asked` in a conversation that is written to `generate`.
fn conversation(asked: &[u8]) -> Output {
    let model = root().join("fixtures/embedded/model");
    let mut process = diagnose()
        .args(["generate", "--model", text(&model), "--max-tokens", "30"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(asked).unwrap();
    process.wait_with_output().unwrap()
}

#[test]
fn a_conversation_goes_on_when_its_context_is_full() {
    let output = conversation("Where does Tom live?\n".repeat(20).as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the first turns of the conversation are forgotten"),
        "{}",
        stderr(&output)
    );
    assert_eq!(stdout(&output).lines().count(), 20, "{}", stdout(&output));
}

#[test]
fn a_line_that_is_no_text_does_not_end_the_conversation() {
    let output = conversation(b"\xff\xfe\nWhere does Tom live?\n");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("the line is no UTF-8"), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 1, "{}", stdout(&output));
}

#[test]
fn what_a_text_is_continued_without_is_not_taken_with_it() {
    let model = root().join("fixtures/embedded/model");
    let output = run(&[
        "generate",
        "--model",
        text(&model),
        "--plain",
        "--system",
        "Be brief.",
        "--prompt",
        "The",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("cannot be used with"), "{}", stderr(&output));
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let model = root().join("fixtures/embedded/model");
    let output = run(&["generate", "--model", text(&model), "--prompt", &"sea ".repeat(400)]);
    assert_refused(
        &output,
        &["longer than the model's context", "fewer than 256", "hint: "],
    );
}

#[test]
fn without_arguments_the_embedded_model_is_healthy() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("healthy"), "{}", stdout(&output));
    assert!(!stdout(&output).contains('\u{1b}'));
    for phase in ["phase 1 of 5: baseline", "phase 5 of 5: state"] {
        assert!(stderr(&output).contains(phase), "{}", stderr(&output));
    }
}

#[test]
fn a_run_that_cannot_begin_says_that_the_report_is_an_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let out = text(folder.path());
    let absent = run(&["--model", "./no-such-model", "--out", out]);
    assert!(!stderr(&absent).contains("an earlier run"), "{}", stderr(&absent));
    let first = run(&["--steps", "1", "--max-tokens", "4", "--out", out]);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    let report = fs::read(folder.path().join("report.json")).unwrap();
    let second = run(&["--model", "./no-such-model", "--out", out]);
    assert_refused(
        &second,
        &["no-such-model", "report.json` is still that of an earlier run"],
    );
    assert_eq!(fs::read(folder.path().join("report.json")).unwrap(), report);
}

#[test]
fn the_output_folder_holds_the_report_the_evidence_and_an_adapter_and_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&[
        "--steps",
        "2",
        "--max-tokens",
        "8",
        "--inject",
        "stub-adapter",
        "--out",
        text(folder.path()),
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let mut names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["evidence.json", "report.html", "report.json", "report.md"]);
    let report: Value = serde_json::from_str(&fs::read_to_string(folder.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(report["verdict"], "findings");
    assert_eq!(report["findings"][0]["name"], "adapter-not-attached");
    assert_eq!(report["findings"][0]["root"], true);

    let replayed = run(&["replay", text(&folder.path().join("evidence.json")), "--format", "json"]);
    assert_eq!(replayed.status.code(), Some(1));
    let replayed: Value = serde_json::from_str(&stdout(&replayed)).unwrap();
    assert_eq!(replayed["findings"], report["findings"]);
}

#[test]
fn a_truncated_weight_file_is_refused_with_both_lengths() {
    let model = model_copy();
    let path = model.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let output = run(&["--model", text(model.path())]);
    assert_refused(
        &output,
        &["is not whole", &bytes.len().to_string(), &(bytes.len() / 2).to_string()],
    );
}

#[test]
fn weights_that_are_not_numbers_are_refused_by_name() {
    let model = model_copy();
    let path = model.path().join("model.safetensors");
    let mut tensors: BTreeMap<String, Array> = Array::load_safetensors(&path).unwrap().into_iter().collect();
    let name = "model.layers.1.mlp.up_proj.weight";
    let poisoned = tensors[name].multiply(Array::from_f32(f32::NAN)).unwrap();
    poisoned.eval().unwrap();
    tensors.insert(name.to_owned(), poisoned);
    mlx_rs::transforms::eval(tensors.values()).unwrap();
    Array::save_safetensors(&tensors, None, &path).unwrap();
    assert_refused(&run(&["--model", text(model.path())]), &["NaN or infinite", name]);
}

#[test]
fn missing_unexpected_and_misshapen_tensors_are_listed_at_once() {
    let model = model_copy();
    let path = model.path().join("model.safetensors");
    let mut tensors: BTreeMap<String, Array> = Array::load_safetensors(&path).unwrap().into_iter().collect();
    mlx_rs::transforms::eval(tensors.values()).unwrap();
    let moved = tensors.remove("model.layers.0.self_attn.q_proj.weight").unwrap();
    tensors.insert("model.layers.0.self_attn.q_porj.weight".to_owned(), moved);
    tensors.insert("model.norm.weight".to_owned(), Array::from_slice(&[1.0_f32; 3], &[3]));
    Array::save_safetensors(&tensors, None, &path).unwrap();
    let words = [
        "missing (1)",
        "unexpected (1)",
        "did you mean model.layers.0.self_attn.q_proj.weight",
        "wrong shape (1)",
    ];
    assert_refused(&run(&["--model", text(model.path())]), &words);
}

#[rstest]
#[case::zero_layers("num_hidden_layers", "0", "num_hidden_layers")]
#[case::an_unknown_architecture("model_type", "\"mamba\"", "mamba")]
#[case::heads_that_do_not_divide("num_key_value_heads", "3", "num_key_value_heads")]
fn an_impossible_configuration_is_refused(#[case] key: &str, #[case] value: &str, #[case] named: &str) {
    let model = model_copy();
    let path = model.path().join("config.json");
    let mut configuration: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    configuration[key] = serde_json::from_str(value).unwrap();
    fs::write(&path, configuration.to_string()).unwrap();
    assert_refused(&run(&["--model", text(model.path())]), &[named]);
}

#[rstest]
#[case::no_tokenizer("tokenizer.json", None, "tokenizer")]
#[case::a_broken_tokenizer("tokenizer.json", Some("{\"model\": 3}"), "tokenizer")]
#[case::no_configuration("config.json", None, "config.json")]
#[case::no_weights("model.safetensors", None, "weights")]
#[case::a_header_that_is_no_header(
    "model.safetensors",
    Some("\u{1}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}{"),
    "safetensors"
)]
fn a_missing_or_broken_file_is_refused(#[case] name: &str, #[case] contents: Option<&str>, #[case] named: &str) {
    let model = model_copy();
    let path = model.path().join(name);
    match contents {
        Some(contents) => fs::write(&path, contents).unwrap(),
        None => fs::remove_file(&path).unwrap(),
    }
    assert_refused(&run(&["--model", text(model.path())]), &[named]);
}

#[rstest]
#[case::an_empty_file("", "train.jsonl")]
#[case::malformed_json("{\"text\": \"a\"}\n{\"text\": \n", "train.jsonl:2")]
#[case::mixed_formats("{\"text\": \"a\"}\n{\"prompt\": \"b\", \"completion\": \"c\"}\n", "2")]
fn unusable_data_is_refused_with_the_line(#[case] data: &str, #[case] named: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.jsonl");
    fs::write(&path, data).unwrap();
    assert_refused(&run(&["--data", text(&path)]), &[named]);
}

#[test]
fn a_prompt_beyond_the_context_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompts.txt");
    fs::write(&path, "boat ".repeat(1000)).unwrap();
    assert_refused(
        &run(&["--prompts", text(&path)]),
        &["longer than the model's context", "256"],
    );
}

#[test]
fn a_refused_run_names_its_rule_and_replaces_the_report_of_an_earlier_run() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    fs::write(&report, "{\"verdict\": \"healthy\"}").unwrap();
    let arguments = ["--inject", "shard-missing", "--out", text(folder.path())];
    assert_refused(
        &run(&arguments),
        &["1 shard is missing", "more: `diagnose explain shards-missing`"],
    );
    let report: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    assert_eq!(report["verdict"], "incomplete");
    assert_eq!(report["findings"][0]["name"], "shards-missing");

    let evidence = folder.path().join("evidence.json");
    let replayed = run(&["replay", text(&evidence), "--format", "json"]);
    assert_eq!(replayed.status.code(), Some(2));
    let replayed: Value = serde_json::from_str(&stdout(&replayed)).unwrap();
    assert_eq!(replayed["findings"], report["findings"]);
}

#[test]
fn a_refused_run_is_a_report_for_programs_too() {
    let output = run(&["--layers", "9", "--format", "json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).starts_with("error: cannot adapt the last 9 blocks"));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["findings"][0]["name"], "adapter-targets-unknown");
}

#[rstest]
#[case::html("html", "<!DOCTYPE html>")]
#[case::junit("junit", "<?xml ")]
#[case::github("github", "::error title=")]
#[case::markdown("markdown", "# Diagnosis: incomplete")]
fn a_refused_run_is_a_report_in_every_format_but_text(#[case] format: &str, #[case] start: &str) {
    let output = run(&["--layers", "9", "--format", format]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).starts_with("error: cannot adapt the last 9 blocks"));
    assert!(stdout(&output).starts_with(start), "{}", stdout(&output));
    assert!(
        stdout(&output).contains("adapter-targets-unknown"),
        "{}",
        stdout(&output)
    );
}

#[rstest]
#[case::html("html", "</html>")]
#[case::junit("junit", "</testsuites>")]
fn a_fix_that_is_applied_leaves_one_document(#[case] format: &str, #[case] end: &str) {
    let output = run(&["--inject", "learning-rate-high", "--apply-fix", "--format", format]);
    assert_eq!(stdout(&output).matches(end).count(), 1, "{}", stdout(&output));
    assert!(stdout(&output).ends_with(&format!("{end}\n")), "{}", stdout(&output));
}

#[test]
fn checks_alone_do_not_look_like_a_run_that_failed() {
    let output = run(&["--check-only"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report = stdout(&output);
    assert!(report.contains("nothing was trained (`--check-only`)"), "{report}");
    for word in ["skipped", "failed", "not measured"] {
        assert!(!report.contains(word), "{report}");
    }
}

#[rstest]
#[case::text("not json")]
#[case::another_object("{\"schema_version\": 5}")]
fn a_file_that_is_no_evidence_is_refused_with_a_remedy(#[case] contents: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evidence.json");
    fs::write(&path, contents).unwrap();
    assert_refused(
        &run(&["replay", text(&path)]),
        &["is not evidence of this program", "found:", "hint:"],
    );
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompts.txt");
    fs::write(&path, "\u{feff}Who is the harbour keeper?\n").unwrap();
    let output = run(&[
        "--prompts",
        text(&path),
        "--steps",
        "1",
        "--max-tokens",
        "2",
        "--out",
        text(folder.path()),
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let evidence: Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("evidence.json")).unwrap()).unwrap();
    let prompt = &evidence["baseline"]["ran"]["answers"][0]["prompt"];
    assert_eq!(prompt, "Who is the harbour keeper?");
}

#[rstest]
fn a_name_that_could_steer_a_terminal_does_not_reach_it(
    #[values("text", "markdown", "html", "junit", "github")] format: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ro\u{1b}[2Jws\u{7}.jsonl");
    fs::copy(root().join("fixtures/embedded/minimal/train.jsonl"), &data).unwrap();
    let output = run(&[
        "--data",
        text(&data),
        "--steps",
        "1",
        "--max-tokens",
        "2",
        "--format",
        format,
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("ro"), "{}", stdout(&output));
    assert!(!stdout(&output).contains(['\u{1b}', '\u{7}']), "{}", stdout(&output));
    fs::write(&data, "").unwrap();
    let refused = run(&["--data", text(&data)]);
    assert!(!stderr(&refused).contains(['\u{1b}', '\u{7}']), "{}", stderr(&refused));
}

#[test]
fn an_output_folder_that_cannot_be_made_is_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    let output = run(&["--out", text(&file.join("below"))]);
    assert_refused(&output, &["cannot write to the folder"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "not a folder");
}

#[rstest]
#[case::a_rank_beyond_the_layers(&["--rank", "2000000000"], "at most 384")]
#[case::more_blocks_than_there_are(&["--layers", "5"], "a model of 4 blocks")]
#[case::an_unknown_key(&["--keys", "self_attn.q_porj"], "did you mean `self_attn.q_proj`")]
#[case::a_key_without_its_place(&["--keys", "q_proj"], "did you mean `self_attn.q_proj`")]
#[case::a_fault_without_its_seam(&["--full", "--inject", "stub-adapter"], "changes nothing with `--full`")]
fn an_option_that_cannot_work_is_refused(#[case] arguments: &[&str], #[case] named: &str) {
    assert_refused(&run(arguments), &[named]);
}

#[rstest]
fn an_option_out_of_range_is_refused(
    #[values(
        "--learning-rate=nan",
        "--learning-rate=-1",
        "--scale=1e308",
        "--dropout=1",
        "--steps=0",
        "--rank=0"
    )]
    argument: &str,
) {
    let output = run(&[argument]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("must be"), "{}", stderr(&output));
}

#[test]
fn packed_weights_cannot_be_trained_in_full() {
    let model = root().join("fixtures/golden/tiny/llama-4bit");
    assert_refused(
        &run(&["--model", text(&model), "--keep-packed", "--full"]),
        &["packed weights cannot be trained"],
    );
}

#[test]
fn a_model_that_does_not_exist_is_refused() {
    assert_refused(&run(&["--model", "/no/such/model"]), &["/no/such/model"]);
}

#[rstest]
#[case(&["explain", "adapter-not-attached"], "## How to fix")]
#[case(&["explain", "attach001"], "adapter-not-attached")]
#[case(&["rules"], "end-of-text-spam")]
fn the_rule_book_can_be_read(#[case] arguments: &[&str], #[case] shown: &str) {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains(shown), "{}", stdout(&output));
}

#[test]
fn the_rule_book_is_a_json_array() {
    let output = run(&["rules", "--json"]);
    let rules: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(
        rules
            .as_array()
            .unwrap()
            .iter()
            .all(|rule| rule["code"].is_string() && rule["name"].is_string())
    );
}

#[test]
fn an_unknown_rule_gets_a_suggestion() {
    assert_refused(&run(&["explain", "adapter-not-atached"]), &["adapter-not-attached"]);
}

#[test]
fn evidence_of_another_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evidence.json");
    fs::write(&path, "{\"schema_version\": 999}").unwrap();
    assert_refused(&run(&["replay", text(&path)]), &["999"]);
}

/// What the program writes on a terminal of this type.
#[cfg(unix)]
fn on_a_terminal(terminal: &str, arguments: &[&str]) -> String {
    const SPAWN: &str = "import pty, sys; pty.spawn(sys.argv[1:])";
    let output = Command::new("python3")
        .args(["-c", SPAWN, env!("CARGO_BIN_EXE_diagnose")])
        .args(arguments)
        .env("TERM", terminal)
        .env("HF_HUB_OFFLINE", "1")
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR_FORCE")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    stdout(&output)
}

#[cfg(unix)]
#[rstest]
#[case("xterm", true)]
#[case("dumb", false)]
fn a_terminal_gets_the_colour_that_it_has(#[case] terminal: &str, #[case] coloured: bool) {
    let written = on_a_terminal(terminal, &["explain", "no-such-rule"]);
    assert!(written.contains("there is no rule"), "{written}");
    assert_eq!(written.contains('\u{1b}'), coloured, "{written}");
}

#[cfg(unix)]
#[test]
fn the_progress_bar_ends_with_everything_done() {
    let written = on_a_terminal("xterm", &["--steps", "2", "--max-tokens", "4"]);
    for done in ["phase 1 of 5: baseline", "4/4", "phase 2 of 5: training", "2/2"] {
        assert!(written.contains(done), "{done} is not in {written}");
    }
}

#[test]
fn a_run_is_compared_with_its_baseline() {
    let folder = tempfile::tempdir().unwrap();
    let stored = folder.path().join("baseline.json");
    let short = |more: &[&str]| run(&[&["--steps", "2", "--max-tokens", "4"], more].concat());
    let first = short(&["--save-baseline", text(&stored)]);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));

    let again = short(&["--baseline", text(&stored), "--format", "json"]);
    assert_eq!(again.status.code(), Some(0), "{}{}", stdout(&again), stderr(&again));
    let report: Value = serde_json::from_str(&stdout(&again)).unwrap();
    assert_eq!(report["regression"]["moved"], serde_json::json!([]));
    assert_eq!(report["regression"]["identical"], report["regression"]["compared"]);

    let other = short(&["--baseline", text(&stored), "--learning-rate", "1e-3"]);
    assert_refused(
        &other,
        &["the baseline was stored by another run", "learning_rate 0.001"],
    );

    let mut evidence: Value = serde_json::from_str(&fs::read_to_string(&stored).unwrap()).unwrap();
    let loss = &mut evidence["training"]["ran"]["steps"][1]["loss"];
    *loss = Value::from(loss.as_f64().unwrap() + 0.1);
    fs::write(&stored, evidence.to_string()).unwrap();
    let moved = short(&["--baseline", text(&stored)]);
    assert_eq!(moved.status.code(), Some(1), "{}", stdout(&moved));
    for words in ["/training/ran/steps/1/loss", "1 value moved since the baseline"] {
        assert!(stdout(&moved).contains(words), "{words} is not in {}", stdout(&moved));
    }
}

#[test]
fn a_baseline_that_cannot_be_read_is_refused_before_the_work() {
    let output = run(&["--baseline", "/no/such/baseline.json"]);
    assert_refused(&output, &["cannot read `/no/such/baseline.json`"]);
    assert!(!stderr(&output).contains("phase 1"), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_run_with_a_valid_partial_report_and_exit_code_2() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let mut child = diagnose()
        .args(["--steps", "100000", "--max-tokens", "4", "--out", text(folder.path())])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines
        .find(|line| line.as_ref().unwrap().contains("phase 1 of 5"))
        .unwrap()
        .unwrap();
    assert!(
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    // Standard error stays open, or the program could not say that it heard.
    let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
    assert!(rest.iter().any(|line| line.contains("interrupted")), "{rest:?}");
    assert_eq!(child.wait().unwrap().code(), Some(2));
    let report: Value = serde_json::from_str(&fs::read_to_string(folder.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(report["verdict"], "incomplete");
    assert!(
        fs::read_to_string(folder.path().join("evidence.json"))
            .unwrap()
            .contains("interrupted")
    );
}

#[test]
fn a_fix_that_needs_no_help_is_applied_and_makes_the_run_healthy() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let arguments = [
        "--learning-rate",
        "0",
        "--max-tokens",
        "8",
        "--apply-fix",
        "--format",
        "json",
        "--out",
    ];
    let output = diagnose().args(arguments).arg(&out).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["verdict"], "healthy");
    assert_eq!(report["settings"]["learning_rate"], 1e-4);
    assert!(
        stderr(&output).contains("the verdict was findings and is now healthy"),
        "{}",
        stderr(&output)
    );
    let first: Value = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(first["verdict"], "findings");
    let fixed: Value = serde_json::from_slice(&fs::read(out.join("fixed/report.json")).unwrap()).unwrap();
    assert_eq!(fixed["verdict"], "healthy");
}

#[test]
fn a_run_without_a_mechanical_fix_says_so_and_is_not_repeated() {
    let output = run(&[
        "--inject",
        "frozen-optimizer",
        "--max-tokens",
        "8",
        "--apply-fix",
        "--format",
        "json",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no fix can be applied without your help"),
        "{}",
        stderr(&output)
    );
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["verdict"], "findings");
}

#[test]
fn the_self_test_lists_faults_controls_and_what_is_missing() {
    let output = run(&["selftest", "--list"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for name in ["frozen-optimizer", "looping-base", "gradient accumulation"] {
        assert!(stdout(&output).contains(name), "{name}");
    }
}

#[test]
fn an_unknown_fault_of_the_self_test_is_refused_with_the_nearest_name() {
    let output = run(&["selftest", "--only", "frozen-optimiser"]);
    assert_refused(&output, &["did you mean `frozen-optimizer`?"]);
}

/// MLX counts memory by process, so other tests must not run beside this one.
#[rstest]
fn gradients_that_are_kept_for_ever_are_noticed(#[values("memory-leak=1", "memory-leak=4")] fault: &str) {
    let output = run(&["--inject", fault, "--format", "json"]);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let roots: Vec<&Value> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["root"] == true && finding["severity"] != "info")
        .map(|finding| &finding["name"])
        .collect();
    assert_eq!(roots, ["memory-grows"]);
}

#[rstest]
#[case::diverged("3.0 2.5 9.5 10.9 10.8", "training-diverged")]
#[case::flat("4.31 4.32 4.3 4.31 4.33 4.32", "loss-not-decreasing")]
#[case::lost("3.0 2.5 NaN NaN", "loss-not-finite")]
#[case::healthy("3.0 2.5 2.1 1.9 1.8 1.7", "")]
fn a_log_alone_is_judged(#[case] losses: &str, #[case] cause: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let lines = losses
        .split(' ')
        .enumerate()
        .map(|(index, loss)| format!("{{\"step\": {index}, \"loss\": {loss}}}"));
    fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let output = run(&["--log", text(&path), "--format", "json"]);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let roots: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["root"] == true)
        .map(|finding| finding["name"].as_str().unwrap())
        .collect();
    assert_eq!(roots.join(" "), cause);
    assert_eq!(output.status.code(), Some(i32::from(!cause.is_empty())));
    assert_eq!(report["settings"]["log"], text(&path));
}

#[test]
fn an_adapter_that_no_run_left_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("adapter/adapters.safetensors");
    fs::create_dir(folder.path().join("adapter")).unwrap();
    fs::write(&weights, "weeks of work").unwrap();
    let done = diagnose().arg("--out").arg(folder.path()).output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.code() == Some(2) && error.contains("is not of an earlier run"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(weights).unwrap(), "weeks of work");
}

#[test]
fn a_conversion_is_not_written_into_the_folder_that_is_converted() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/peft");
    let done = diagnose()
        .args(["convert", "adapter"])
        .arg(folder.path())
        .args(["--to", "peft", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.code() == Some(2) && error.contains("lies within the folder"),
        "{error}"
    );
    assert!(!out.exists());
}
