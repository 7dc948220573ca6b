//! PyTorch as a second backend. What needs torch is skipped where it is not installed, and says so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin_cmd;
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::python::Python;
use mlx_diagnose::torch::{LoadRequest, Worker, WorkerError};
use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::golden::{root, shown};
use crate::support::skip;

/// The python with torch; `None`, with a word about it, where there is none.
fn torch() -> Option<&'static Python> {
    static FOUND: OnceLock<Option<Python>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let python = Python::from_environment();
        let works = Command::new(&python.0)
            .args(["-c", "import torch, transformers, safetensors"])
            .output()
            .is_ok_and(|output| output.status.success());
        works.then_some(python)
    });
    if found.is_none() {
        skip::because(&format!(
            "no torch and transformers for `{}`; {} names another python",
            Python::from_environment().name(),
            Python::VARIABLE
        ));
    }
    found.as_ref()
}

/// A program that stands in for a python; `{}` in its script is the folder that it lies in.
fn stand_in(script: &str) -> (TempDir, Python) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("python");
    let script = script.replace("{}", &folder.path().display().to_string());
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let python = Python(path.into_os_string());
    (folder, python)
}

const GREETING: &str =
    r#"echo '{"protocol": 1, "python": "3", "torch": "2", "transformers": "5", "devices": ["cpu"]}'"#;

fn started(python: &Python) -> Result<Worker, WorkerError> {
    let limit = Duration::from_secs(2);
    Worker::start_within(python, &Interrupt::default(), limit, limit)
}

/// The error of the first request to a stand-in.
fn refused(script: &str) -> String {
    let (_folder, python) = stand_in(script);
    let request = LoadRequest {
        folder: Path::new("/"),
        dtype: "float32",
        device: "cpu",
    };
    started(&python)
        .and_then(|mut worker| worker.load(&request))
        .unwrap_err()
        .to_string()
}

#[test]
fn a_python_that_is_not_there_is_told() {
    let error = started(&Python("/no/such/python".into())).unwrap_err().to_string();
    assert!(
        error.starts_with("`/no/such/python` cannot be run") && error.contains("MLX_DIAGNOSE_PYTHON"),
        "{error}"
    );
}

#[rstest]
#[case::without_torch(
    r#"echo '{"error": {"kind": "missing", "message": "No module named '"'torch'"'"}}'; exit 3"#,
    "PyTorch is not installed"
)]
#[case::that_ends_at_once("echo 'Illegal instruction' >&2; exit 132", "found: Illegal instruction")]
#[case::that_is_no_python("echo hello", "something that is no reply to `start`")]
#[case::of_another_version(
    r#"echo '{"protocol": 7, "python": "3", "torch": "2", "transformers": "5", "devices": []}'"#,
    "found: protocol 7"
)]
#[case::that_never_comes_up("echo loading >&2; sleep 60", "did not answer `start` within 2 s")]
fn a_python(#[case] script: &str, #[case] expected: &str) {
    let error = refused(script);
    assert!(error.contains(expected), "{error}");
}

