//! Folders of whole weights, fused or trained in all their weights, beside their base.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mlx_diagnose::diagnosis::{DataSource, DiagnosisOptions, FinishedAdapter, Silent, diagnose};
use mlx_diagnose::evidence::{Evidence, RunSettings};
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::model::{ModelSource, load_safetensors, save_safetensors};
use mlx_diagnose::rules::{self, Severity};
use mlx_diagnose::workflow::ReferenceWorkflow;
use mlx_rs::Array;

use crate::support::golden::root;
use crate::support::short_diagnosis;

fn base() -> PathBuf {
    root().join("fixtures/embedded/model")
}

/// A copy of the base, its tensors changed.
fn trained(folder: &Path, change: impl Fn(&str, &Array) -> Option<Array>) {
    for file in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        fs::copy(base().join(file), folder.join(file)).unwrap();
    }
    let tensors: BTreeMap<String, Array> = load_safetensors(&base().join("model.safetensors"))
        .unwrap()
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.clone(), change(&name, &tensor)?)))
        .collect();
    save_safetensors(&tensors, None, &folder.join("model.safetensors")).unwrap();
}

fn diagnosed(folder: &Path) -> Evidence {
    let settings = RunSettings::default();
    let options = DiagnosisOptions {
        source: ModelSource::Folder(base()),
        model_name: "base".to_owned(),
        data: DataSource::Path(root().join("fixtures/embedded/voice/train.jsonl")),
        data_name: "rows".to_owned(),
        adapter: Some(FinishedAdapter {
            folder: folder.to_owned(),
            is_whole_model: true,
            name: "trained".to_owned(),
            log: None,
            mask_prompt: None,
            max_sequence_length: None,
        }),
        steps: settings.steps,
        learning_rate: settings.learning_rate,
        ..short_diagnosis::options()
    };
    diagnose(&options, &ReferenceWorkflow, &Interrupt::default(), &mut Silent)
}

fn errors(evidence: &Evidence) -> Vec<&'static str> {
    let diagnosis = rules::diagnose(evidence);
    let roots = diagnosis
        .causes
        .iter()
        .filter(|cause| cause.is_root() && cause.severity == Severity::Error);
    roots.map(|cause| cause.rule.name).collect()
}

#[test]
fn the_base_under_another_name_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path(), |_, tensor| Some(tensor.clone()));
    let evidence = diagnosed(folder.path());
    assert_eq!(errors(&evidence), ["whole-weights-hardly-changed"]);
    assert_eq!(evidence.settings.trained.as_deref(), Some("trained"));
    assert_eq!(evidence.settings.adapter, None);
}

#[test]
fn what_differs_from_the_base_is_counted_and_its_answers_are_its_own() {
    let folder = tempfile::tempdir().unwrap();
    // The answers are those of a model that says the same token for ever: its last norm is zero.
    trained(folder.path(), |name, tensor| {
        Some(if name == "model.norm.weight" {
            tensor * 0.0_f32
        } else {
            tensor.clone()
        })
    });
    let evidence = diagnosed(folder.path());
    let parameters = evidence.parameters.ran().unwrap();
    assert_eq!(parameters.changed, 1);
    let (before, after) = (evidence.baseline.ran().unwrap(), evidence.generation.ran().unwrap());
    assert_ne!(before.answers[0].free_run.text, after.answers[0].free_run.text);
    // A zero norm makes every token as likely as any other.
    let fit = evidence.fit.ran().unwrap();
    let uniform = evidence.model.ran().unwrap().uniform_loss();
    approx::assert_relative_eq!(fit.loss_after().unwrap(), uniform, epsilon = 1e-4);
    assert!(!errors(&evidence).contains(&"whole-weights-hardly-changed"));
}

#[test]
fn a_model_that_lacks_weights_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path(), |name, tensor| {
        (name != "model.layers.0.mlp.up_proj.weight").then(|| tensor.clone())
    });
    let evidence = diagnosed(folder.path());
    assert_eq!(errors(&evidence), ["finished-adapter-unreadable"]);
    assert!(evidence.baseline.ran().is_some());
}

#[test]
fn a_model_without_its_tokenizer_is_asked_with_the_base_s_and_that_is_told() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path(), |_, tensor| Some(tensor * 1.001_f32));
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let evidence = diagnosed(folder.path());
    let files = evidence.adapter_files.ran().unwrap();
    assert!(
        files.configuration_problems[0].contains("no `tokenizer.json`"),
        "{files:?}"
    );
    assert!(evidence.generation.ran().is_some());
}
