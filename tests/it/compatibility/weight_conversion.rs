//! The names and layouts in which files hold the tensors of each architecture.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mlx_diagnose::model::{
    LoadError, LoadedModel, ModelSource, load_safetensors, pack_folder, save_safetensors, write_plain_folder,
};
use mlx_diagnose::model::{ModelConfiguration, Packing, initialise};
use mlx_rs::module::ModuleParameters;
use mlx_rs::ops::{concatenate, stack};
use mlx_rs::{Array, Dtype};
use rstest::rstest;
use rstest_reuse::apply;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::integration::architecture_parity::{every_golden_model, folder, load, numbers};
use crate::support::golden::{EXACT_PRECISION, PACKED_PRECISION, ids, largest_difference, row};

type Tensors = BTreeMap<String, Array>;

/// A copy of a golden model's folder whose tensors and configuration were changed.
fn changed(name: &str, change: impl FnOnce(&mut Tensors, &mut Value)) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let mut tensors = load_safetensors(&folder(name).join("model.safetensors")).unwrap();
    let text = fs::read_to_string(folder(name).join("config.json")).unwrap();
    let mut configuration: Value = serde_json::from_str(&text).unwrap();
    change(&mut tensors, &mut configuration);
    save_safetensors(&tensors, None, &copy.path().join("model.safetensors")).unwrap();
    fs::write(copy.path().join("config.json"), configuration.to_string()).unwrap();
    copy
}

fn loaded(folder: &Path) -> Result<LoadedModel, LoadError> {
    ModelSource::Folder(folder.to_owned()).load(EXACT_PRECISION)
}

fn message(folder: &Path) -> String {
    loaded(folder).unwrap_err().to_string()
}

fn logits(model: &LoadedModel, name: &str) -> Vec<f32> {
    let tokens = row(&ids(&numbers(name)["input_ids"]));
    model.model.logits(&tokens).unwrap().to_vec_exact().unwrap()
}

/// Bit for bit: another layout of the same values changes nothing.
fn assert_same(folder: &Path, name: &str) {
    let found = loaded(folder).unwrap();
    assert_eq!(logits(&found, name), logits(&load(name), name), "{name}");
}

/// The tensors under mlx-lm's names, as `mlx_lm.convert` saves them.
fn in_mlx_lm(name: &str) -> Tensors {
    load(name)
        .model
        .parameters()
        .flatten()
        .into_iter()
        .map(|(name, array)| (name.to_string(), array.clone()))
        .collect()
}

#[rstest]
fn files_that_mlx_lm_converted_are_the_same_model(
    #[values("llama", "qwen3", "gemma3_text", "phi3", "mixtral", "gpt2")] name: &str,
) {
    let copy = changed(name, |tensors, _| *tensors = in_mlx_lm(name));
    assert_same(copy.path(), name);
}

#[apply(every_golden_model)]
fn a_plain_folder_is_the_same_model_in_the_names_of_transformers(name: &str) {
    let copy = tempfile::tempdir().unwrap();
    let original = load(name);
    write_plain_folder(&original.model, &original.configuration, copy.path()).unwrap();
    let names = |folder: &Path| -> Vec<String> {
        let tensors = load_safetensors(&folder.join("model.safetensors")).unwrap();
        tensors.into_keys().collect()
    };
    assert_eq!(names(copy.path()), names(&folder(name)));
    let again = loaded(copy.path()).unwrap();
    assert_eq!(again.configuration, original.configuration);
    assert_same(copy.path(), name);
}

#[test]
fn gpt2_without_the_prefix_of_the_whole_model_is_the_same() {
    let copy = changed("gpt2", |tensors, _| {
        let bare = |name: String| name.strip_prefix("transformer.").unwrap().to_owned();
        *tensors = std::mem::take(tensors)
            .into_iter()
            .map(|(name, array)| (bare(name), array))
            .collect();
    });
    assert_same(copy.path(), "gpt2");
}

#[rstest]
#[case::whole_model("transformer.")]
#[case::bare_decoder("")]
fn mask_buffers_of_gpt2_are_left_out_with_their_reason(#[case] prefix: &str) {
    let copy = changed("gpt2", |tensors, _| {
        for layer in 0..2 {
            let mask = Array::ones::<f32>(&[1, 1, 96, 96]).unwrap();
            tensors.insert(format!("{prefix}h.{layer}.attn.bias"), mask);
            tensors.insert(format!("{prefix}h.{layer}.attn.masked_bias"), Array::from_f32(-1e4));
        }
    });
    assert_same(copy.path(), "gpt2");
    let found = loaded(copy.path()).unwrap();
    assert_eq!(found.set_aside.len(), 4);
    let notes = found.notes().join("\n");
    for part in [
        format!("{prefix}h.0.attn.bias"),
        "causal mask".to_owned(),
        format!("{prefix}h.1.attn.masked_bias"),
    ] {
        assert!(notes.contains(&part), "{notes}");
    }
}

