//! Models of every format as folders of mlx-lm: the same function, MLX's packing, and refusal of what cannot be done.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mlx_diagnose::adapter::{FuseFolderError, StoredAdapter, fuse_into_folder};
use mlx_diagnose::model::{
    Conversion, ConversionSettings, ConvertModelError, MixedBits, ModelConfiguration, ModelFiles, ModelSource,
    PackFolderError, Packing, PackingChoice, SamplePassError, Tokenizer, WeightType, convert_model, load_safetensors,
    sample_pass, save_safetensors,
};
use mlx_rs::ops::{dequantize, multiply};
use mlx_rs::{Array, Dtype};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::golden::{
    EXACT_PRECISION, PACKED_PRECISION, floats, golden, ids, largest_difference, root, row, tiny,
};
use crate::support::tolerances::LOGITS;

const PLAIN: ConversionSettings = ConversionSettings {
    dtype: None,
    packing: None,
    dequantize: false,
};

fn packed(group_size: i32, bits: i32) -> ConversionSettings {
    ConversionSettings {
        packing: Some(PackingChoice {
            packing: Packing::affine(group_size, bits),
            recipe: None,
        }),
        ..PLAIN
    }
}

fn mixed(recipe: MixedBits, group_size: i32) -> ConversionSettings {
    ConversionSettings {
        packing: Some(PackingChoice {
            packing: recipe.common(group_size),
            recipe: Some(recipe),
        }),
        ..PLAIN
    }
}

