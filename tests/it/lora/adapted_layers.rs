//! Adapters on the layers of every architecture: linear layers, experts and embeddings.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use approx::assert_relative_eq;
use mlx_diagnose::adapter::{
    AdapterKind, LoraSettings, StoredAdapter, attach, attached_modules, fuse, load_adapter, save_adapter,
    target_modules,
};
use mlx_diagnose::data::{Batch, Example};
use mlx_diagnose::model::{CausalModel, adapter_shapes, load_safetensors};
use mlx_diagnose::param_snapshot::ParameterSnapshot;
use mlx_diagnose::train::{Lanes, loss_and_gradients};
use mlx_rs::module::Param;
use mlx_rs::{Array, random};
use rstest::rstest;

use crate::compatibility::weight_conversion::packed_mixtral;
use crate::integration::architecture_parity::{load, numbers};
use crate::support::golden::{EXACT_PRECISION, PACKED_PRECISION, ids, largest_difference, row};

/// Difference allowed between logits of an adapter and of the weights it was fused into, of a few units.
const FUSED: f32 = 1e-4;

fn model(name: &str) -> CausalModel {
    load(name).model
}

fn logits(model: &CausalModel, name: &str) -> Vec<f32> {
    let tokens = row(&ids(&numbers(name)["input_ids"]));
    model.logits(&tokens).unwrap().to_vec_exact().unwrap()
}

fn settings(keys: &[&str]) -> LoraSettings {
    LoraSettings {
        rank: 3,
        scale: 2.0,
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        ..LoraSettings::default()
    }
}

/// Adapters that act: `lora_b` is random too.
fn adapted(name: &str, keys: &[&str]) -> CausalModel {
    let mut model = model(name);
    attach(&mut model, &settings(keys), 5).unwrap();
    let mut key = random::key(9).unwrap();
    for (_, layer) in model.adaptable_mut() {
        let [_, lora_b] = layer.matrices_mut();
        if let Some(matrix) = &mut lora_b.value {
            let (next, this) = random::split(&key, 2).unwrap();
            *matrix = random::uniform::<_, f32>(-0.2, 0.2, matrix.shape(), &this).unwrap();
            key = next;
        }
    }
    model
}

/// The paths that mlx-lm's `linear_to_lora_layers` replaces in a block when no keys are given.
#[rstest]
#[case::gemma3("gemma3_text", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"])]
#[case::phi3("phi3", &["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"])]
#[case::mixtral("mixtral", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "block_sparse_moe.gate", "block_sparse_moe.switch_mlp.gate_proj", "block_sparse_moe.switch_mlp.up_proj", "block_sparse_moe.switch_mlp.down_proj"])]
#[case::gpt2("gpt2", &["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"])]
fn every_layer_of_a_block_is_adapted_without_keys(#[case] name: &str, #[case] expected: &[&str]) {
    let model = model(name);
    let last = model.model.layers.len() - 1;
    let prefix = format!("{}{last}.", model.block_prefix());
    let settings = LoraSettings {
        layers: Some(1),
        ..settings(&[])
    };
    let found = target_modules(&model, &settings).unwrap();
    let expected: Vec<String> = expected.iter().map(|path| format!("{prefix}{path}")).collect();
    assert_eq!(found, expected);
}

#[rstest]
fn a_fresh_adapter_changes_no_logit(#[values("gemma3_text", "phi3", "mixtral", "gpt2")] name: &str) {
    let mut fresh = model(name);
    attach(&mut fresh, &settings(&[]), 0).unwrap();
    assert_eq!(logits(&fresh, name), logits(&model(name), name));
}

const EXPERTS: [&str; 3] = [
    "block_sparse_moe.switch_mlp.gate_proj",
    "block_sparse_moe.switch_mlp.up_proj",
    "block_sparse_moe.switch_mlp.down_proj",
];

#[rstest]
#[case::gemma3("gemma3_text", &[])]
#[case::phi3("phi3", &[])]
#[case::mixtral("mixtral", &[])]
#[case::experts_alone("mixtral", &EXPERTS)]
#[case::gpt2("gpt2", &[])]
#[case::a_tied_embedding("gemma3_text", &["model.embed_tokens"])]
#[case::an_embedding_of_its_own("llama", &["model.embed_tokens", "lm_head"])]
#[case::the_embedding_of_gpt2("gpt2", &["model.wte", "attn.c_attn"])]
fn fused_weights_compute_what_the_adapters_did(#[case] name: &str, #[case] keys: &[&str]) {
    let adapted = adapted(name, keys);
    let attached = attached_modules(&adapted);
    let expected = logits(&adapted, name);
    assert!(
        largest_difference(&expected, &logits(&model(name), name)) > 0.01,
        "the adapter acts"
    );
    let mut fused = adapted.clone();
    assert_eq!(fuse(&mut fused).unwrap(), attached.len());
    assert!(attached_modules(&fused).is_empty());
    let difference = largest_difference(&logits(&fused, name), &expected);
    assert!(difference <= FUSED, "{difference}");
}