#[rstest]
#[case::that_ends("read line; echo 'out of memory' >&2; exit 1", "ended while it was asked for `load`")]
#[case::that_hangs("echo busy >&2; sleep 60", "did not answer `load` within 2 s")]
#[case::that_answers_something_else(
    r#"read line; echo '{"id": 9, "result": {"a": 1}}'; sleep 60"#,
    "no reply to `load`"
)]
#[case::that_lacks_a_field(r#"read line; echo '{"id": 1, "result": {"a": 1}}'; sleep 60"#, "no reply to `load`")]
#[case::that_refuses(
    r#"read line; echo '{"id": 1, "error": {"kind": "weights", "message": "missing_keys: x"}}'; sleep 60"#,
    "could not do `load`: missing_keys: x"
)]
fn a_worker(#[case] script: &str, #[case] expected: &str) {
    let begun = Instant::now();
    let error = refused(&format!("{GREETING}; {script}"));
    assert!(error.contains(expected), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn nothing_of_a_worker_runs_on_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let sign = folder.path().join("sign");
    let (_python_folder, python) = stand_in(&format!(
        "{GREETING}; (trap '' TERM; while :; do date >>'{}'; sleep 0.1; done) & sleep 60",
        sign.display()
    ));
    let worker = started(&python).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    drop(worker);
    let size = || fs::metadata(&sign).unwrap().len();
    let then = size();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(size(), then);
}

#[test]
fn the_users_wish_to_stop_is_heard_while_a_worker_works() {
    let (_folder, python) = stand_in(&format!("{GREETING}; sleep 60"));
    let interrupt = Interrupt::default();
    let mut worker = Worker::start(&python, &interrupt).unwrap();
    let asking = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        interrupt.request()
    });
    let begun = Instant::now();
    let error = worker.to_device("cpu").unwrap_err();
    asking.join().unwrap();
    assert!(matches!(error, WorkerError::Interrupted), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn bad_requests_are_answered_and_the_worker_goes_on() {
    let Some(python) = torch() else {
        return;
    };
    let mut worker = Worker::start(python, &Interrupt::default()).unwrap();
    let refused = |result: Result<(), WorkerError>, expected: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(
        worker.detach().and(worker.logits(&[vec![1]]).map(drop)),
        "load comes first",
    );
    let load = |folder: &Path| {
        let folder = folder.to_owned();
        move |worker: &mut Worker, dtype: &str, device: &str| {
            let request = LoadRequest {
                folder: &folder,
                dtype,
                device,
            };
            worker.load(&request).map(drop)
        }
    };
    let tiny = load(&root().join("fixtures/embedded/model"));
    refused(
        load(Path::new("/no/model"))(&mut worker, "float32", "cpu"),
        "could not do `load`",
    );
    refused(tiny(&mut worker, "float8", "cpu"), "no element type 'float8'");
    refused(tiny(&mut worker, "float32", "tpu"), "no device 'tpu'");
    tiny(&mut worker, "float32", "cpu").unwrap();
    refused(worker.logits(&[vec![1], vec![1, 2]]).map(drop), "of one length");
    refused(worker.logits(&[vec![1_000_000]]).map(drop), "embedding table");
    assert_eq!(worker.logits(&[vec![1, 2, 3]]).unwrap().shape(), [1, 3, 1000]);
}

fn cross_checked(model: &Path, python: &Python) -> (Value, i32) {
    let output = cargo_bin_cmd!("diagnose")
        .env(Python::VARIABLE, &python.0)
        .args(["--check-only", "--cross-check", "torch", "--format", "json", "--model"])
        .arg(model)
        .arg("--data")
        .arg(root().join("fixtures/embedded/voice"))
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.code().unwrap())
}

fn figure<'report>(report: &'report Value, label: &str) -> &'report Value {
    let figures = report["phases"][0]["figures"].as_array().unwrap();
    figures.iter().find(|figure| figure["label"] == label).unwrap()
}

fn roots(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["root"] == true && finding["severity"] == "error")
        .map(|finding| finding["name"].as_str().unwrap())
        .collect()
}

fn smollm2() -> Option<PathBuf> {
    let folder = root().join("models/SmolLM2-135M-Instruct-f32");
    if !folder.exists() {
        skip::because(&format!(
            "{} is absent; scripts/fetch-smollm2 fetches it",
            shown(&folder)
        ));
        return None;
    }
    Some(folder)
}

#[rstest]
#[case::llama("fixtures/embedded/model")]
#[case::qwen2("fixtures/selftest/qwen2")]
#[case::qwen3("fixtures/selftest/qwen3")]
#[case::mistral("fixtures/golden/tiny/mistral")]
#[case::stretched_wavelengths("fixtures/golden/tiny/llama-rope-scaling")]
#[case::packed_weights("fixtures/golden/tiny/llama-4bit")]
#[case::smollm2("")]
fn mlx_and_torch_compute_the_same(#[case] model: &str) {
    let Some(python) = torch() else {
        return;
    };
    let model = match model {
        "" => match smollm2() {
            Some(folder) => folder,
            None => return,
        },
        path => root().join(path),
    };
    let (report, code) = cross_checked(&model, python);
    assert_eq!((roots(&report), code), (Vec::new(), 0), "{report:#}");
    let values = &figure(&report, "cross-check")["values"];
    assert!(values["logit_difference"].as_f64().unwrap() <= 1e-3, "{values}");
    assert!(values["gradient_difference"].as_f64().unwrap() <= 1e-3, "{values}");
}

/// A python in which the attention scores of one block are scaled by 1.02.
fn wrongly_scaled(python: &Python) -> (TempDir, Python) {
    let (folder, wrapped) = stand_in(&format!("PYTHONPATH='{{}}' exec '{}' \"$@\"", python.name()));
    fs::write(
        folder.path().join("sitecustomize.py"),
        "from transformers.models.llama import modeling_llama as llama
from transformers.models.qwen3 import modeling_qwen3 as qwen3
for attention in (llama.LlamaAttention, qwen3.Qwen3Attention):
    def wrong(self, config, layer_idx, right=attention.__init__):
        right(self, config, layer_idx)
        self.scaling *= 1.02 if layer_idx == 1 else 1.0
    attention.__init__ = wrong
",
    )
    .unwrap();
    (folder, wrapped)
}

