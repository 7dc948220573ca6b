//! The tiny trained models of the self-test (`scripts/embedded/train` makes them): each is a healthy model of its
//! architecture.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use mlx_diagnose::evidence::{Evidence, FinishReason, GenerationEvidence};
use mlx_diagnose::model::{CausalModel, ModelSource};
use mlx_rs::Array;
use mlx_rs::module::ModuleParameters;
use rstest::rstest;

use crate::support::golden::{EXACT_PRECISION, root};

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
    for (path, linear) in load("qwen2").linears() {
        let has_bias = ["q_proj", "k_proj", "v_proj"].iter().any(|name| path.ends_with(name));
        match &linear.bias.value {
            Some(bias) => assert!(has_bias && moved_from(0.0, bias), "{path}"),
            None => assert!(!has_bias, "{path}"),
        }
    }
}

#[test]
fn qwen3_has_trained_head_norms_shared_key_heads_and_its_own_output_layer() {
    let loaded = ModelSource::Folder(variant("qwen3")).load(EXACT_PRECISION).unwrap();
    assert!(loaded.model.lm_head.is_some());
    assert!(loaded.configuration.num_key_value_heads < loaded.configuration.num_attention_heads);
    let parameters = loaded.model.parameters().flatten();
    for layer in 0..loaded.configuration.num_hidden_layers {
        for norm in ["q_norm", "k_norm"] {
            let name = format!("model.layers.{layer}.self_attn.{norm}.weight");
            assert!(moved_from(1.0, parameters[name.as_str()]), "{name}");
        }
    }
}