/// The tiny model with its weights in another format.
fn in_format(format: &str) -> TempDir {
    let folder = copy(&tiny("llama-rope-scaling"));
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let weights = root().join("fixtures/golden/weights").join(format);
    for entry in fs::read_dir(weights).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn copy(source: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(source).unwrap().map(Result::unwrap) {
        if entry.path().is_file() {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    folder
}

fn gguf(name: &str) -> PathBuf {
    root().join(format!("fixtures/golden/gguf/{name}.gguf"))
}

fn files(path: &Path) -> ModelFiles {
    let source = if path.is_dir() {
        ModelSource::Folder(path.to_owned())
    } else {
        ModelSource::Gguf(path.to_owned())
    };
    source.open().unwrap()
}

struct Converted {
    _parent: TempDir,
    folder: PathBuf,
    conversion: Conversion,
}

fn converted(source: &Path, settings: &ConversionSettings) -> Converted {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("mlx");
    let conversion = convert_model(&files(source), &folder, settings).unwrap();
    Converted {
        _parent: parent,
        folder,
        conversion,
    }
}

/// The error of converting `source`, after which nothing is there.
fn refused(source: &Path, settings: &ConversionSettings) -> ConvertModelError {
    let parent = tempfile::tempdir().unwrap();
    let error = convert_model(&files(source), &parent.path().join("mlx"), settings).unwrap_err();
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0, "{error}");
    error
}

fn tensors(folder: &Path) -> BTreeMap<String, Array> {
    load_safetensors(&folder.join("model.safetensors")).unwrap()
}

fn settings_of(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

fn logits(folder: &Path, input: &[u32]) -> Vec<f32> {
    let source = ModelSource::Folder(folder.to_owned());
    let model = source.load(EXACT_PRECISION).unwrap().model;
    model.logits(&row(input)).unwrap().to_vec_exact().unwrap()
}

fn assert_computes(folder: &Path, golden: &Value, tolerance: f32) {
    let difference = largest_difference(&logits(folder, &ids(&golden["input_ids"])), &floats(&golden["logits"]));
    assert!(difference <= tolerance, "{difference}");
}

#[rstest]
#[case::safetensors(copy(&tiny("llama-rope-scaling")))]
#[case::torch(in_format("model-torch"))]
#[case::npz(in_format("model-npz"))]
fn every_format_becomes_the_same_folder(#[case] source: TempDir) {
    let result = converted(source.path(), &PLAIN);
    let (found, expected) = (tensors(&result.folder), tensors(&tiny("llama-rope-scaling")));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, array) in &expected {
        assert!(found[name].eq_values(array).unwrap(), "{name}");
        assert_eq!(found[name].dtype(), array.dtype(), "{name}");
    }
    assert_computes(&result.folder, &golden("tiny/llama-rope-scaling/golden.json"), LOGITS);
    let mut names: Vec<String> = fs::read_dir(&result.folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "config.json",
        "generation_config.json",
        "golden.json",
        "model.safetensors",
    ];
    assert_eq!(
        names,
        [&expected[..], &["tokenizer.json", "tokenizer_config.json"]].concat()
    );
    assert_eq!(
        (
            result.conversion.tensors,
            result.conversion.packed,
            result.conversion.dtype
        ),
        (11, 0, WeightType::Bfloat16)
    );
}

#[rstest]
#[case::float16(WeightType::Float16, Dtype::Float16)]
#[case::float32(WeightType::Float32, Dtype::Float32)]
fn another_element_type_is_in_the_files_and_in_the_settings(#[case] dtype: WeightType, #[case] expected: Dtype) {
    let source = in_format("model-torch");
    let settings = ConversionSettings {
        dtype: Some(dtype),
        ..PLAIN
    };
    let result = converted(source.path(), &settings);
    for (name, array) in tensors(&result.folder) {
        assert_eq!(array.dtype(), expected, "{name}");
    }
    assert_eq!(settings_of(&result.folder)["torch_dtype"], dtype.name());
    // bfloat16 values of this size are float16 values too.
    assert_computes(&result.folder, &golden("tiny/llama-rope-scaling/golden.json"), LOGITS);
}

#[test]
fn the_newer_key_of_the_element_type_is_kept() {
    let source = in_format("model-torch");
    let mut settings = settings_of(source.path());
    settings.as_object_mut().unwrap().remove("torch_dtype");
    settings["dtype"] = "bfloat16".into();
    fs::write(source.path().join("config.json"), settings.to_string()).unwrap();
    let wanted = ConversionSettings {
        dtype: Some(WeightType::Float32),
        ..PLAIN
    };
    let found = settings_of(&converted(source.path(), &wanted).folder);
    assert_eq!(found["dtype"], "float32");
    assert!(found.get("torch_dtype").is_none());
}

#[test]
fn without_a_declared_type_the_weights_keep_theirs() {
    let source = in_format("model-torch");
    let mut settings = settings_of(source.path());
    settings.as_object_mut().unwrap().remove("torch_dtype");
    fs::write(source.path().join("config.json"), settings.to_string()).unwrap();
    let result = converted(source.path(), &PLAIN);
    assert_eq!(result.conversion.dtype, WeightType::Bfloat16);
    assert_eq!(settings_of(&result.folder)["torch_dtype"], "bfloat16");
}

#[rstest]
#[case(32, 2)]
#[case(32, 3)]
#[case(32, 4)]
#[case(32, 5)]
#[case(32, 6)]
#[case(32, 8)]
fn packed_weights_are_within_a_step_of_their_source(#[case] group_size: i32, #[case] bits: i32) {
    let source = in_format("model-torch");
    let settings = ConversionSettings {
        dtype: Some(WeightType::Float32),
        ..packed(group_size, bits)
    };
    let result = converted(source.path(), &settings);
    let (found, plain) = (tensors(&result.folder), tensors(&tiny("llama-rope-scaling")));
    let mut modules = 0;
    for name in found.keys().filter_map(|name| name.strip_suffix(".scales")) {
        let part = |part: &str| &found[&format!("{name}.{part}")];
        let unpacked = dequantize(part("weight"), part("scales"), part("biases"), group_size, bits).unwrap();
        let expected = plain[&format!("{name}.weight")].as_dtype(Dtype::Float32).unwrap();
        let difference = unpacked.subtract(&expected).unwrap().abs().unwrap();
        // MLX moves the grid so that the value of largest magnitude lies on it, which at most doubles half a step.
        let step = part("scales").abs().unwrap().max(None).unwrap().item_exact::<f32>();
        let worst = difference.max(None).unwrap().item_exact::<f32>();
        assert!(worst <= step * 1.01, "{name}: {worst} of {step}");
        modules += 1;
    }
    assert_eq!((modules, result.conversion.packed), (8, 8));
    let quantization = json!({"group_size": group_size, "bits": bits, "mode": "affine"});
    let settings = settings_of(&result.folder);
    assert_eq!(settings["quantization"], quantization);
    assert_eq!(settings["quantization_config"], quantization);
    // Two 32-bit numbers to each group, and the norms in full.
    let least = f64::from(bits) + 64.0 / f64::from(group_size);
    let found = result.conversion.bits_per_weight;
    assert!((least..least + 0.5).contains(&found), "{found}");
}

#[test]
fn rows_that_are_no_whole_groups_stay_plain_and_are_named() {
    let result = converted(&tiny("llama"), &packed(64, 4));
    // The feed-forward layers are 96 wide.
    assert_eq!(
        result.conversion.left_plain,
        [0, 1].map(|layer| format!("model.layers.{layer}.mlp.down_proj (96 columns)"))
    );
    let found = tensors(&result.folder);
    assert!(!found.contains_key("model.layers.0.mlp.down_proj.scales"));
    assert!(found.contains_key("model.layers.0.mlp.up_proj.scales"));
    assert!(result.conversion.sample.logits.iter().all(|logit| logit.is_finite()));
}

#[test]
fn every_module_has_the_bits_that_mlx_lm_gives_it() {
    let recipes = [
        ("mixed_2_6", MixedBits::TwoSix),
        ("mixed_3_4", MixedBits::ThreeFour),
        ("mixed_3_6", MixedBits::ThreeSix),
        ("mixed_4_6", MixedBits::FourSix),
    ];
    let golden = golden("weights/mixed-bits.json");
    assert_eq!(golden.as_object().unwrap().len(), 16);
    for (key, expected) in golden.as_object().unwrap() {
        let (name, layers) = key.split_once(' ').unwrap();
        let layers: usize = layers.parse().unwrap();
        let recipe = recipes.iter().find(|(known, _)| *known == name).unwrap().1;
        let mut found = BTreeMap::new();
        let parts = [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
        ];
        let parts = [&parts[..], &["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]].concat();
        let blocks = (0..layers).flat_map(|layer| parts.iter().map(move |part| format!("model.layers.{layer}.{part}")));
        for path in blocks.chain(["model.embed_tokens".to_owned(), "lm_head".to_owned()]) {
            let bits = recipe.packing(&path, layers, 64).bits;
            if bits != recipe.common(64).bits {
                found.insert(path, bits);
            }
        }
        assert_eq!(json!(recipe.common(64).bits), expected["common"], "{key}");
        assert_eq!(json!(found), expected["others"], "{key}");
    }
}

#[test]
fn a_recipe_is_stated_as_exceptions_and_read_back() {
    let result = converted(&tiny("llama-untied"), &mixed(MixedBits::ThreeSix, 32));
    let settings = settings_of(&result.folder);
    let high = json!({"group_size": 32, "bits": 6, "mode": "affine"});
    assert_eq!(settings["quantization"]["bits"], 3);
    assert_eq!(settings["quantization"]["lm_head"], high);
    assert_eq!(settings["quantization"]["model.layers.1.mlp.down_proj"], high);
    assert!(settings["quantization"].get("model.layers.0.mlp.down_proj").is_none());
    let loaded = ModelSource::Folder(result.folder.clone())
        .load(PACKED_PRECISION)
        .unwrap();
    let bits: BTreeMap<i32, usize> = loaded.packings.values().fold(BTreeMap::new(), |mut counts, packing| {
        *counts.entry(packing.bits).or_insert(0) += 1;
        counts
    });
    assert_eq!(bits, BTreeMap::from([(3, 13), (6, 3)]));
}

#[test]
fn packed_weights_stay_as_they_are_or_become_plain() {
    let source = tiny("llama-4bit");
    let golden = golden("tiny/llama-4bit/golden.json");
    let kept = converted(&source, &PLAIN);
    let (found, expected) = (tensors(&kept.folder), tensors(&source));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, array) in &expected {
        assert!(found[name].eq_values(array).unwrap(), "{name}");
    }
    assert_computes(&kept.folder, &golden, LOGITS);
    let plain = converted(
        &source,
        &ConversionSettings {
            dtype: Some(WeightType::Float32),
            dequantize: true,
            ..PLAIN
        },
    );
    assert!(
        tensors(&plain.folder)
            .values()
            .all(|array| array.dtype() == Dtype::Float32)
    );
    let settings = settings_of(&plain.folder);
    assert!(settings.get("quantization").is_none() && settings.get("quantization_config").is_none());
    assert_computes(&plain.folder, &golden, LOGITS);
}

#[rstest]
#[case::kept_packed("simple-types", false)]
#[case::unpacked("simple-types", true)]
#[case::k_quants("k-quants", false)]
fn a_gguf_file_becomes_a_folder_with_its_tokenizer(#[case] name: &str, #[case] dequantize: bool) {
    let source = gguf(name);
    let result = converted(&source, &ConversionSettings { dequantize, ..PLAIN });
    assert_computes(&result.folder, &golden(&format!("gguf/{name}.json")), LOGITS);
    assert_eq!(result.conversion.packed > 0, name == "simple-types" && !dequantize);
    let (before, after) = (
        files(&source).tokenizer().unwrap(),
        Tokenizer::from_folder(&result.folder).unwrap(),
    );
    let text = "Who keeps the harbour?\n  It is 7 o'clock.";
    assert_eq!(before.encode(text, true).unwrap(), after.encode(text, true).unwrap());
    assert_eq!(before.eos_id(), after.eos_id());
    assert_eq!(before.bos_id(), after.bos_id());
    let template = |tokenizer: &Tokenizer| tokenizer.chat_template().map(|template| template.source().to_owned());
    assert_eq!(template(&before), template(&after));
    let (before, after) = (
        files(&source).configuration().unwrap(),
        ModelConfiguration::read(&result.folder.join("config.json")).unwrap(),
    );
    assert_eq!(before.rope_scaling, after.rope_scaling);
    assert_eq!(before.expected_tensors(), after.expected_tensors());
}

#[test]
fn a_packed_model_is_not_packed_again() {
    let error = refused(&tiny("llama-4bit"), &packed(32, 8));
    assert!(
        matches!(error, ConvertModelError::Pack(PackFolderError::AlreadyPacked { .. })),
        "{error}"
    );
}

#[rstest]
#[case::seven_bits(packed(64, 7), "group size 64 and 7 bits")]
#[case::groups_of_sixteen(packed(16, 4), "group size 16 and 4 bits")]
#[case::negative(packed(-32, 4), "group size -32 and 4 bits")]
#[case::no_row_of_whole_groups(packed(128, 4), "no weight can be packed in groups of 128")]
fn a_packing_that_cannot_be_is_refused(#[case] settings: ConversionSettings, #[case] part: &str) {
    let error = refused(&tiny("llama"), &settings).to_string();
    assert!(error.contains(part), "{error}");
}

/// The tiny model after `change`, in f32.
fn with_tensors(change: impl FnOnce(&mut BTreeMap<String, Array>)) -> TempDir {
    let folder = copy(&tiny("llama"));
    let path = folder.path().join("model.safetensors");
    let mut tensors: BTreeMap<String, Array> = load_safetensors(&path)
        .unwrap()
        .into_iter()
        .map(|(name, array)| (name, array.as_dtype(Dtype::Float32).unwrap()))
        .collect();
    change(&mut tensors);
    save_safetensors(&tensors, None, &path).unwrap();
    folder
}

fn scaled(tensors: &mut BTreeMap<String, Array>, name: &str, factor: f32) {
    let array = multiply(&tensors[name], Array::from_f32(factor)).unwrap();
    tensors.insert(name.to_owned(), array);
}

#[test]
fn a_model_that_does_not_compute_is_not_written() {
    let source = with_tensors(|tensors| scaled(tensors, "model.norm.weight", 1e38));
    let settings = ConversionSettings {
        dtype: Some(WeightType::Float32),
        ..PLAIN
    };
    let error = refused(source.path(), &settings).to_string();
    assert!(error.contains("logits that are NaN or infinite"), "{error}");
}

#[test]
fn weights_that_an_element_type_cannot_hold_are_not_written() {
    let source = with_tensors(|tensors| scaled(tensors, "model.norm.weight", 1e6));
    let settings = ConversionSettings {
        dtype: Some(WeightType::Float16),
        ..PLAIN
    };
    let error = refused(source.path(), &settings).to_string();
    assert!(error.contains("1 tensor overflows in float16"), "{error}");
}

#[test]
fn a_missing_tensor_is_named_and_nothing_is_written() {
    let source = with_tensors(|tensors| drop(tensors.remove("model.layers.1.mlp.up_proj.weight")));
    let error = refused(source.path(), &PLAIN).to_string();
    assert!(
        error.contains("missing (1): model.layers.1.mlp.up_proj.weight"),
        "{error}"
    );
}

#[test]
fn a_target_that_exists_is_left_alone() {
    let target = tempfile::tempdir().unwrap();
    let error = convert_model(&files(&tiny("llama")), target.path(), &PLAIN).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}

#[test]
fn a_sample_pass_says_what_it_found() {
    let loaded = ModelSource::Folder(tiny("llama")).load(EXACT_PRECISION).unwrap();
    let sample = sample_pass(&loaded.model, 288, Path::new("tiny")).unwrap();
    assert_eq!(
        (sample.tokens, sample.vocabulary, sample.logits.len()),
        (8, 288, 8 * 288)
    );
    assert_eq!(sample.largest_difference(&sample.clone()), 0.0);
    let error = sample_pass(&loaded.model, 280, Path::new("tiny")).unwrap_err();
    assert!(matches!(error, SamplePassError::Shape { .. }), "{error}");
    assert!(error.to_string().contains("expected: [1, 8, 280]"), "{error}");
}

fn adapter(name: &str) -> StoredAdapter {
    StoredAdapter::read(&tiny("llama").join(name)).unwrap()
}

#[rstest]
#[case::every_block("adapter")]
#[case::the_last_block("adapter-last-block")]
fn a_fused_folder_computes_what_mlx_lm_computes_with_the_adapter(#[case] name: &str) {
    let base = with_tensors(|_| {});
    let mut settings = settings_of(base.path());
    settings["torch_dtype"] = "float32".into();
    fs::write(base.path().join("config.json"), settings.to_string()).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("fused");
    let fused = fuse_into_folder(&files(base.path()), &adapter(name), &folder, false).unwrap();
    assert_eq!(fused.tensors, tensors(&tiny("llama")).len());
    assert!(
        !fused.is_packed && fused.adapter_effect > 0.01 && fused.fuse_error < LOGITS,
        "{fused:?}"
    );
    let golden = golden("tiny/llama/golden.json");
    // The golden file has the logits of the last position.
    let expected = floats(&golden["adapters"][name]["last_logits"]);
    let found = logits(&folder, &ids(&golden["input_ids"]));
    let difference = largest_difference(&found[found.len() - expected.len()..], &expected);
    assert!(difference <= LOGITS, "{difference}");
}

#[test]
fn experts_are_packed_as_other_matrices_are() {
    let settings = ConversionSettings {
        dtype: Some(WeightType::Float32),
        ..packed(32, 4)
    };
    let result = converted(&tiny("mixtral"), &settings);
    let found = tensors(&result.folder);
    let experts = "model.layers.1.block_sparse_moe.switch_mlp";
    // Four experts of 48 rows; eight values of 4 bits in a word of 32, one scale to 32 values.
    let parts = [("weight", 4), ("scales", 1), ("biases", 1)];
    for (part, columns) in parts {
        assert_eq!(found[&format!("{experts}.up_proj.{part}")].shape(), [4, 48, columns]);
    }
    let left_plain = &result.conversion.left_plain;
    assert!(
        left_plain.contains(&format!("{experts}.down_proj (48 columns)")),
        "{left_plain:?}"
    );
}

#[test]
fn a_packed_base_stays_packed_unless_it_is_to_be_plain() {
    let base = converted(&tiny("llama"), &packed(32, 8));
    let parent = tempfile::tempdir().unwrap();
    let [packed, plain] = ["packed", "plain"].map(|name| parent.path().join(name));
    let source = files(&base.folder);
    let again = fuse_into_folder(&source, &adapter("adapter"), &packed, false).unwrap();
    assert!(again.is_packed);
    assert_eq!(settings_of(&packed)["quantization"]["bits"], 8);
    let unpacked = fuse_into_folder(&source, &adapter("adapter"), &plain, true).unwrap();
    assert!(!unpacked.is_packed);
    assert!(settings_of(&plain).get("quantization").is_none());
    assert!(tensors(&plain).keys().all(|name| !name.ends_with(".scales")));
    // Eight bits lose little of the adapter; the plain form only bfloat16's rounding.
    assert!(again.fuse_error < again.adapter_effect, "{again:?}");
    let input = ids(&golden("tiny/llama/golden.json")["input_ids"]);
    let difference = largest_difference(&logits(&packed, &input), &logits(&plain, &input));
    assert!(difference < again.adapter_effect / 2.0, "{difference} of {again:?}");
}

#[test]
fn an_adapter_of_another_model_is_refused_with_every_tensor() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("fused");
    let error = fuse_into_folder(&files(&tiny("llama-rope-scaling")), &adapter("adapter"), &folder, false).unwrap_err();
    assert!(
        matches!(&error, FuseFolderError::Mismatch(problems) if problems.len() >= 14),
        "{error}"
    );
    assert!(
        error.to_string().contains("not in the model: model.layers.1."),
        "{error}"
    );
    assert!(!folder.exists());
}

fn diagnose(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_diagnose"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn printed(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_command_converts_from_torch_to_a_packed_folder() {
    let source = in_format("model-torch");
    fs::copy(
        root().join("fixtures/golden/weights/model-npz/weights.00.npz"),
        source.path().join("weights.00.npz"),
    )
    .unwrap();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("mlx");
    let arguments = [
        "convert",
        "model",
        source.path().to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    let output = diagnose(&[&arguments[..], &["--bits", "4", "--group-size", "64"]].concat());
    let (stdout, stderr) = printed(&output);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stdout.contains("7 modules packed"), "{stdout}");
    assert!(
        stdout.contains("a sample pass of 8 tokens gives finite logits"),
        "{stdout}"
    );
    assert!(stderr.contains("weights.00.npz of the same folder are not"), "{stderr}");
    assert!(
        stderr.contains("stay plain: model.layers.0.mlp.down_proj (96 columns)"),
        "{stderr}"
    );
    assert!(ModelSource::Folder(out).load(PACKED_PRECISION).is_ok());
}

#[rstest]
#[case::seven_bits(&["--bits", "7"], "7 bits")]
#[case::both_ways(&["--bits", "4", "--dequantize"], "cannot be used with")]
#[case::two_kinds_of_bits(&["--bits", "4", "--quant-predicate", "mixed_2_6"], "cannot be used with")]
#[case::an_unknown_recipe(&["--quant-predicate", "mixed_9_9"], "mixed_4_6")]
fn the_command_refuses_what_cannot_be(#[case] options: &[&str], #[case] part: &str) {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("mlx");
    let source = tiny("llama");
    let arguments = [
        "convert",
        "model",
        source.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    let output = diagnose(&[&arguments[..], options].concat());
    let (_, stderr) = printed(&output);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(part), "{stderr}");
    assert!(!out.exists());
}

#[test]
fn the_command_fuses_and_says_how_much_of_the_adapter_is_kept() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("fused");
    let (model, adapter) = (tiny("llama"), tiny("llama").join("adapter"));
    let arguments = [
        "fuse",
        "--model",
        model.to_str().unwrap(),
        "--adapter",
        adapter.to_str().unwrap(),
    ];
    let output = diagnose(&[&arguments[..], &["--out", out.to_str().unwrap()]].concat());
    let (stdout, stderr) = printed(&output);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stdout.contains("14 layers fused"), "{stdout}");
    assert!(
        stdout.contains("the adapter moves the logits of a sample pass by up to"),
        "{stdout}"
    );
    assert!(ModelSource::Folder(out).load(EXACT_PRECISION).is_ok());
}
