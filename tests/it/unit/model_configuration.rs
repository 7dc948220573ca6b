//! The configuration of each architecture, and fresh models of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mlx_diagnose::model::{ConfigurationError, Experts, ModelConfiguration, RopeScaling, WeightType, initialise};
use mlx_rs::Array;
use mlx_rs::module::ModuleParameters;
use rstest::rstest;
use serde_json::{Map, Value, json};

use crate::integration::architecture_parity::{GOLDEN_MODELS, folder, load};
use crate::support::golden::row;

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

/// The golden model's configuration as transformers wrote it, with some fields changed or, where null, removed.
fn changed(name: &str, changes: Value) -> Map<String, Value> {
    let text = fs::read_to_string(folder(name).join("config.json")).unwrap();
    let mut configuration = object(serde_json::from_str(&text).unwrap());
    for (key, value) in object(changes) {
        if value.is_null() {
            configuration.shift_remove(&key);
        } else {
            configuration.insert(key, value);
        }
    }
    configuration
}

fn configure(object: &Map<String, Value>) -> Result<ModelConfiguration, ConfigurationError> {
    ModelConfiguration::from_json(Path::new("config.json"), object)
}

fn read(name: &str, changes: Value) -> ModelConfiguration {
    configure(&changed(name, changes)).unwrap()
}

fn message(name: &str, changes: Value) -> String {
    configure(&changed(name, changes)).unwrap_err().to_string()
}

#[rstest]
#[case::mistral("mistral", json!({"max_position_embeddings": null}), 131_072)]
#[case::gemma3("gemma3_text", json!({"max_position_embeddings": null}), 32_768)]
#[case::phi3("phi3", json!({"max_position_embeddings": null}), 4096)]
#[case::mixtral("mixtral", json!({"max_position_embeddings": null}), 131_072)]
fn a_context_that_is_not_given_is_that_of_the_family(
    #[case] name: &str,
    #[case] changes: Value,
    #[case] context: usize,
) {
    assert_eq!(read(name, changes).max_position_embeddings, context);
}

#[rstest]
#[case::llama("llama", 10_000.0)]
#[case::mistral("mistral", 10_000.0)]
#[case::qwen2("qwen2", 1_000_000.0)]
#[case::gemma3("gemma3_text", 1_000_000.0)]
#[case::phi3("phi3", 10_000.0)]
#[case::mixtral("mixtral", 1_000_000.0)]
fn a_rotary_base_that_is_not_given_is_that_of_the_family(#[case] name: &str, #[case] base: f64) {
    let read = read(name, json!({"rope_parameters": null}));
    assert_eq!(read.rope_theta, base);
    assert_eq!(read.rope_scaling, RopeScaling::None);
}

#[rstest]
#[case::llama("llama", true)]
#[case::mistral("mistral", true)]
#[case::gemma3("gemma3_text", true)]
#[case::phi3("phi3", false)]
#[case::mixtral("mixtral", false)]
#[case::gpt2("gpt2", true)]
fn an_output_layer_is_tied_by_default_where_mlx_lm_ties_it(#[case] name: &str, #[case] tied: bool) {
    assert_eq!(
        read(name, json!({"tie_word_embeddings": null})).tie_word_embeddings,
        tied
    );
}

#[test]
fn gemma3_has_defaults_for_heads_scale_and_pattern() {
    let read = read(
        "gemma3_text",
        json!({
            "head_dim": null, "query_pre_attn_scalar": null, "layer_types": null, "sliding_window_pattern": null,
            "rope_parameters": null, "num_hidden_layers": 13
        }),
    );
    assert_eq!((read.head_dim, read.query_pre_attn_scalar), (256, Some(256.0)));
    assert_eq!(read.rope_local_base_freq, Some(10_000.0));
    let full: Vec<usize> = (0..13).filter(|&layer| !read.is_sliding(layer)).collect();
    assert_eq!(full, [5, 11]);
    assert_eq!((read.window(0), read.window(5)), (Some(6), None));
}

#[test]
fn gemma3_reads_the_older_names_of_its_bases() {
    let older = read(
        "gemma3_text",
        json!({
            "rope_parameters": null, "rope_theta": 2e6, "rope_local_base_freq": 5e3,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0}
        }),
    );
    assert_eq!((older.rope_theta, older.rope_local_base_freq), (2e6, Some(5e3)));
    assert_eq!(older.rope_scaling, RopeScaling::Linear { factor: 4.0 });
}