#[rstest]
#[case::gemma3("gemma3_text", &[])]
#[case::phi3("phi3", &[])]
#[case::mixtral("mixtral", &[])]
#[case::gpt2("gpt2", &["attn.c_attn", "model.wte"])]
fn an_adapter_comes_back_from_its_files_bit_for_bit(#[case] name: &str, #[case] keys: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let adapted = adapted(name, keys);
    let count = save_adapter(&adapted, &settings(keys), "base", folder.path()).unwrap();
    assert_eq!(count, 2 * attached_modules(&adapted).len());
    let mut again = model(name);
    let read = load_adapter(&mut again, folder.path()).unwrap();
    assert_eq!((read.rank, read.scale), (3, 2.0));
    assert_eq!(logits(&again, name), logits(&adapted, name));
    let mut lenient = model(name);
    let stored = StoredAdapter::read(folder.path()).unwrap();
    let application = stored.apply(&mut lenient).unwrap();
    assert_eq!(application.applied.len(), count);
    assert!(
        application.unused.is_empty() && application.missing.is_empty(),
        "{application:?}"
    );
    assert_eq!(logits(&lenient, name), logits(&adapted, name));
}

/// The shapes of mlx-lm's `LoRALinear`, `LoRASwitchLinear` and `LoRAEmbedding`.
#[rstest]
#[case::linear("mixtral", "model.layers.0.block_sparse_moe.gate", &[16, 3], &[3, 4])]
#[case::experts("mixtral", "model.layers.1.block_sparse_moe.switch_mlp.down_proj", &[4, 3, 24], &[4, 16, 3])]
#[case::embedding("gpt2", "model.wte", &[48, 3], &[3, 16])]
#[case::convolution("gpt2", "model.h.0.attn.c_attn", &[16, 3], &[3, 48])]
fn tensors_have_mlx_lms_shapes(#[case] name: &str, #[case] path: &str, #[case] lora_a: &[i32], #[case] lora_b: &[i32]) {
    let folder = tempfile::tempdir().unwrap();
    let mut model = model(name);
    let settings = settings(&[path]);
    attach(&mut model, &settings, 0).unwrap();
    assert_eq!(attached_modules(&model), [path]);
    save_adapter(&model, &settings, "base", folder.path()).unwrap();
    let stored = load_safetensors(&folder.path().join("adapters.safetensors")).unwrap();
    for (ending, shape) in [("lora_a", lora_a), ("lora_b", lora_b)] {
        assert_eq!(stored[&format!("{path}.{ending}")].shape(), shape);
    }
}

#[test]
fn an_adapter_of_the_wrong_number_of_experts_is_refused_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let adapted = adapted("mixtral", &EXPERTS[..1]);
    save_adapter(&adapted, &settings(&EXPERTS[..1]), "base", folder.path()).unwrap();
    let path = folder.path().join("adapters.safetensors");
    let mut tensors = load_safetensors(&path).unwrap();
    let name = "model.layers.0.block_sparse_moe.switch_mlp.gate_proj.lora_b";
    tensors.insert(name.to_owned(), Array::ones::<f32>(&[3, 24, 3]).unwrap());
    rewrite(&tensors, &path);
    let message = load_adapter(&mut model("mixtral"), folder.path())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains(&format!("shape of {name}: found [3, 24, 3], expected [4, 24, 3]")),
        "{message}"
    );
    let application = StoredAdapter::read(folder.path())
        .unwrap()
        .apply(&mut model("mixtral"))
        .unwrap();
    assert_eq!(application.other_shape, [format!("{name}: [3, 24, 3] for [4, 24, 3]")]);
}

fn rewrite(tensors: &BTreeMap<String, Array>, path: &Path) {
    fs::remove_file(path).unwrap();
    mlx_diagnose::model::save_safetensors(tensors, None, path).unwrap();
}

#[test]
fn dora_on_experts_is_left_out_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let adapted = adapted("mixtral", &EXPERTS[..1]);
    save_adapter(&adapted, &settings(&EXPERTS[..1]), "base", folder.path()).unwrap();
    let mut stored = StoredAdapter::read(folder.path()).unwrap();
    stored.kind = AdapterKind::Dora;
    let mut base = model("mixtral");
    let application = stored.apply(&mut base).unwrap();
    assert!(application.applied.is_empty());
    assert_eq!(application.unused.len(), 4);
    assert!(
        application.problems.join("\n").contains("is no linear layer"),
        "{application:?}"
    );
    assert_eq!(logits(&base, "mixtral"), logits(&model("mixtral"), "mixtral"));
}

