//! The checks for other people's tests, on this program's own models.
//!
//! `examples/checks-on-your-model` has a passing and a failing case for each on a model of its own.

use mlx_diagnose::adapter::{LoraSettings, attach};
use mlx_diagnose::checks::{
    ParameterSnapshot, adapter_is_identity, assert_adapter_is_identity, assert_every_weight_is_seen,
    assert_file_is_covered, assert_finite, every_weight_is_seen, file_is_covered, finite, only_changed,
};
use mlx_diagnose::model::{CausalModel, ModelSource};
use mlx_rs::Array;
use mlx_rs::module::Param;
use rstest::rstest;

use crate::support::golden::{EXACT_PRECISION, PACKED_PRECISION, row, tiny};

fn model(name: &str) -> CausalModel {
    ModelSource::Folder(tiny(name)).load(EXACT_PRECISION).unwrap().model
}

fn tokens() -> Array {
    row(&[1, 5, 9, 3])
}

#[rstest]
fn every_architecture_lists_all_its_weights(
    #[values("llama", "llama-untied", "mistral", "qwen2", "qwen3")] name: &str,
) {
    let tokens = tokens();
    assert_every_weight_is_seen(&mut model(name), &[&tokens], &[], |model| model.logits(&tokens));
}

#[test]
fn packed_weights_are_seen_too() {
    let tokens = tokens();
    let mut packed = ModelSource::Folder(tiny("llama-4bit"))
        .load(PACKED_PRECISION)
        .unwrap()
        .model;
    assert!(packed.is_packed());
    assert_every_weight_is_seen(&mut packed, &[&tokens], &[], |model| model.logits(&tokens));
}

#[test]
fn a_block_that_is_skipped_is_named() {
    let tokens = tokens();
    let mut model = model("llama");
    let failure = every_weight_is_seen(&mut model, &[&tokens], &["model.norm.*"], |model| {
        let mut shortened = model.clone();
        shortened.model.layers.truncate(1);
        shortened.logits(&tokens)
    })
    .unwrap_err();
    assert_eq!(
        failure.headline,
        "the model lists parameters that its output does not depend on"
    );
    assert!(
        failure.found[0].starts_with("listed and not used: `model.layers.1.input_layernorm.weight`, "),
        "{failure}"
    );
}

#[test]
fn an_array_under_two_paths_is_used_under_both() {
    let tokens = tokens();
    let mut model = model("llama");
    let shared = model.model.layers[0].norms_mut()[0].weight.value.clone();
    model.model.layers[1].norms_mut()[0].weight = Param::new(shared);
    assert_every_weight_is_seen(&mut model, &[&tokens], &[], |model| model.logits(&tokens));
}

/// A table that the model keeps and does not list is a constant once it is given as an input.
#[test]
fn what_is_no_parameter_is_told_by_its_shape_unless_it_is_an_input() {
    let tokens = tokens();
    let mut model = model("llama");
    let bias = Array::from_slice(&[0.5_f32; 7], &[7]);
    let forward = |model: &mut CausalModel| model.logits(&tokens)?.sum(None)?.add(bias.sum(None)?);
    let failure = every_weight_is_seen(&mut model, &[&tokens], &[], forward).unwrap_err();
    assert_eq!(failure.found, ["used and not listed: (7) in float32"]);
    assert_every_weight_is_seen(&mut model, &[&tokens, &bias], &[], forward);
}

#[rstest]
fn the_parameters_are_those_of_the_checkpoint(#[values("llama", "qwen2", "qwen3", "mistral")] name: &str) {
    assert_file_is_covered(&model(name), &tiny(name).join("model.safetensors"), &[]);
}

#[test]
fn another_architectures_file_is_not_covered() {
    let failure = file_is_covered(&model("llama"), &tiny("qwen3").join("model.safetensors"), &[]).unwrap_err();
    assert!(
        failure.to_string().contains("`model.layers.0.self_attn.k_norm.weight`"),
        "{failure}"
    );
    let failure = file_is_covered(&model("llama"), &tiny("llama").join("config.json"), &[]).unwrap_err();
    assert_eq!(failure.headline, "the weight file cannot be read");
}

#[test]
fn fresh_adapters_are_the_identity_until_one_is_moved() {
    let mut adapted = model("llama");
    let before = adapted.logits(&tokens()).unwrap();
    attach(&mut adapted, &LoraSettings::default(), 0).unwrap();
    let snapshot = ParameterSnapshot::capture(&adapted);
    let after = adapted.logits(&tokens()).unwrap();
    assert_adapter_is_identity(&adapted, &before, &after, &["*.lora_b"]);
    assert_finite(&adapted);

    let (path, linear) = adapted.linears_mut().remove(0);
    let moved = linear
        .lora_b
        .value
        .as_ref()
        .unwrap()
        .add(Array::from_f32(1e-3))
        .unwrap();
    linear.lora_b = Param::new(Some(moved));
    let after = adapted.logits(&tokens()).unwrap();
    let failure = adapter_is_identity(&adapted, &before, &after, &["*.lora_b"]).unwrap_err();
    assert_eq!(failure.found[1], format!("not zero: `{path}.lora_b` (up to 1.000e-3)"));
    let moved = ParameterSnapshot::capture(&adapted);
    only_changed(&snapshot, &moved, &[&format!("{path}.lora_b")]).unwrap();
    assert!(only_changed(&snapshot, &moved, &["*.lora_b"]).is_err());
}

#[test]
fn many_names_are_cut_and_counted() {
    let mut spoilt = model("llama");
    for (_, linear) in spoilt.linears_mut() {
        let weight = linear.weight.multiply(Array::from_f32(f32::NAN)).unwrap();
        linear.weight = Param::new(weight);
    }
    let count = spoilt.linears().len();
    let failure = finite(&spoilt).unwrap_err();
    assert!(
        failure.found[0].ends_with(&format!(" and {} more", count - 10)),
        "{failure}"
    );
}
