//! The forward pass against Python mlx-lm on the same weights (`fixtures/golden`, made by `scripts/peers`).

use mlx_diagnose::model::{ModelSource, Precision};
use mlx_rs::Array;
use mlx_rs::ops::indexing::take_along_axis;
use rstest::rstest;

use crate::support::golden::{
    EXACT_PRECISION, PACKED_PRECISION, floats, golden, ids, largest_difference, row, smollm2, tiny,
};
use crate::support::tolerances::LOGITS;

/// Largest difference allowed between log-probabilities of the real model.
const REAL_LOG_PROBABILITIES: f32 = 1e-3;

#[rstest]
#[case::plain("llama", EXACT_PRECISION)]
#[case::untied("llama-untied", EXACT_PRECISION)]
#[case::llama3_rope_scaling("llama-rope-scaling", EXACT_PRECISION)]
#[case::four_bit_with_an_eight_bit_override("llama-4bit", EXACT_PRECISION)]
#[case::four_bit_kept_packed("llama-4bit", PACKED_PRECISION)]
#[case::floating_point_modes("llama-floats", EXACT_PRECISION)]
#[case::floating_point_modes_kept_packed("llama-floats", PACKED_PRECISION)]
#[case::mistral("mistral", EXACT_PRECISION)]
#[case::qwen2("qwen2", EXACT_PRECISION)]
#[case::qwen3("qwen3", EXACT_PRECISION)]
#[case::mixtral("mixtral", EXACT_PRECISION)]
#[case::gpt2("gpt2", EXACT_PRECISION)]
fn logits_equal_those_of_mlx_lm(#[case] name: &str, #[case] precision: Precision) {
    let golden = golden(&format!("tiny/{name}/golden.json"));
    let loaded = ModelSource::Folder(tiny(name)).load(precision).unwrap();
    let logits = loaded.model.logits(&row(&ids(&golden["input_ids"]))).unwrap();
    let found = logits.to_vec_exact::<f32>().unwrap();
    let difference = largest_difference(&found, &floats(&golden["logits"]));
    assert!(difference <= LOGITS, "{name}: {difference}");
}

#[rstest]
#[case::simple_types("simple-types", EXACT_PRECISION)]
#[case::simple_types_kept_packed("simple-types", PACKED_PRECISION)]
#[case::k_quants("k-quants", EXACT_PRECISION)]
fn logits_of_gguf_files_equal_those_of_mlx_lm(#[case] name: &str, #[case] precision: Precision) {
    let golden = golden(&format!("gguf/{name}.json"));
    let path = crate::support::golden::root().join(format!("fixtures/golden/gguf/{name}.gguf"));
    let model = ModelSource::Gguf(path).load(precision).unwrap().model;
    let logits = model.logits(&row(&ids(&golden["input_ids"]))).unwrap();
    let difference = largest_difference(&logits.to_vec_exact::<f32>().unwrap(), &floats(&golden["logits"]));
    assert!(difference <= LOGITS, "{name}: {difference}");
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
        let ids = row(&ids(&text["ids"]));
        let logits = model.logits(&ids).unwrap();
        let predicted = ids.dim(1) - 1;
        let next = ids.take_axis(Array::from_iter(1..=predicted, &[predicted]), 1).unwrap();
        let logits = logits
            .take_axis(Array::from_iter(0..predicted, &[predicted]), 1)
            .unwrap();
        let log_probabilities = logits.subtract(logits.logsumexp_axis(-1, true).unwrap()).unwrap();
        let picked = take_along_axis(&log_probabilities, next.reshape(&[1, -1, 1]).unwrap(), -1).unwrap();
        let found = picked.to_vec_exact::<f32>().unwrap();
        let difference = largest_difference(&found, &floats(&text["next_logprob"]));
        assert!(difference <= REAL_LOG_PROBABILITIES, "{}: {difference}", text["name"]);
    }
}