#[test]
fn gemma3_reads_its_bases_by_kind_of_layer() {
    let read = read("gemma3_text", json!({}));
    assert_eq!((read.rope_theta, read.rope_local_base_freq), (1e6, Some(1e4)));
    assert_eq!(read.rope_scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!(read.sliding_layers, [true, false, true]);
}

#[rstest]
#[case::newer(json!({}))]
#[case::older(json!({"rope_parameters": null, "partial_rotary_factor": 0.5}))]
fn phi3_turns_the_part_of_a_head_that_either_spelling_says(#[case] changes: Value) {
    let read = read("phi3", changes);
    assert_eq!((read.head_dim, read.rotary_dimensions()), (4, 2));
    assert_eq!((read.sliding_window, read.window(1)), (Some(9), Some(9)));
}

#[rstest]
#[case::newer(json!({}))]
#[case::older(json!({
    "rope_parameters": null,
    "rope_scaling": {"type": "su", "short_factor": [1.0, 1.5], "long_factor": [1.25, 4.0]}
}))]
fn phi3_reads_a_long_context_in_either_spelling(#[case] changes: Value) {
    let read = read("phi3-longrope", changes);
    let expected = RopeScaling::LongRope {
        short_factor: vec![1.0, 1.5],
        long_factor: vec![1.25, 4.0],
        original_max_position_embeddings: 8,
    };
    assert_eq!(read.rope_scaling, expected);
    assert!(read.notes()[0].contains("up to 8 tokens"), "{:?}", read.notes());
}

#[test]
fn mixtral_says_how_many_experts_there_are_and_how_many_a_token_takes() {
    let expected = Experts {
        num_local_experts: 4,
        num_experts_per_tok: 2,
    };
    assert_eq!(read("mixtral", json!({})).experts, Some(expected));
}

#[test]
fn gpt2_names_its_sizes_in_its_own_way() {
    let read = read("gpt2", json!({"layer_norm_epsilon": null}));
    assert_eq!((read.hidden_size, read.num_hidden_layers, read.head_dim), (16, 2, 4));
    assert_eq!((read.intermediate_size, read.max_position_embeddings), (64, 96));
    assert_eq!((read.rms_norm_eps, read.tie_word_embeddings), (1e-5, true));
}

#[test]
fn gpt2_may_have_another_inner_width() {
    let read = read("gpt2", json!({"n_inner": 40}));
    let shapes: BTreeMap<String, Vec<usize>> = read.expected_tensors().into_iter().collect();
    assert_eq!(shapes["model.h.1.mlp.c_fc.weight"], [40, 16]);
    assert_eq!(shapes["model.h.1.mlp.c_proj.weight"], [16, 40]);
}