#[test]
fn adapters_on_packed_experts_act_as_on_unpacked_ones_and_fuse_into_packed_ones() {
    let (_folder, source) = packed_mixtral();
    let tokens = row(&(5..45).collect::<Vec<u32>>());
    let of = |model: &CausalModel| -> Vec<f32> { model.logits(&tokens).unwrap().to_vec_exact().unwrap() };
    let adapted = |precision| {
        let mut model = source.load(precision).unwrap().model;
        attach(&mut model, &settings(&EXPERTS), 3).unwrap();
        let mut key = random::key(4).unwrap();
        for (_, layer) in model.adaptable_mut() {
            let [_, lora_b] = layer.matrices_mut();
            if let Some(matrix) = &mut lora_b.value {
                let (next, this) = random::split(&key, 2).unwrap();
                *matrix = random::uniform::<_, f32>(-0.1, 0.1, matrix.shape(), &this).unwrap();
                key = next;
            }
        }
        model
    };
    let [packed, unpacked] = [PACKED_PRECISION, EXACT_PRECISION].map(adapted);
    assert!(largest_difference(&of(&packed), &of(&unpacked)) < FUSED);
    let mut fused = packed.clone();
    assert_eq!(fuse(&mut fused).unwrap(), 6);
    assert!(fused.switch_linears().iter().all(|(_, layer)| layer.packing.is_some()));
    // A step of 4 bits rounds away a part of what was added, not all of it.
    let base = of(&source.load(PACKED_PRECISION).unwrap().model);
    let (off, whole) = (
        largest_difference(&of(&fused), &of(&packed)),
        largest_difference(&base, &of(&packed)),
    );
    assert!(off < whole / 2.0, "{off} of {whole}");
}

/// Central differences of the loss along the gradient of all adapters, in f32.
#[rstest]
#[case::experts("mixtral", &EXPERTS)]
#[case::a_tied_embedding("gemma3_text", &["model.embed_tokens"])]
#[case::convolutions("gpt2", &["attn.c_attn", "mlp.c_proj"])]
fn the_loss_changes_along_the_gradient_as_it_says(#[case] name: &str, #[case] keys: &[&str]) {
    let model = adapted(name, keys);
    let batch = Batch::new(&[Example::of_tokens(ids(&numbers(name)["input_ids"]))], &[0]);
    let pass = loss_and_gradients(&model, &batch, &Lanes::single()).unwrap();
    let trained: Vec<String> = ParameterSnapshot::capture_trainable(&model)
        .into_parameters()
        .into_keys()
        .collect();
    assert_eq!(pass.gradients.keys().cloned().collect::<Vec<_>>(), trained);
    let squared: f64 = pass
        .gradients
        .values()
        .map(|gradient| f64::from(gradient.square().unwrap().sum(None).unwrap().item_exact::<f32>()))
        .sum();
    assert!(squared > 0.0);
    let step = 1e-2 / squared.sqrt();
    let loss_at = |factor: f64| -> f64 {
        let mut moved = model.clone();
        for (path, layer) in moved.adaptable_mut() {
            for (ending, matrix) in ["lora_a", "lora_b"].into_iter().zip(layer.matrices_mut()) {
                if let (Some(gradient), Some(value)) =
                    (pass.gradients.get(&format!("{path}.{ending}")), matrix.value.as_ref())
                {
                    let change = gradient.multiply(Array::from_f32(factor as f32)).unwrap();
                    *matrix = Param::new(Some(value.add(change).unwrap()));
                }
            }
        }
        let pass = loss_and_gradients(&moved, &batch, &Lanes::single()).unwrap();
        f64::from(pass.loss.item_exact::<f32>())
    };
    let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
    assert_relative_eq!(slope, squared, max_relative = 2e-2);
}

#[test]
fn a_place_of_another_rank_has_the_shapes_that_go_with_it() {
    assert_eq!(adapter_shapes(&[5, 7], 2), [vec![7, 2], vec![2, 5]]);
    assert_eq!(adapter_shapes(&[3, 5, 7], 2), [vec![3, 2, 7], vec![3, 5, 2]]);
    let model = adapted("mixtral", &[]);
    let ranks: Vec<Option<i32>> = model.adaptable().iter().map(|(_, layer)| layer.rank()).collect();
    assert_eq!(ranks.iter().filter(|rank| **rank == Some(3)).count(), 16);
}
