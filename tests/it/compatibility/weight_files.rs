//! Torch and npz files: every value is the one that torch, numpy or MLX wrote (`fixtures/golden/weights`), and what
//! holds anything besides tensors is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mlx_diagnose::model::{
    CheckpointError, ForeignModel, LoadError, LoadedModel, ModelSource, WeightFileError, WeightFormat, WeightSet,
    load_npz, load_safetensors, load_torch,
};
use mlx_rs::{Array, Dtype};
use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::golden::{EXACT_PRECISION, floats, golden, ids, largest_difference, root, row, tiny};
use crate::support::tolerances::LOGITS;

type Tensors = BTreeMap<String, Array>;

fn fixture(name: &str) -> PathBuf {
    root().join("fixtures/golden/weights").join(name)
}

fn load(path: &Path) -> Result<Tensors, WeightFileError> {
    if path.extension().is_some_and(|extension| extension == "npz") {
        load_npz(path)
    } else {
        load_torch(path)
    }
}

/// The type that values of a type of torch or numpy have here.
fn dtype(name: &str) -> Dtype {
    match name {
        // The largest type that a GPU computes in.
        "float64" | "float32" => Dtype::Float32,
        "float16" => Dtype::Float16,
        "bfloat16" => Dtype::Bfloat16,
        "int64" => Dtype::Int64,
        "int32" => Dtype::Int32,
        "int16" => Dtype::Int16,
        "int8" => Dtype::Int8,
        "uint64" => Dtype::Uint64,
        "uint32" => Dtype::Uint32,
        "uint16" => Dtype::Uint16,
        "uint8" => Dtype::Uint8,
        "bool" => Dtype::Bool,
        other => panic!("{other}"),
    }
}

fn values(array: &Array) -> Vec<f32> {
    if array.size() == 0 {
        return Vec::new();
    }
    let array = array.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap();
    array.to_vec_exact().unwrap()
}

#[rstest]
#[case::every_type_of_torch("types.bin")]
#[case::strides_offsets_and_shared_storages("views.bin")]
#[case::the_state_of_a_module("module.pth")]
#[case::a_newer_pickle("protocol-4.pt")]
#[case::every_type_of_numpy("types.npz")]
#[case::compressed("compressed.npz")]
#[case::of_mlx("mlx.npz")]
fn every_value_is_the_one_that_was_written(#[case] name: &str) {
    let golden = golden("weights/weights.json");
    let expected = golden[name].as_object().unwrap();
    let found = load(&fixture(name)).unwrap();
    assert_eq!(found.len(), expected.len());
    for (name, array) in &found {
        let expected = &expected[name];
        let shape: Vec<i32> = serde_json::from_value(expected["shape"].clone()).unwrap();
        assert_eq!(array.shape(), shape, "{name}");
        assert_eq!(array.dtype(), dtype(expected["dtype"].as_str().unwrap()), "{name}");
        assert_eq!(values(array), floats(&expected["values"]), "{name}");
    }
}

#[rstest]
#[case::old("refused-legacy.bin", &["a torch file of the old kind", "weights_only=True"])]
#[case::a_whole_module("refused-module.pt", &["does not hold tensors alone", "`torch.nn.modules.container.Sequential`"])]
#[case::nested("refused-nested.pt", &["`epoch`, which is a number", "state.get('state_dict', state)"])]
#[case::complex("refused-complex.bin", &["`torch.ComplexFloatStorage`"])]
#[case::sparse("refused-sparse.bin", &["`torch._utils._rebuild_sparse_tensor`"])]
#[case::newer_integers("refused-uint16.bin", &["`torch._utils._rebuild_tensor_v3`"])]
#[case::compiled("refused-compiled.pt", &["TorchScript"])]
#[case::python_objects("refused-objects.npz", &["`objects.npy` with", "O"])]
#[case::big_endian("refused-big-endian.npz", &["values of type `>f4`"])]
#[case::records("refused-records.npz", &["values that are records"])]
#[case::no_archive("model-torch/pytorch_model.bin.index.json", &["no whole zip"])]
fn what_is_more_than_tensors_is_refused_by_name(#[case] name: &str, #[case] parts: &[&str]) {
    let error = load(&fixture(name)).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{error}");
    }
    assert!(error.contains("hint: "), "{error}");
}