#[rstest]
#[case::llama("fixtures/embedded/model")]
#[case::qwen3("fixtures/selftest/qwen3")]
fn attention_that_is_scaled_wrongly_in_one_of_them_is_caught(#[case] model: &str) {
    let Some(python) = torch() else {
        return;
    };
    let (_folder, wrong) = wrongly_scaled(python);
    let (report, code) = cross_checked(&root().join(model), &wrong);
    assert_eq!((roots(&report), code), (vec!["backends-disagree"], 1), "{report:#}");
    let finding = &report["findings"][0];
    assert!(finding["headline"].as_str().unwrap().contains("logits"), "{finding}");
}

#[test]
fn torch_that_was_asked_for_and_is_not_there_is_no_passed_check() {
    let (_folder, python) = stand_in(r#"echo '{"error": {"kind": "missing", "message": "No module named torch"}}'"#);
    let (report, code) = cross_checked(&root().join("fixtures/embedded/model"), &python);
    assert_eq!((report["verdict"].as_str(), code), (Some("incomplete"), 2));
    let text = figure(&report, "cross-check")["text"].as_str().unwrap();
    assert!(text.starts_with("failed: PyTorch is not installed"), "{text}");
}

fn trained_by_peft(model: &Path, data: &Path, python: &Python, more: &[&str]) -> (Value, i32) {
    let output = cargo_bin_cmd!("diagnose")
        .env(Python::VARIABLE, &python.0)
        .args(["--trainer", "peft", "--format", "json", "--max-tokens", "24", "--model"])
        .arg(model)
        .arg("--data")
        .arg(data)
        .args(more)
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.code().unwrap())
}

#[test]
fn what_peft_trained_is_taken_up_and_healthy() {
    let Some(python) = torch() else {
        return;
    };
    let model = root().join("fixtures/embedded/model");
    let data = root().join("fixtures/embedded/voice");
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().to_str().unwrap();
    let (report, code) = trained_by_peft(
        &model,
        &data,
        python,
        &["--steps", "20", "--layers", "2", "--dropout", "0.1", "--out", folder],
    );
    assert_eq!((report["verdict"].as_str(), code), (Some("healthy"), 0), "{report:#}");
    let figures = report["phases"][1]["figures"].as_array().unwrap();
    let of = |label: &str| figures.iter().find(|figure| figure["label"] == label).unwrap();
    // Seven layers of two blocks, two matrices each.
    assert_eq!(of("adapter")["values"]["applied"], 28);
    let losses = of("log")["values"]["logged_losses"].as_array().unwrap();
    assert_eq!(losses.len(), 20);
    let file = out.path().join("trainer/output/adapter_config.json");
    let configuration: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(
        (configuration["r"].as_u64(), configuration["lora_alpha"].as_f64()),
        (Some(8), Some(160.0))
    );
}

#[rstest]
#[case::a_chat(r#"{"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Ho."}]}"#, &[])]
#[case::a_completion(r#"{"prompt": "Hi?", "completion": "Ho."}"#, &["--no-mask-prompt"])]
#[case::a_text(r#"{"text": "The lighthouse is at the end of the pier."}"#, &[])]
fn peft_begins_where_this_trainer_begins_on(#[case] row: &str, #[case] more: &[&str]) {
    let Some(python) = torch() else {
        return;
    };
    let model = root().join("fixtures/embedded/model");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("train.jsonl"), format!("{row}\n")).unwrap();
    let settings = [&["--steps", "1", "--batch-size", "1"], more].concat();
    let (theirs, _) = trained_by_peft(&model, folder.path(), python, &settings);
    let output = cargo_bin_cmd!("diagnose")
        .args(["--format", "json", "--max-tokens", "2", "--model"])
        .arg(&model)
        .arg("--data")
        .arg(folder.path())
        .args(&settings)
        .output()
        .unwrap();
    let ours: Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = |report: &Value, label: &str, key: &str| {
        let figures = report["phases"][1]["figures"].as_array().unwrap();
        let figure = figures.iter().find(|figure| figure["label"] == label);
        figure.unwrap_or_else(|| panic!("{report:#}"))["values"][key][0]
            .as_f64()
            .unwrap()
    };
    let (theirs, ours) = (first(&theirs, "log", "logged_losses"), first(&ours, "loss", "losses"));
    // It prints four digits.
    assert!((theirs - ours).abs() < 1e-3, "{theirs} for {ours}");
}

#[test]
fn peft_without_its_packages_says_what_to_install() {
    // Isolated from site packages, no python has torch.
    let (_folder, python) = stand_in("exec python3 -I -S \"$@\"");
    let model = root().join("fixtures/embedded/model");
    let (report, code) = trained_by_peft(&model, &root().join("fixtures/embedded/voice"), &python, &[]);
    assert_eq!((roots(&report), code), (vec!["trainer-failed"], 1));
    let found = report["findings"][0]["found"].as_str().unwrap();
    assert!(found.contains("pip install torch transformers peft"), "{found}");
}