#[rstest]
#[case::gemma3_activation("gemma3_text", json!({"hidden_activation": "gelu"}), "hidden_activation: found `gelu`, expected `gelu_pytorch_tanh`")]
#[case::gemma3_cap("gemma3_text", json!({"final_logit_softcapping": 30.0}), "final_logit_softcapping: found 30")]
#[case::gemma3_both_ways("gemma3_text", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention: found true")]
#[case::gemma3_bias("gemma3_text", json!({"attention_bias": true}), "attention_bias: found true, expected false for gemma3_text")]
#[case::gemma3_window("gemma3_text", json!({"sliding_window": null}), "sliding_window: found no value")]
#[case::gemma3_key_heads("gemma3_text", json!({"num_key_value_heads": null}), "num_key_value_heads: found no value")]
#[case::gemma3_kind("gemma3_text", json!({"layer_types": ["sliding_attention", "chunked_attention", "full_attention"]}), "layer_types[1]: found `chunked_attention`")]
#[case::gemma3_layers("gemma3_text", json!({"layer_types": ["sliding_attention"]}), "layer_types: found 1 layers, expected num_hidden_layers, 3")]
#[case::gemma3_pattern("gemma3_text", json!({"sliding_window_pattern": 3}), "sliding_window_pattern: found 3, expected the pattern of layer_types")]
#[case::phi3_share("phi3", json!({"partial_rotary_factor": 1.5}), "partial_rotary_factor: found 1.5, expected at most 1")]
#[case::phi3_odd_share("phi3", json!({"partial_rotary_factor": 0.25}), "partial_rotary_factor: found 0.25 of 4 values, expected an even number")]
#[case::phi3_nothing_turned("phi3", json!({"partial_rotary_factor": 0.1}), "partial_rotary_factor: found 0.1 of 4 values")]
#[case::phi3_factors("phi3-longrope", json!({"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 2.0, 3.0]}}), "rope_scaling.long_factor: found 3 factors, expected one for each pair of rotated values, 2")]
#[case::phi3_no_factors("phi3-longrope", json!({"rope_parameters": {"rope_type": "longrope"}}), "rope_parameters.long_factor: found no value")]
#[case::phi3_negative_factor("phi3-longrope", json!({"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [1.0, -2.0]}}), "rope_parameters.long_factor: found an array, expected an array of positive numbers")]
#[case::phi3_yarn("phi3", json!({"rope_scaling": {"type": "yarn", "factor": 2.0}}), "rope_scaling.rope_type: found `yarn`, expected `default`, `linear`, `llama3` or `longrope`")]
#[case::mixtral_no_experts("mixtral", json!({"num_local_experts": null}), "num_local_experts: found no value")]
#[case::mixtral_zero_experts("mixtral", json!({"num_local_experts": 0}), "num_local_experts: found 0")]
#[case::mixtral_too_many_taken("mixtral", json!({"num_experts_per_tok": 5}), "num_experts_per_tok: found 5, expected at most num_local_experts, 4")]
#[case::gpt2_indivisible("gpt2", json!({"n_head": 5}), "n_embd: found 16, expected a multiple of n_head, 5")]
#[case::gpt2_activation("gpt2", json!({"activation_function": "relu"}), "activation_function: found `relu`, expected `gelu_new`")]
#[case::gpt2_unscaled("gpt2", json!({"scale_attn_weights": false}), "scale_attn_weights: found false")]
#[case::gpt2_by_layer("gpt2", json!({"scale_attn_by_inverse_layer_idx": true}), "scale_attn_by_inverse_layer_idx: found true")]
#[case::gpt2_untied("gpt2", json!({"tie_word_embeddings": false}), "tie_word_embeddings: found false, expected true for gpt2")]
#[case::gpt2_no_positions("gpt2", json!({"n_positions": null}), "n_positions: found no value")]
fn an_impossible_value_is_named_with_what_was_expected(#[case] name: &str, #[case] changes: Value, #[case] part: &str) {
    let message = message(name, changes);
    assert!(message.contains(part), "{message}");
}

#[rstest]
#[case::gemma3("gemma3_text", json!({"head_dim": 0, "sliding_window": -1, "hidden_act": "silu", "vocab_size": "x"}), &["head_dim", "sliding_window", "hidden_act", "vocab_size"])]
#[case::phi3("phi3", json!({"hidden_act": "gelu", "attention_bias": true, "sliding_window": 0.5, "rms_norm_eps": 0}), &["hidden_act", "attention_bias", "sliding_window", "rms_norm_eps"])]
#[case::mixtral("mixtral", json!({"num_local_experts": 0, "num_experts_per_tok": 0, "hidden_size": 0}), &["num_local_experts", "num_experts_per_tok", "hidden_size"])]
#[case::gpt2("gpt2", json!({"n_embd": 0, "n_layer": null, "n_head": 1.5, "layer_norm_epsilon": 0}), &["n_embd", "n_layer", "n_head", "layer_norm_epsilon"])]
fn all_impossible_values_are_reported_at_once(#[case] name: &str, #[case] changes: Value, #[case] keys: &[&str]) {
    let message = message(name, changes);
    for key in keys {
        assert!(message.contains(&format!("{key}: found")), "{key}: {message}");
    }
}

#[rstest]
#[case::mistral("mistral", "attention is limited to the 7 tokens")]
#[case::phi3("phi3", "attention is limited to the 9 tokens")]
fn a_window_that_mlx_lm_does_not_know_is_noted(#[case] name: &str, #[case] part: &str) {
    let notes = read(name, json!({})).notes().join("\n");
    assert!(notes.contains(part), "{notes}");
    assert!(notes.contains("mlx-lm's is full"), "{notes}");
}

#[test]
fn a_window_that_both_know_needs_no_note() {
    assert!(read("gemma3_text", json!({})).notes().is_empty());
}

