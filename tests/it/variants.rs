//! The tiny trained models of the self-test (`scripts/embedded/train` makes them): each is a healthy model of its
//! architecture.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use mlx_diagnose::evidence::{Evidence, FinishReason, GenerationEvidence};
use mlx_diagnose::model::{CausalModel, ModelSource};
use mlx_rs::Array;
use rstest::rstest;

use super::golden::{EXACT_PRECISION, root};

fn variant(name: &str) -> PathBuf {
    root().join("fixtures/selftest").join(name)
}

fn load(name: &str) -> CausalModel {
    ModelSource::Folder(variant(name)).load(EXACT_PRECISION).unwrap().model
}

/// The evidence of a run with default settings on the embedded data and prompts, which must be healthy.
fn healthy_run(name: &str) -> Evidence {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_diagnose"))
        .arg("--model")
        .arg(variant(name))
        .arg("--data")
        .arg(root().join("fixtures/embedded/minimal"))
        .arg("--prompts")
        .arg(root().join("fixtures/embedded/prompts.txt"))
        .arg("--out")
        .arg(folder.path())
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(report.contains("\nhealthy: "), "{report}");
    serde_json::from_slice(&fs::read(folder.path().join("evidence.json")).unwrap()).unwrap()
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(|letter: char| !letter.is_alphabetic() && letter != '\'')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

fn assert_sound(generation: &GenerationEvidence, vocabulary: &BTreeSet<String>) {
    let answers = &generation.answers;
    assert_eq!(answers.len(), 4);
    for answer in answers {
        let said = words(&answer.text);
        assert!(said.len() > 2, "{answer:?}");
        let unknown: Vec<&String> = said.difference(vocabulary).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {answer:?}");
        assert!(!answer.is_looping(), "{answer:?}");
    }
    let stopped = answers
        .iter()
        .filter(|answer| answer.finish == FinishReason::Stop)
        .count();
    assert!(stopped >= 3, "{answers:#?}");
}

#[rstest]
fn a_default_run_is_healthy_and_answers_in_words_of_the_corpus(#[values("qwen2", "qwen3")] name: &str) {
    let evidence = healthy_run(name);
    assert_eq!(evidence.model.ran().unwrap().architecture, name);
    let corpus = fs::read_to_string(root().join("fixtures/embedded/corpus/train.jsonl")).unwrap();
    assert_sound(evidence.baseline.ran().unwrap(), &words(&corpus));
    // The fine-tuning data has words of its own.
    let data = fs::read_to_string(root().join("fixtures/embedded/minimal/train.jsonl")).unwrap();
    assert_sound(evidence.generation.ran().unwrap(), &words(&format!("{corpus} {data}")));
}

/// Whether some value is other than `value`.
fn moved_from(value: f32, array: &Array) -> bool {
    array.to_vec_exact::<f32>().unwrap().iter().any(|&found| found != value)
}

#[test]
fn the_biases_of_qwen2_were_trained() {
    for block in load("qwen2").model.layers {
        let attention = &block.self_attn;
        for projection in [&attention.q_proj, &attention.k_proj, &attention.v_proj] {
            assert!(moved_from(0.0, projection.bias.value.as_ref().unwrap()));
        }
        assert!(attention.o_proj.bias.value.is_none());
    }
}

#[test]
fn qwen3_has_trained_head_norms_shared_key_heads_and_its_own_output_layer() {
    let model = load("qwen3");
    assert!(model.lm_head.is_some());
    for block in &model.model.layers {
        let attention = &block.self_attn;
        assert!(attention.key_value_heads < attention.heads);
        for norm in [&attention.q_norm, &attention.k_norm] {
            assert!(moved_from(1.0, &norm.as_ref().unwrap().weight.value));
        }
    }
}
