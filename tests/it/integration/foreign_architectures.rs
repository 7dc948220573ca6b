//! Adapters on architectures that this program lacks; a script stands in for Python mlx-lm.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use approx::assert_relative_eq;
use mlx_diagnose::adapter::{LoraSettings, attach, save_adapter};
use mlx_diagnose::evidence::{Evidence, Slot};
use mlx_diagnose::model::{ModelSource, load_safetensors, save_safetensors};
use mlx_diagnose::report::{Report, Verdict};
use mlx_rs::{Array, random};
use rstest::rstest;
use tempfile::TempDir;

use crate::support::golden::{EXACT_PRECISION, root};

type Tensors = BTreeMap<String, Array>;

/// Says what it was asked: the base loses 2 nats on every token and never stops, the adapted model loses 1 and stops.
const STAND_IN: &str = r#"#!/usr/bin/env python3
import json, struct, sys
from pathlib import Path
script, assignment, result = sys.argv[1:]
assert "mlx_lm" in Path(script).read_text()
task = json.loads(Path(assignment).read_text())
def header(path):
    data = Path(path).read_bytes()
    return json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
weights = {name: value["shape"] for name, value in header(task["model"] + "/model.safetensors").items() if name != "__metadata__"}
linears = {name[:-7]: shape for name, shape in weights.items() if len(shape) == 2 and "embed" not in name}
def reading(row, loss):
    count = len(row["tokens"])
    return {"losses": [[loss] * 3] * count, "likeliest": row["tokens"][1:] + [0], "stop_log_probabilities": [-loss] * count,
            "ranks": [None] * count, "dtype": "float32"}
def state(loss, tokens):
    return {"answers": [{"tokens": tokens, "not_finite": False} for _ in task["prompts"]], "seconds": 2.0,
            "rows": [reading(row, loss) for row in task["rows"]]}
stop = task["stop_ids"][0]
names = [name for name in header(task["adapter"]["tensors"]) if name != "__metadata__"]
model = {"version": "0.0", "device": "a script", "block_prefix": "model.layers.", "blocks": 4, "linears": linears, "weights": weights}
answer = {"model": model, "base": state(2.0, [300, 301, 302, 303] * 16), "applied": names,
          "adapted": state(1.0, [400, 401, stop] + [300] * 61), "scaled_losses": [1.5 for _ in task["factors"]]}
CHANGE
Path(result).write_text(json.dumps(answer))
"#;