#[test]
fn a_buffer_that_is_not_in_the_list_is_not_left_out() {
    let copy = changed("gpt2", |tensors, _| {
        tensors.insert("transformer.h.0.attn.rotary".to_owned(), Array::from_f32(1.0));
        tensors.insert("transformer.h.x.attn.bias".to_owned(), Array::from_f32(1.0));
    });
    let message = message(copy.path());
    assert!(message.contains("unexpected (2)"), "{message}");
    assert!(message.contains("transformer.h.0.attn.rotary"), "{message}");
}

#[test]
fn an_output_layer_that_repeats_the_embedding_of_gpt2_is_left_out() {
    let copy = changed("gpt2", |tensors, _| {
        let table = tensors["transformer.wte.weight"].clone();
        tensors.insert("lm_head.weight".to_owned(), table);
    });
    assert_same(copy.path(), "gpt2");
}

/// The experts as transformers 5 has them in memory: gate and up in one tensor for all experts.
fn stacked_by_transformers(tensors: &mut Tensors) {
    for layer in 0..2 {
        let block = format!("model.layers.{layer}");
        let mut of = |expert: usize, matrix: &str| {
            tensors
                .remove(&format!("{block}.block_sparse_moe.experts.{expert}.{matrix}.weight"))
                .unwrap()
        };
        let both = |expert, of: &mut dyn FnMut(usize, &str) -> Array| {
            concatenate(&[of(expert, "w1"), of(expert, "w3")], 0).unwrap()
        };
        let gate_up: Vec<Array> = (0..4).map(|expert| both(expert, &mut of)).collect();
        let down: Vec<Array> = (0..4).map(|expert| of(expert, "w2")).collect();
        let gate = tensors
            .remove(&format!("{block}.block_sparse_moe.gate.weight"))
            .unwrap();
        tensors.insert(format!("{block}.mlp.experts.gate_up_proj"), stack(&gate_up, 0).unwrap());
        tensors.insert(format!("{block}.mlp.experts.down_proj"), stack(&down, 0).unwrap());
        tensors.insert(format!("{block}.mlp.gate.weight"), gate);
    }
}

#[test]
fn experts_under_the_newer_names_of_transformers_are_the_same() {
    let copy = changed("mixtral", |tensors, _| stacked_by_transformers(tensors));
    assert_same(copy.path(), "mixtral");
}

#[test]
fn a_missing_expert_is_named_and_the_others_are_not_called_unexpected() {
    let lost = "model.layers.1.block_sparse_moe.experts.3.w3.weight";
    let copy = changed("mixtral", |tensors, _| {
        tensors.remove(lost).unwrap();
    });
    let message = message(copy.path());
    assert!(message.contains(&format!("missing (1): {lost}")), "{message}");
    assert!(!message.contains("unexpected"), "{message}");
}

#[test]
fn an_expert_of_another_shape_is_named() {
    let name = "model.layers.0.block_sparse_moe.experts.2.w2.weight";
    let copy = changed("mixtral", |tensors, _| {
        tensors.insert(name.to_owned(), Array::ones::<f32>(&[16, 25]).unwrap());
    });
    let message = message(copy.path());
    assert!(
        message.contains(&format!("wrong shape (1): {name} (found [16, 25], expected [16, 24])")),
        "{message}"
    );
}

#[test]
fn more_experts_than_the_configuration_has_are_unexpected() {
    let copy = changed("mixtral", |_, configuration| {
        configuration["num_local_experts"] = json!(3);
    });
    let message = message(copy.path());
    assert!(message.contains("experts.3.w1.weight"), "{message}");
    assert!(
        message.contains("block_sparse_moe.gate.weight (found [4, 16]"),
        "{message}"
    );
}

#[test]
fn the_same_experts_twice_are_not_taken_once_in_silence() {
    let copy = changed("mixtral", |tensors, _| {
        let mut twice = tensors.clone();
        stacked_by_transformers(&mut twice);
        tensors.extend(twice);
    });
    let message = message(copy.path());
    assert!(message.contains("unexpected"), "{message}");
    assert!(message.contains("mlp.experts.gate_up_proj"), "{message}");
}

#[rstest]
#[case::llama("llama", "model.layers.1.mlp.up_proj.bias")]
#[case::mistral("mistral", "model.layers.0.self_attn.v_proj.weight")]
#[case::qwen2("qwen2", "model.layers.0.self_attn.k_proj.bias")]
#[case::qwen3("qwen3", "model.layers.1.self_attn.q_norm.weight")]
#[case::gemma3("gemma3_text", "model.layers.2.pre_feedforward_layernorm.weight")]
#[case::phi3("phi3", "model.layers.0.self_attn.qkv_proj.weight")]
#[case::mixtral("mixtral", "model.layers.0.block_sparse_moe.gate.weight")]
fn missing_unused_and_misshapen_tensors_are_listed_at_once(#[case] name: &str, #[case] lost: &str) {
    let copy = changed(name, |tensors, _| {
        tensors.remove(lost).unwrap();
        tensors.insert("model.norm.bias".to_owned(), Array::from_f32(1.0));
        tensors.insert("model.norm.weight".to_owned(), Array::ones::<f32>(&[3]).unwrap());
    });
    let message = message(copy.path());
    for part in [
        format!("missing (1): {lost}"),
        "unexpected (1): model.norm.bias".to_owned(),
        "wrong shape (1): model.norm.weight (found [3], expected [16])".to_owned(),
    ] {
        assert!(message.contains(&part), "{message}");
    }
}