#[test]
fn a_window_of_qwen2_is_noted_and_limits_nothing() {
    let read = read(
        "qwen2",
        json!({"sliding_window": 8, "use_sliding_window": true, "layer_types": null}),
    );
    assert_eq!((read.sliding_window, read.window(0)), (Some(8), None));
    assert!(
        read.notes()[0].contains("attention is full, as in mlx-lm"),
        "{:?}",
        read.notes()
    );
}

#[test]
fn what_is_written_reads_the_same() {
    for name in GOLDEN_MODELS {
        let configuration = ModelConfiguration {
            dtype: Some(WeightType::Bfloat16),
            eos_token_ids: vec![2, 5],
            ..read(name, json!({}))
        };
        let written = object(configuration.to_json());
        assert_eq!(configure(&written).unwrap(), configuration, "{name}");
    }
}

#[test]
fn the_predicted_tensors_are_those_of_the_model() {
    for name in GOLDEN_MODELS {
        let loaded = load(name);
        let parameters = loaded.model.parameters().flatten();
        let shape = |array: &Array| array.shape().iter().map(|&size| size as usize).collect::<Vec<_>>();
        let found: BTreeMap<String, Vec<usize>> = parameters
            .into_iter()
            .map(|(name, array)| (name.to_string(), shape(array)))
            .collect();
        let predicted: BTreeMap<_, _> = loaded.configuration.expected_tensors().into_iter().collect();
        assert_eq!(found, predicted, "{name}");
    }
}

#[test]
fn fresh_weights_are_decided_by_the_seed_alone() {
    for name in GOLDEN_MODELS {
        let configuration = read(name, json!({}));
        let logits = |seed: u64| -> Vec<f32> {
            let model = initialise(&configuration, seed).unwrap();
            model.logits(&row(&[3, 4, 5, 6])).unwrap().to_vec_exact().unwrap()
        };
        assert_eq!(logits(1), logits(1), "{name}");
        assert_ne!(logits(1), logits(2), "{name}");
        assert!(logits(1).iter().all(|logit| logit.is_finite()), "{name}");
    }
}

/// A norm that does nothing but normalise: the factor is 1, of which gemma3's weight lacks the 1.
#[rstest]
#[case::llama("llama", "model.norm.weight", 1.0)]
#[case::gemma3("gemma3_text", "model.norm.weight", 0.0)]
#[case::gemma3_head("gemma3_text", "model.layers.1.self_attn.q_norm.weight", 0.0)]
#[case::gpt2("gpt2", "model.h.1.ln_2.weight", 1.0)]
#[case::gpt2_bias("gpt2", "model.ln_f.bias", 0.0)]
#[case::bias("llama", "model.layers.0.self_attn.q_proj.bias", 0.0)]
fn fresh_norms_have_a_factor_of_one_and_fresh_biases_are_zero(
    #[case] name: &str,
    #[case] tensor: &str,
    #[case] value: f32,
) {
    let model = initialise(&read(name, json!({})), 0).unwrap();
    let values = model.parameters().flatten()[tensor].to_vec_exact::<f32>().unwrap();
    assert!(values.iter().all(|&found| found == value), "{values:?}");
}

/// Standard deviations are 0.02, and for what writes into the residual stream 0.02 over the root of twice the blocks.
#[rstest]
#[case::experts("mixtral", "model.layers.0.block_sparse_moe.switch_mlp.up_proj.weight", 0.02)]
#[case::experts_out("mixtral", "model.layers.0.block_sparse_moe.switch_mlp.down_proj.weight", 0.01)]
#[case::gpt2_in("gpt2", "model.h.0.mlp.c_fc.weight", 0.02)]
#[case::gpt2_out("gpt2", "model.h.0.mlp.c_proj.weight", 0.01)]
#[case::phi3_in("phi3", "model.layers.1.mlp.gate_up_proj.weight", 0.02)]
#[case::phi3_out("phi3", "model.layers.1.mlp.down_proj.weight", 0.01)]
fn fresh_matrices_are_spread_as_gpt2s(#[case] name: &str, #[case] tensor: &str, #[case] deviation: f32) {
    let model = initialise(&read(name, json!({})), 0).unwrap();
    let values = model.parameters().flatten()[tensor].to_vec_exact::<f32>().unwrap();
    let square: f32 = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
    // Some hundred values: their deviation is within a tenth of the one drawn from.
    assert!((square.sqrt() / deviation - 1.0).abs() < 0.1, "{}", square.sqrt());
}