#[test]
fn an_absent_file_says_so() {
    for name in ["none.bin", "none.npz"] {
        let error = load(&fixture(name)).unwrap_err();
        assert!(matches!(error, WeightFileError::Io { .. }), "{error}");
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}

/// The tiny model without its weights, and with the files `files` under other names.
fn model_with(files: &[(PathBuf, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tiny("llama-rope-scaling").join(name), folder.path().join(name)).unwrap();
    }
    for (source, name) in files {
        fs::copy(source, folder.path().join(name)).unwrap();
    }
    folder
}

fn torch_shards() -> Vec<(PathBuf, &'static str)> {
    ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
        .map(|name| (fixture("model-torch").join(name), name))
        .to_vec()
}

fn npz_shards() -> Vec<(PathBuf, &'static str)> {
    ["weights.00.npz", "weights.01.npz"]
        .map(|name| (fixture("model-npz").join(name), name))
        .to_vec()
}

fn torch_index() -> (PathBuf, &'static str) {
    let name = "pytorch_model.bin.index.json";
    (fixture("model-torch").join(name), name)
}

fn safetensors() -> (PathBuf, &'static str) {
    (
        tiny("llama-rope-scaling").join("model.safetensors"),
        "model.safetensors",
    )
}

fn loaded(folder: &Path) -> Result<LoadedModel, LoadError> {
    ModelSource::Folder(folder.to_owned()).load(EXACT_PRECISION)
}

#[rstest]
#[case::torch_by_its_index(&[torch_shards(), vec![torch_index()]].concat())]
#[case::torch_by_the_numbers(&torch_shards())]
#[case::npz_by_the_numbers(&npz_shards())]
fn a_model_in_another_format_computes_what_mlx_lm_computes(#[case] files: &[(PathBuf, &str)]) {
    let folder = model_with(files);
    let loaded = loaded(folder.path()).unwrap();
    assert_eq!(loaded.stored_dtype, "bfloat16");
    let golden = golden("tiny/llama-rope-scaling/golden.json");
    let logits = loaded.model.logits(&row(&ids(&golden["input_ids"]))).unwrap();
    let difference = largest_difference(&values(&logits), &floats(&golden["logits"]));
    assert!(difference <= LOGITS, "{difference}");
}

#[test]
fn every_tensor_of_the_shards_is_that_of_the_safetensors_file() {
    let expected = load_safetensors(&safetensors().0).unwrap();
    for shards in [torch_shards(), npz_shards()] {
        let mut found = Tensors::new();
        for (path, _) in &shards {
            found.extend(load(path).unwrap());
        }
        for (name, array) in &expected {
            assert!(found[name].eq_values(array).unwrap(), "{name}");
            assert_eq!(found[name].dtype(), array.dtype(), "{name}");
        }
    }
}

#[rstest]
#[case::safetensors_before_all(&[vec![safetensors()], torch_shards(), npz_shards()].concat(), WeightFormat::Safetensors, 4)]
#[case::torch_before_npz(&[torch_shards(), npz_shards()].concat(), WeightFormat::Torch, 2)]
#[case::npz_alone(&npz_shards(), WeightFormat::Npz, 0)]
fn the_first_format_counts_and_a_note_names_the_others(
    #[case] files: &[(PathBuf, &str)],
    #[case] format: WeightFormat,
    #[case] others: usize,
) {
    let folder = model_with(files);
    let set = WeightSet::of_folder(folder.path()).unwrap();
    assert_eq!((set.format, set.set_aside.len()), (format, others));
    let note = set.note();
    assert_eq!(note.is_some(), others > 0);
    for name in &set.set_aside {
        assert!(note.as_ref().unwrap().contains(name), "{note:?}");
    }
}

#[rstest]
#[case::index_of_torch(&[&torch_shards()[..1], &[torch_index()]].concat(), "no pytorch_model-00002-of-00002.bin", "`pytorch_model.bin.index.json` names")]
#[case::numbers_of_torch(&torch_shards()[..1], "no shard 2 of 2", "the names of the others count")]
#[case::numbers_of_npz(&npz_shards()[1..], "no shard 1 of 2", "the names of the others count")]
fn a_shard_that_is_not_there_is_named(
    #[case] files: &[(PathBuf, &str)],
    #[case] missing: &str,
    #[case] expected: &str,
) {
    let folder = model_with(files);
    let error = loaded(folder.path()).unwrap_err();
    assert!(
        matches!(&error, LoadError::Checkpoint(CheckpointError::MissingShards { .. })),
        "{error}"
    );
    let error = error.to_string();
    assert!(error.contains(missing) && error.contains(expected), "{error}");
}

#[test]
fn a_name_that_counts_far_more_shards_than_there_are_is_answered_at_once() {
    let shard = torch_shards()[0].0.clone();
    let folder = model_with(&[(shard, "pytorch_model-00001-of-18446744073709551615.bin")]);
    let error = loaded(folder.path()).unwrap_err().to_string();
    assert!(error.contains("no shard 2 of 18446744073709551615"), "{error}");
}

#[test]
fn files_of_a_training_run_are_no_weights() {
    let optimizer = torch_shards()[0].0.clone();
    let folder = model_with(&[(optimizer.clone(), "optimizer.pt"), (optimizer, "training_args.bin")]);
    let error = loaded(folder.path()).unwrap_err();
    assert!(
        matches!(&error, LoadError::Checkpoint(CheckpointError::NoWeights { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("optimizer.pt"), "{error}");
}

#[rstest]
#[case::torch(torch_shards())]
#[case::npz(npz_shards())]
fn every_disagreement_with_the_configuration_is_listed_at_once(#[case] files: Vec<(PathBuf, &str)>) {
    let folder = model_with(&files);
    let path = folder.path().join("config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    settings["num_hidden_layers"] = 2.into();
    settings["intermediate_size"] = 104.into();
    fs::write(&path, settings.to_string()).unwrap();
    let error = loaded(folder.path()).unwrap_err().to_string();
    assert!(error.contains("missing (9): model.layers.1."), "{error}");
    assert!(
        error.contains("wrong shape (3): model.layers.0.mlp.down_proj.weight"),
        "{error}"
    );
}

#[test]
fn headers_alone_tell_whether_the_files_are_whole() {
    let folder = model_with(&torch_shards());
    let set = WeightSet::of_folder(folder.path()).unwrap();
    set.check_whole().unwrap();
    let shapes = set.stored_shapes(&set.files[0]).unwrap();
    assert_eq!(shapes["model.embed_tokens.weight"].dtype, "BF16");
    let path = folder.path().join("pytorch_model-00002-of-00002.bin");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = set.check_whole().unwrap_err().to_string();
    assert!(error.contains("pytorch_model-00002-of-00002.bin"), "{error}");
    assert!(error.contains("no whole zip"), "{error}");
}

#[test]
fn the_tensors_of_an_architecture_that_is_lacking_are_seen_in_torch_files_too() {
    let folder = model_with(&torch_shards());
    let path = folder.path().join("config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    settings["model_type"] = "granite".into();
    fs::write(&path, settings.to_string()).unwrap();
    let foreign = ForeignModel::read(folder.path()).unwrap();
    assert_eq!(foreign.stored_dtype(), "bfloat16");
    assert!(!foreign.has_names_of_mlx_lm);
    let mut seen = 0;
    foreign
        .visit_tensors(|tensors| {
            seen += tensors.len();
            Ok::<_, WeightFileError>(())
        })
        .unwrap();
    assert_eq!(seen, foreign.tensors.len());
}
