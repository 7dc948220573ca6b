//! The forward pass against Python mlx-lm on the same weights (`fixtures/golden`, made by `scripts/peers`).

use std::path::{Path, PathBuf};

use mlx_diagnose::model::{ModelSource, Precision};
use mlx_rs::ops::indexing::take_along_axis;
use mlx_rs::{Array, Dtype};
use rstest::rstest;
use serde_json::Value;

/// Largest difference allowed between two f32 forward passes of two-layer models.
const TINY_LOGITS: f32 = 1e-4;
/// Largest difference allowed between log-probabilities of the real model.
const REAL_LOG_PROBABILITIES: f32 = 1e-3;

const EXACT_PRECISION: Precision = Precision { dtype: Dtype::Float32, keep_packed: false };
const PACKED_PRECISION: Precision = Precision { dtype: Dtype::Float32, keep_packed: true };

fn golden(path: &str) -> Value {
    let path = root().join("fixtures/golden").join(path);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn floats(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(values) => values.iter().flat_map(floats).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

fn tokens(value: &Value) -> Array {
    let ids: Vec<i32> = value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect();
    Array::from_slice(&ids, &[1, ids.len() as i32])
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

#[rstest]
#[case::plain("llama", EXACT_PRECISION)]
#[case::untied("llama-untied", EXACT_PRECISION)]
#[case::llama3_rope_scaling("llama-rope-scaling", EXACT_PRECISION)]
#[case::four_bit_with_an_eight_bit_override("llama-4bit", EXACT_PRECISION)]
#[case::four_bit_kept_packed("llama-4bit", PACKED_PRECISION)]
#[case::mistral("mistral", EXACT_PRECISION)]
#[case::qwen2("qwen2", EXACT_PRECISION)]
#[case::qwen3("qwen3", EXACT_PRECISION)]
fn logits_equal_those_of_mlx_lm(#[case] name: &str, #[case] precision: Precision) {
    let golden = golden(&format!("tiny/{name}/golden.json"));
    let loaded = ModelSource::Folder(root().join("fixtures/golden/tiny").join(name)).load(precision).unwrap();
    let logits = loaded.model.logits(&tokens(&golden["input_ids"])).unwrap();
    let found = logits.to_vec_exact::<f32>().unwrap();
    let difference = largest_difference(&found, &floats(&golden["logits"]));
    assert!(difference <= TINY_LOGITS, "{name}: {difference}");
}

fn smollm2() -> Option<PathBuf> {
    let path = root().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if path.is_file() {
        return Some(path);
    }
    eprintln!("skipped: {} is absent; scripts/fetch-smollm2 fetches it", path.display());
    None
}

#[rstest]
#[case::dequantised(EXACT_PRECISION)]
#[case::kept_packed(PACKED_PRECISION)]
fn log_probabilities_of_smollm2_equal_those_of_mlx_lm(#[case] precision: Precision) {
    let Some(path) = smollm2() else { return };
    let model = ModelSource::Gguf(path).load(precision).unwrap().model;
    let golden = golden("smollm2-logprobs.json");
    // The packed kernels are some ten times slower on a CPU, so one text has to do for them.
    let texts = if precision.keep_packed { 1 } else { usize::MAX };
    for text in golden["texts"].as_array().unwrap().iter().take(texts) {
        let ids = tokens(&text["ids"]);
        let logits = model.logits(&ids).unwrap();
        let next = ids.take_axis(Array::from_iter(1..ids.dim(1), &[ids.dim(1) - 1]), 1).unwrap();
        let logits = logits.take_axis(Array::from_iter(0..ids.dim(1) - 1, &[ids.dim(1) - 1]), 1).unwrap();
        let log_probabilities = logits.subtract(logits.logsumexp_axis(-1, true).unwrap()).unwrap();
        let picked = take_along_axis(&log_probabilities, next.reshape(&[1, -1, 1]).unwrap(), -1).unwrap();
        let found = picked.to_vec_exact::<f32>().unwrap();
        let difference = largest_difference(&found, &floats(&text["next_logprob"]));
        assert!(difference <= REAL_LOG_PROBABILITIES, "{}: {difference}", text["name"]);
    }
}