#[test]
fn a_transposed_matrix_of_gpt2_of_another_shape_is_listed_under_the_models_name() {
    let copy = changed("gpt2", |tensors, _| {
        tensors.remove("transformer.wpe.weight").unwrap();
        // Not transposed, as mlx-lm has it, under the name of transformers.
        let matrix = tensors["transformer.h.0.mlp.c_fc.weight"].t().contiguous().unwrap();
        tensors.insert("transformer.h.0.mlp.c_fc.weight".to_owned(), matrix);
    });
    let message = message(copy.path());
    assert!(message.contains("missing (1): model.wpe.weight"), "{message}");
    assert!(
        message.contains("model.h.0.mlp.c_fc.weight (found [16, 64], expected [64, 16])"),
        "{message}"
    );
}

#[rstest]
fn weights_of_sixteen_bits_are_widened(
    #[values("gemma3_text", "phi3", "mixtral", "gpt2")] name: &str,
    #[values(Dtype::Float16, Dtype::Bfloat16)] dtype: Dtype,
) {
    let copy = changed(name, |tensors, _| {
        for array in tensors.values_mut() {
            *array = array.as_dtype(dtype).unwrap();
        }
    });
    let found = loaded(copy.path()).unwrap();
    assert_eq!(found.stored_dtype, format!("{dtype:?}").to_lowercase());
    let parameters = found.model.parameters().flatten();
    for (path, original) in in_mlx_lm(name) {
        let rounded = original.as_dtype(dtype).unwrap().as_dtype(Dtype::Float32).unwrap();
        let array = parameters[path.as_str()];
        assert_eq!(array.dtype(), Dtype::Float32);
        assert!(array.eq_values(&rounded).unwrap(), "{path}");
    }
}

#[test]
fn experts_of_different_element_types_are_all_taken() {
    let name = "model.layers.0.block_sparse_moe.experts.0.w1.weight";
    let halved = |array: &Array| array.as_dtype(Dtype::Float16).unwrap();
    let mixed = changed("mixtral", |tensors, _| {
        tensors.insert(name.to_owned(), halved(&tensors[name]));
    });
    let rounded = changed("mixtral", |tensors, _| {
        let array = halved(&tensors[name]).as_dtype(Dtype::Float32).unwrap();
        tensors.insert(name.to_owned(), array);
    });
    let found = [mixed, rounded].map(|folder| logits(&loaded(folder.path()).unwrap(), "mixtral"));
    assert_eq!(found[0], found[1]);
}

/// A fresh mixture of experts wide enough to be packed, in 4 bits.
pub fn packed_mixtral() -> (TempDir, ModelSource) {
    mixtral_packed_as(Packing::affine(32, 4))
}

/// [`packed_mixtral`] in another packing.
pub fn mixtral_packed_as(packing: Packing) -> (TempDir, ModelSource) {
    let folder = tempfile::tempdir().unwrap();
    let configuration = json!({
        "model_type": "mixtral", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 96,
        "num_local_experts": 4, "num_experts_per_tok": 2
    });
    let path = folder.path().join("plain");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("config.json"), configuration.to_string()).unwrap();
    let configuration = ModelConfiguration::read(&path.join("config.json")).unwrap();
    let fresh = initialise(&configuration, 7).unwrap();
    write_plain_folder(&fresh, &configuration, &path).unwrap();
    let packed = folder.path().join("packed");
    pack_folder(&path, &packed, packing).unwrap();
    (folder, ModelSource::Folder(packed))
}

#[test]
fn packed_experts_compute_what_their_unpacked_weights_do() {
    let (_folder, source) = packed_mixtral();
    let unpacked = source.load(EXACT_PRECISION).unwrap();
    let packed = source.load(PACKED_PRECISION).unwrap();
    assert!(packed.model.is_packed() && !unpacked.model.is_packed());
    assert!(
        packed
            .packings
            .contains_key("model.layers.1.block_sparse_moe.switch_mlp.down_proj")
    );
    for length in [3, 40] {
        let tokens = row(&(0..length).map(|index| 3 + index * 2).collect::<Vec<u32>>());
        let of = |model: &LoadedModel| -> Vec<f32> { model.model.logits(&tokens).unwrap().to_vec_exact().unwrap() };
        assert!(largest_difference(&of(&packed), &of(&unpacked)) < 1e-4);
    }
}