/// The tiny chat model under the name of an architecture that there is not, with tensors that something changes.
fn foreign_base(format: &str, change: impl FnOnce(&mut Tensors)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(root().join("fixtures/embedded/model")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("config.json");
    let configuration = fs::read_to_string(&path).unwrap();
    fs::write(
        path,
        configuration.replace("\"model_type\": \"llama\"", "\"model_type\": \"gemma99\""),
    )
    .unwrap();
    let path = folder.path().join("model.safetensors");
    let mut tensors = load_safetensors(&path).unwrap();
    change(&mut tensors);
    let metadata = BTreeMap::from([("format".to_owned(), format.to_owned())]);
    save_safetensors(&tensors, Some(&metadata), &path).unwrap();
    folder
}

/// An adapter of mlx-lm for the tiny chat model, with tensors that something changes.
fn adapter(change: impl FnOnce(&mut Tensors)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let settings = LoraSettings {
        scale: 0.5,
        ..LoraSettings::default()
    };
    let source = ModelSource::Folder(root().join("fixtures/embedded/model"));
    let mut model = source.load(EXACT_PRECISION).unwrap().model;
    attach(&mut model, &settings, 1).unwrap();
    for (index, (_, linear)) in model.linears_mut().into_iter().enumerate() {
        if let Some(lora_b) = &mut linear.lora_b.value {
            let key = random::key(index as u64).unwrap();
            *lora_b = random::uniform::<_, f32>(-0.05, 0.05, lora_b.shape(), &key).unwrap();
        }
    }
    save_adapter(&model, &settings, "tiny", folder.path()).unwrap();
    let path = folder.path().join("adapters.safetensors");
    let mut tensors = load_safetensors(&path).unwrap();
    change(&mut tensors);
    save_safetensors(&tensors, None, &path).unwrap();
    folder
}

fn python(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("a python");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Runs the program with this in the place of python.
fn diagnosed(base: &Path, adapter: &Path, python: &Path, options: &[&str]) -> Evidence {
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_diagnose"))
        .args([
            "--model",
            base.to_str().unwrap(),
            "--adapter",
            adapter.to_str().unwrap(),
        ])
        .args(["--data", root().join("fixtures/embedded/voice").to_str().unwrap()])
        .args(["--out", out.path().to_str().unwrap()])
        .args(options)
        .env("MLX_DIAGNOSE_PYTHON", python)
        .output()
        .unwrap();
    let written = fs::read(out.path().join("evidence.json"));
    let written = written.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_slice(&written).unwrap()
}

fn roots(evidence: &Evidence) -> Vec<&'static str> {
    Report::new(evidence, Vec::new())
        .roots()
        .map(|finding| finding.name)
        .collect()
}

/// The files alone: nothing is asked.
fn checked(base: &Path, adapter: &Path) -> Evidence {
    diagnosed(base, adapter, Path::new("no-such-python"), &["--check-only"])
}

#[test]
fn answers_and_losses_come_from_python_mlx_lm() {
    let (base, adapter, folder) = (
        foreign_base("mlx", |_| {}),
        adapter(|_| {}),
        tempfile::tempdir().unwrap(),
    );
    let python = python(folder.path(), &STAND_IN.replace("CHANGE", ""));
    let evidence = diagnosed(base.path(), adapter.path(), &python, &[]);
    let (before, after) = (evidence.baseline.ran().unwrap(), evidence.generation.ran().unwrap());
    assert_eq!((before.answers[0].tokens, after.answers[0].tokens), (64, 2));
    assert_eq!(
        (before.answers[0].free_run.tokens, after.answers[0].free_run.tokens),
        (64, 64)
    );
    assert_eq!(after.answers.len(), before.answers.len());
    let with_reference = after.answers.iter().filter_map(|answer| answer.reference_nll);
    assert_eq!(with_reference.collect::<Vec<_>>(), [1.0, 1.0]);
    let fit = evidence.fit.ran().unwrap();
    assert_eq!((fit.loss_before(), fit.loss_after()), (Some(2.0), Some(1.0)));
    assert_eq!((fit.validation_before, fit.validation_after), (Some(2.0), Some(1.0)));
    // Every next token was the likeliest.
    assert_relative_eq!(fit.after.ran().unwrap().offset_agreement[1], 1.0);
    let files = evidence.adapter_files.ran().unwrap();
    assert_eq!((files.applied, files.missing.total, files.unused.total), (56, 0, 0));
    assert_eq!(
        files.scaled_losses.iter().map(|scaled| scaled.loss).collect::<Vec<_>>(),
        [Some(1.5); 3]
    );
    let adapters = evidence.parameters.ran().unwrap().adapter.as_ref().unwrap();
    assert_eq!(
        (adapters.attached.total, adapters.nonzero_b, adapters.updates.len()),
        (28, 28, 28)
    );
    let model = evidence.model.ran().unwrap();
    assert_eq!((model.architecture.as_str(), model.predicted_values), ("gemma99", None));
    assert!(evidence.environment.reasons[0].contains("Python mlx-lm 0.0"));
    assert_eq!(
        evidence.state.absence().unwrap(),
        "skipped: this program has no `gemma99`"
    );
    assert!(evidence.refusal.is_none() && evidence.data.ran().is_some());
}

#[rstest]
#[case::no_python("exit 127", false, "is not installed")]
#[case::no_mlx_lm("echo \"No module named 'mlx_lm'\"; exit 3", false, "No module named 'mlx_lm'")]
#[case::no_architecture("echo 'Model type gemma99 not supported.'; exit 4", false, "gemma99 not supported")]
#[case::a_failure("echo 'Out of memory'; exit 1", true, "Out of memory")]
#[case::a_result_of_another_kind("echo '{}' >\"$3\"", true, "cannot be used")]
fn what_python_mlx_lm_cannot_measure_is_never_passed(#[case] script: &str, #[case] fails: bool, #[case] reason: &str) {
    let (base, adapter, folder) = (
        foreign_base("mlx", |_| {}),
        adapter(|_| {}),
        tempfile::tempdir().unwrap(),
    );
    let python = python(folder.path(), &format!("#!/bin/sh\n{script}\n"));
    let evidence = diagnosed(base.path(), adapter.path(), &python, &[]);
    for slot in [&evidence.baseline, &evidence.generation] {
        let said = match slot {
            Slot::Skipped { reason } if !fails => reason,
            Slot::Crashed { error } if fails => error,
            other => panic!("{other:?}"),
        };
        assert!(said.contains(reason), "{said}");
    }
    assert!(evidence.fit.ran().is_none() && evidence.parameters.ran().is_some());
    assert_eq!(Report::new(&evidence, Vec::new()).verdict, Verdict::Incomplete);
}

#[rstest]
#[case::tensors_put_elsewhere("answer['applied'] = names[1:]", "disagree about")]
#[case::fewer_answers("answer['base']['answers'].pop()", "other answers")]
#[case::a_shorter_row("answer['adapted']['rows'][0]['ranks'].pop()", "other rows")]
fn a_result_that_does_not_fit_the_question_is_not_taken_up(#[case] change: &str, #[case] reason: &str) {
    let (base, adapter, folder) = (
        foreign_base("mlx", |_| {}),
        adapter(|_| {}),
        tempfile::tempdir().unwrap(),
    );
    let python = python(folder.path(), &STAND_IN.replace("CHANGE", change));
    let evidence = diagnosed(base.path(), adapter.path(), &python, &[]);
    let Slot::Crashed { error } = &evidence.generation else {
        panic!("{:?}", evidence.generation);
    };
    assert!(error.contains(reason), "{error}");
}

#[test]
fn an_adapter_that_was_never_trained_is_told_without_a_forward_pass() {
    let zero = |tensors: &mut Tensors| {
        for (name, tensor) in tensors {
            if name.ends_with("lora_b") {
                *tensor = Array::from_slice(&vec![0.0_f32; tensor.size()], tensor.shape());
            }
        }
    };
    let (base, adapter) = (foreign_base("mlx", |_| {}), adapter(zero));
    let evidence = diagnosed(base.path(), adapter.path(), Path::new("no-such-python"), &[]);
    assert_eq!(roots(&evidence), ["adapter-never-moved"]);
    assert_eq!(Report::new(&evidence, Vec::new()).verdict, Verdict::Findings);
}

#[test]
fn tensors_are_compared_with_the_headers_of_the_base() {
    let base = foreign_base("mlx", |_| {});
    let half = adapter(|tensors| tensors.retain(|name, _| !name.contains("layers.2")));
    let files = checked(base.path(), half.path()).adapter_files.ran().unwrap().clone();
    assert_eq!((files.applied, files.missing.total, files.unused.total), (42, 14, 0));
    let wide = |tensors: &mut Tensors| {
        let name = "model.layers.0.self_attn.q_proj.weight";
        tensors.insert(name.to_owned(), Array::from_slice(&vec![0.5_f32; 64 * 128], &[64, 128]));
    };
    let evidence = checked(foreign_base("mlx", wide).path(), adapter(|_| {}).path());
    assert_eq!(roots(&evidence), ["finished-adapter-does-not-fit"]);
    let files = evidence.adapter_files.ran().unwrap();
    assert_eq!(
        files.other_shape.first,
        ["model.layers.0.self_attn.q_proj.lora_b: [8, 128] for [8, 64]"]
    );
}

#[test]
fn names_that_mlx_lm_changes_are_no_proof_against_an_adapter() {
    let renamed = |tensors: &mut Tensors| {
        let old = std::mem::take(tensors);
        tensors.extend(
            old.into_iter()
                .map(|(name, tensor)| (name.replace("model.", "model.language_model."), tensor)),
        );
    };
    let of_transformers = checked(foreign_base("pt", renamed).path(), adapter(|_| {}).path());
    let reason = of_transformers.adapter_files.absence().unwrap();
    assert!(reason.contains("cannot be told without Python mlx-lm"), "{reason}");
    assert!(roots(&of_transformers).is_empty());
    let of_mlx = checked(foreign_base("mlx", renamed).path(), adapter(|_| {}).path());
    assert_eq!(roots(&of_mlx), ["finished-adapter-does-not-fit"]);
}

#[test]
fn weights_that_are_not_finite_are_found_in_the_files() {
    let broken = |tensors: &mut Tensors| {
        let name = "model.layers.1.mlp.up_proj.weight";
        tensors.insert(
            name.to_owned(),
            Array::from_slice(&vec![f32::NAN; 384 * 128], &[384, 128]),
        );
    };
    let evidence = checked(foreign_base("mlx", broken).path(), adapter(|_| {}).path());
    assert_eq!(evidence.model.ran().unwrap().non_finite.total, 1);
    assert_eq!(roots(&evidence), ["weights-not-finite"]);
}

#[test]
fn an_architecture_that_is_lacking_is_not_trained() {
    let base = foreign_base("mlx", |_| {});
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_diagnose"))
        .args([
            "--model",
            base.path().to_str().unwrap(),
            "--out",
            out.path().to_str().unwrap(),
        ])
        .args(["--data", root().join("fixtures/embedded/voice").to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let evidence: Evidence = serde_json::from_slice(&fs::read(out.path().join("evidence.json")).unwrap()).unwrap();
    assert_eq!(roots(&evidence), ["configuration-unusable"]);
}
