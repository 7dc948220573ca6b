//! Packed copies of model folders: MLX's layout, the same function, and refusal of what cannot be packed.

use std::fs;
use std::path::{Path, PathBuf};

use mlx_diagnose::model::{
    ModelConfiguration, ModelSource, PackFolderError, Packing, Precision, load_safetensors, pack_folder,
};
use mlx_rs::ops::{dequantize, quantize};
use mlx_rs::{Array, Dtype};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::golden::{EXACT_PRECISION, PACKED_PRECISION, largest_difference, root, row, tiny};

const FOUR_BITS: Packing = Packing::affine(64, 4);
/// Difference allowed between logits of packed products and of products with unpacked weights, in f32.
const PACKED_LOGITS: f32 = 1e-4;
/// Token ids that are in the vocabulary of every tiny model.
const IDS: [u32; 12] = [1, 87, 72, 287, 3, 3, 142, 258, 64, 2, 200, 99];

fn qwen3() -> PathBuf {
    root().join("fixtures/selftest/qwen3")
}

/// A packed copy of `source`.
fn packed_copy(source: &Path, packing: Packing) -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("packed");
    pack_folder(source, &target, packing).unwrap();
    (parent, target)
}

/// A copy of a model folder to break.
fn plain_copy(source: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(source).unwrap().map(Result::unwrap) {
        if entry.path().is_file() {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    folder
}

fn file_names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn logits(folder: &Path, precision: Precision) -> Vec<f32> {
    let model = ModelSource::Folder(folder.to_owned()).load(precision).unwrap().model;
    model.logits(&row(&IDS)).unwrap().to_vec_exact().unwrap()
}

/// What is left of `weight` after packing in its own type and unpacking in f32.
fn rounded(weight: &Array, packing: Packing) -> Array {
    let (words, scales, biases) = quantize(weight, packing.group_size, packing.bits).unwrap();
    let [scales, biases] = [scales, biases].map(|array| array.as_dtype(Dtype::Float32).unwrap());
    dequantize(words, scales, &biases, packing.group_size, packing.bits).unwrap()
}

/// Logits of the model in `folder` after every matrix went through [`rounded`], all else in f32.
fn logits_of_rounded_weights(folder: &Path, packing: Packing) -> Vec<f32> {
    let source = ModelSource::Folder(folder.to_owned());
    let stored = load_safetensors(&folder.join("model.safetensors")).unwrap();
    let matrix = |path: &str| rounded(&stored[&format!("{path}.weight")], packing);
    let mut model = source.load(EXACT_PRECISION).unwrap().model;
    model.model.embed_tokens.weight.value = matrix("model.embed_tokens");
    for (path, linear) in model.linears_mut() {
        linear.weight.value = matrix(&path);
    }
    model.logits(&row(&IDS)).unwrap().to_vec_exact().unwrap()
}

#[rstest]
#[case::tied_with_biases(root().join("fixtures/selftest/qwen2"), FOUR_BITS)]
#[case::untied_with_head_norms(qwen3(), FOUR_BITS)]
#[case::eight_bits(qwen3(), Packing::affine(32, 8))]
#[case::three_bits(qwen3(), Packing::affine(64, 3))]
fn the_copy_computes_with_the_rounded_weights_of_its_source(#[case] source: PathBuf, #[case] packing: Packing) {
    let (_parent, packed) = packed_copy(&source, packing);
    let expected = logits_of_rounded_weights(&source, packing);
    assert_eq!(logits(&packed, EXACT_PRECISION), expected);
    let difference = largest_difference(&logits(&packed, PACKED_PRECISION), &expected);
    assert!(difference <= PACKED_LOGITS, "{difference}");
    assert_ne!(expected, logits(&source, EXACT_PRECISION));
}

#[test]
fn every_matrix_is_packed_and_all_else_is_the_source_s() {
    let (_parent, packed) = packed_copy(&qwen3(), FOUR_BITS);
    let source = load_safetensors(&qwen3().join("model.safetensors")).unwrap();
    let mut found = load_safetensors(&packed.join("model.safetensors")).unwrap();
    for (name, plain) in &source {
        let array = found.remove(name).unwrap();
        let &[rows, columns] = plain.shape() else {
            assert_eq!(array.dtype(), Dtype::Bfloat16);
            assert!(array.eq_values(plain).unwrap(), "{name}");
            continue;
        };
        // Eight values of 4 bits in a word of 32, one scale and bias to 64 values.
        assert_eq!(
            (array.dtype(), array.shape()),
            (Dtype::Uint32, &[rows, columns / 8][..])
        );
        let module = name.strip_suffix(".weight").unwrap();
        for part in ["scales", "biases"] {
            let array = found.remove(&format!("{module}.{part}")).unwrap();
            assert_eq!(
                (array.dtype(), array.shape()),
                (Dtype::Bfloat16, &[rows, columns / 64][..])
            );
        }
    }
    assert!(found.is_empty(), "{:?}", found.keys());

    let json =
        |folder: &Path| -> Value { serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap() };
    let mut expected = json(&qwen3());
    for key in ["quantization", "quantization_config"] {
        expected[key] = json!({ "group_size": 64, "bits": 4, "mode": "affine" });
    }
    assert_eq!(json(&packed), expected);
    for name in ["generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(
            fs::read(packed.join(name)).unwrap(),
            fs::read(qwen3().join(name)).unwrap()
        );
    }
}

#[test]
fn shards_become_one_file_and_weights_in_other_formats_stay_behind() {
    let source = plain_copy(&tiny("llama-untied"));
    for name in ["pytorch_model.bin", "model.gguf", ".gitattributes"] {
        fs::write(source.path().join(name), "").unwrap();
    }
    fs::create_dir(source.path().join("original")).unwrap();
    let (parent, packed) = packed_copy(source.path(), Packing::affine(32, 4));
    assert_eq!(file_names(parent.path()), ["packed"]);
    assert_eq!(
        file_names(&packed),
        [
            "config.json",
            "generation_config.json",
            "golden.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
}

#[test]
fn without_a_declared_type_scales_are_f32() {
    let source = plain_copy(&qwen3());
    let path = source.path().join("config.json");
    let mut fields: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    fields.as_object_mut().unwrap().remove("torch_dtype");
    fs::write(&path, fields.to_string()).unwrap();
    assert!(ModelConfiguration::read(&path).unwrap().dtype.is_none());
    let (_parent, packed) = packed_copy(source.path(), FOUR_BITS);
    let tensors = load_safetensors(&packed.join("model.safetensors")).unwrap();
    assert_eq!(tensors["lm_head.scales"].dtype(), Dtype::Float32);
}

/// The error of packing `source`, after which neither the target nor anything half-written is there.
fn refused(source: &Path, packing: Packing) -> PackFolderError {
    let parent = tempfile::tempdir().unwrap();
    let error = pack_folder(source, &parent.path().join("packed"), packing).unwrap_err();
    assert!(file_names(parent.path()).is_empty(), "{error}");
    error
}

#[rstest]
#[case::seven_bits(64, 7)]
#[case::a_group_of_sixteen(16, 4)]
#[case::negative(-64, 4)]
fn a_packing_that_mlx_does_not_have_is_refused(#[case] group_size: i32, #[case] bits: i32) {
    let error = refused(&qwen3(), Packing::affine(group_size, bits));
    assert!(matches!(error, PackFolderError::UnsupportedPacking { .. }), "{error}");
    assert!(error.to_string().contains("32, 64 or 128"), "{error}");
}

#[test]
fn rows_that_are_not_whole_groups_are_listed() {
    // The feed-forward layers of the tiny llama are 96 wide.
    let error = refused(&tiny("llama"), FOUR_BITS);
    let PackFolderError::BrokenGroups { modules, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        modules.first,
        [
            "model.layers.0.mlp.down_proj (96 columns)",
            "model.layers.1.mlp.down_proj (96 columns)"
        ]
    );
}

#[test]
fn a_packed_model_is_not_packed_again() {
    let (_parent, packed) = packed_copy(&qwen3(), FOUR_BITS);
    let error = refused(&packed, FOUR_BITS);
    assert!(matches!(error, PackFolderError::AlreadyPacked { .. }), "{error}");
}

#[test]
fn weights_that_do_not_fit_the_configuration_are_refused() {
    let source = plain_copy(&qwen3());
    let qwen2 = root().join("fixtures/selftest/qwen2/model.safetensors");
    fs::copy(qwen2, source.path().join("model.safetensors")).unwrap();
    let error = refused(source.path(), FOUR_BITS);
    assert!(matches!(error, PackFolderError::Checkpoint(_)), "{error}");
}

#[test]
fn a_target_that_exists_is_left_alone() {
    let target = tempfile::tempdir().unwrap();
    let error = pack_folder(&qwen3(), target.path(), FOUR_BITS).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    assert!(file_names(target.path()).is_empty());
}