fn run_on(backend: &str, python: &Python, more: &[&str]) -> (Value, i32) {
    let output = cargo_bin_cmd!("diagnose")
        .env(Python::VARIABLE, &python.0)
        .args(["--backend", backend, "--format", "json", "--max-tokens", "16"])
        .args(more)
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.code().unwrap())
}

#[test]
fn the_five_phases_by_torch_are_those_by_mlx() {
    let Some(python) = torch() else {
        return;
    };
    let out = tempfile::tempdir().unwrap();
    let more = [
        "--bias-correction",
        "--clip-norm",
        "5",
        "--out",
        out.path().to_str().unwrap(),
    ];
    let (theirs, code) = run_on("torch", python, &more);
    assert_eq!((theirs["verdict"].as_str(), code), (Some("healthy"), 0), "{theirs:#}");
    assert!(out.path().join("adapter/adapters.safetensors").exists());
    let (ours, _) = run_on("cpu", python, &more[..3]);
    let numbers = |report: &Value, label: &str, key: &str| -> Vec<f64> {
        let figures = report["phases"][1]["figures"].as_array().unwrap();
        let figure = figures.iter().find(|figure| figure["label"] == label).unwrap();
        let list = figure["values"][key].as_array().unwrap();
        list.iter().map(|number| number.as_f64().unwrap()).collect()
    };
    for (label, key) in [("loss", "losses"), ("gradients", "gradient_norms")] {
        let (theirs, ours) = (numbers(&theirs, label, key), numbers(&ours, label, key));
        assert_eq!(theirs.len(), 10);
        for (theirs, ours) in theirs.iter().zip(&ours) {
            assert!(
                (theirs - ours).abs() <= 2e-3 * ours.abs().max(1.0),
                "{label}: {theirs} for {ours}"
            );
        }
    }
    let answers = |report: &Value| report["answers"].clone();
    let before = |report: &Value| -> Vec<Value> {
        let pairs = answers(report);
        pairs
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| pair["before"].clone())
            .collect()
    };
    assert_eq!(before(&theirs), before(&ours));
    assert_eq!(theirs["phases"][2]["figures"], ours["phases"][2]["figures"]);
    let reload = &theirs["phases"][4]["figures"].as_array().unwrap()[2]["values"];
    assert_eq!(
        (reload["loaded"].as_u64(), reload["difference_from_live"].as_f64()),
        (Some(56), Some(0.0))
    );
}

#[test]
fn a_learning_rate_that_is_too_high_is_found_with_torch_too() {
    let Some(python) = torch() else {
        return;
    };
    let (report, code) = run_on("torch", python, &["--learning-rate", "1.0"]);
    assert_eq!((roots(&report), code), (vec!["training-diverged"], 1));
}

#[test]
fn what_only_mlx_measures_is_skipped_and_not_passed() {
    let Some(python) = torch() else {
        return;
    };
    let (report, _) = run_on("torch", python, &[]);
    let outcome = |name: &str| {
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap()["outcome"].clone()
    };
    for name in [
        "gradient-wrong",
        "update-not-as-configured",
        "loss-miscomputed",
        "fuse-loses-adapter",
        "overfit",
    ] {
        assert_eq!(outcome(name), "not_applicable", "{name}");
    }
    for name in [
        "adapter-not-attached",
        "base-not-frozen",
        "training-diverged",
        "adapter-lost-on-reload",
    ] {
        assert_eq!(outcome(name), "passed", "{name}");
    }
}

#[rstest]
#[case::without_torch("torch", &[], "PyTorch is not installed")]
#[case::all_weights("torch", &["--full"], "`--full`")]
#[case::packed_weights("torch", &["--keep-packed"], "`--keep-packed`")]
fn what_the_backend_cannot_do_is_told(#[case] backend: &str, #[case] more: &[&str], #[case] expected: &str) {
    let (_folder, python) = stand_in(r#"echo '{"error": {"kind": "missing", "message": "No module named torch"}}'"#);
    let (report, code) = run_on(backend, &python, more);
    assert_eq!((report["verdict"].as_str(), code), (Some("incomplete"), 2));
    assert!(report.to_string().contains(expected), "{report:#}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_backend_that_is_not_here_is_refused_and_not_replaced() {
    let (_folder, python) = stand_in("exit 1");
    let (report, code) = run_on("metal", &python, &[]);
    assert_eq!((report["verdict"].as_str(), code), (Some("incomplete"), 2));
    let headline = report["headline"].as_str().unwrap();
    assert!(headline.starts_with("the backend `metal` cannot be used"), "{headline}");
}
