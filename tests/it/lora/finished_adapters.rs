//! Adapters of every format, read from their files and applied to a base.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use approx::assert_relative_eq;
use mlx_diagnose::adapter::{
    AdapterKind, Application, ConvertError, LoraSettings, StoredAdapter, TargetFormat, attach, convert, fuse,
    save_adapter,
};
use mlx_diagnose::model::{CausalModel, ModelSource, load_safetensors, save_safetensors};
use mlx_rs::{Array, array, random};
use npyz::WriterBuilder;
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::golden::{EXACT_PRECISION, largest_difference, root};

const SCALE: f32 = 3.0;
const RANK: usize = 4;
const MLX_LM: &str = "adapters.safetensors";
const PEFT: &str = "adapter_model.safetensors";
const CONFIGURATION: &str = "adapter_config.json";

type Tensors = BTreeMap<String, Array>;

fn base() -> CausalModel {
    ModelSource::Folder(root().join("fixtures/embedded/model"))
        .load(EXACT_PRECISION)
        .unwrap()
        .model
}

/// The base with adapters that change it, trained by nobody.
fn adapted() -> CausalModel {
    let mut model = base();
    attach(&mut model, &settings(), 7).unwrap();
    let mut key = random::key(8).unwrap();
    for (_, linear) in model.linears_mut() {
        if let Some(lora_b) = &mut linear.lora_b.value {
            let (next, this) = random::split(&key, 2).unwrap();
            key = next;
            *lora_b = random::uniform::<_, f32>(-0.05, 0.05, lora_b.shape(), &this).unwrap();
        }
    }
    model
}

fn settings() -> LoraSettings {
    LoraSettings {
        rank: RANK,
        scale: SCALE,
        ..LoraSettings::default()
    }
}

fn logits(model: &CausalModel) -> Vec<f32> {
    let row = Array::from_slice(&[5_i32, 40, 300, 21, 77, 130, 9, 64], &[1, 8]);
    model.logits(&row).unwrap().as_slice::<f32>().to_vec()
}

/// An mlx-lm folder with the adapters of [`adapted`], changed.
fn mlx_lm_folder(change: impl FnOnce(&mut Tensors, &mut Value)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    save_adapter(&adapted(), &settings(), "tiny", folder.path()).unwrap();
    let mut tensors = load_safetensors(&folder.path().join(MLX_LM)).unwrap();
    let path = folder.path().join(CONFIGURATION);
    let mut configuration = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut tensors, &mut configuration);
    save_safetensors(&tensors, None, &folder.path().join(MLX_LM)).unwrap();
    fs::write(path, configuration.to_string()).unwrap();
    folder
}

/// A PEFT folder with the adapters of [`adapted`], changed.
fn peft_folder(configuration: &Value, change: impl Fn(&str, Array) -> Array) -> TempDir {
    let stored = mlx_lm_folder(|_, _| {});
    let tensors = load_safetensors(&stored.path().join(MLX_LM)).unwrap();
    let renamed: Tensors = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let (module, ending) = name.rsplit_once('.').unwrap();
            let ending = if ending == "lora_a" { "lora_A" } else { "lora_B" };
            let tensor = change(&name, tensor).t().contiguous().unwrap();
            (format!("base_model.model.{module}.{ending}.weight"), tensor)
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    save_safetensors(&renamed, None, &folder.path().join(PEFT)).unwrap();
    fs::write(folder.path().join(CONFIGURATION), configuration.to_string()).unwrap();
    folder
}

fn applied(folder: &Path) -> (StoredAdapter, CausalModel, Application) {
    let stored = StoredAdapter::read(folder).unwrap();
    let mut model = base();
    let application = stored.apply(&mut model).unwrap();
    (stored, model, application)
}

fn assert_same_logits(model: &CausalModel, expected: &CausalModel) {
    assert!(largest_difference(&logits(model), &logits(expected)) < 1e-4);
}

#[test]
fn weights_of_the_base_beside_an_adapter_are_taken_up_where_mlx_lm_calls_them() {
    // Beneath an adapter a layer is called `<module>.linear`; other weights keep their names.
    let (beneath, other) = ("model.layers.0.mlp.up_proj.linear.weight", "model.norm.weight");
    let mut expected = adapted();
    for (module, linear) in expected.linears_mut() {
        if module == "model.layers.0.mlp.up_proj" {
            linear.weight.value = linear.weight.value.multiply(array!(1.5)).unwrap();
        }
    }
    let trained = expected
        .linear("model.layers.0.mlp.up_proj")
        .unwrap()
        .weight
        .value
        .clone();
    expected.model.norm.weight.value = expected.model.norm.weight.value.multiply(array!(0.5)).unwrap();
    let norm = expected.model.norm.weight.value.clone();
    let folder = mlx_lm_folder(|tensors, _| {
        tensors.insert(beneath.to_owned(), trained);
        tensors.insert(other.to_owned(), norm);
        tensors.insert("model.norm.linear.weight".to_owned(), Array::from_f32(1.0));
    });
    let (_, model, application) = applied(folder.path());
    assert_same_logits(&model, &expected);
    assert!(application.applied.iter().any(|name| name == beneath) && application.problems.is_empty());
    assert_eq!(application.other_shape.len(), 1, "{application:?}");
}

#[test]
fn weights_of_the_base_as_they_are_beside_an_adapter_are_told_since_mlx_lm_refuses_them() {
    let norm = base().model.norm.weight.value.clone();
    let folder = mlx_lm_folder(|tensors, _| {
        tensors.insert("model.norm.weight".to_owned(), norm);
    });
    let (_, model, application) = applied(folder.path());
    assert_same_logits(&model, &adapted());
    assert!(
        application.problems[0].contains("1 weights of the base, unchanged"),
        "{application:?}"
    );
}

#[test]
fn an_adapter_of_mlx_lm_gives_the_logits_it_was_saved_with() {
    let folder = mlx_lm_folder(|_, _| {});
    let (_, model, application) = applied(folder.path());
    assert_same_logits(&model, &adapted());
    assert_eq!(application.applied.len(), 56);
    assert_eq!(application.expected.len(), 28);
    assert!(application.missing.is_empty() && application.unused.is_empty() && application.other_shape.is_empty());
}

#[test]
fn an_adapter_of_mlx_examples_has_scale_20() {
    let stored = mlx_lm_folder(|_, _| {});
    let tensors = load_safetensors(&stored.path().join(MLX_LM)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = fs::File::create(folder.path().join("adapters.npz")).unwrap();
    let mut archive = zip::ZipWriter::new(file);
    for (name, tensor) in &tensors {
        let shape: Vec<u64> = tensor.shape().iter().map(|&size| size as u64).collect();
        let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        archive.start_file(format!("{name}.npy"), stored).unwrap();
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&shape)
            .writer(&mut archive)
            .begin_nd()
            .unwrap();
        writer.extend(tensor.as_slice::<f32>().iter().copied()).unwrap();
        writer.finish().unwrap();
    }
    archive.finish().unwrap();
    let (_, model, application) = applied(folder.path());
    let mut expected = adapted();
    for (_, linear) in expected.linears_mut() {
        linear.low_rank.as_mut().unwrap().scale = 20.0;
    }
    assert_same_logits(&model, &expected);
    assert_eq!(application.applied.len(), 56);
}

#[rstest]
#[case::alpha_over_rank(json!({"peft_type": "LORA", "r": 4, "lora_alpha": 12}))]
#[case::alpha_over_the_root_of_the_rank(json!({"peft_type": "LORA", "r": 4, "lora_alpha": 6, "use_rslora": true}))]
#[case::a_pattern_for_some_modules(json!({
    "peft_type": "LORA", "r": 4, "lora_alpha": 4, "alpha_pattern": {"self_attn.*": 12, "model.layers.\\d+.mlp.*": 12},
}))]
fn an_adapter_of_peft_gives_the_logits_of_its_twin_in_mlx_lm(#[case] configuration: Value) {
    let folder = peft_folder(&configuration, |_, tensor| tensor);
    let (stored, model, application) = applied(folder.path());
    assert_eq!(
        (stored.problems, application.missing),
        (Vec::<String>::new(), Vec::new())
    );
    assert_same_logits(&model, &adapted());
}

#[test]
fn a_rank_of_its_own_divides_alpha_in_its_module_only() {
    // Half of the ranks of one module are dropped; its scale is alpha over the rank that is left.
    let of_one = |name: &str| name.contains("layers.1.mlp.up_proj");
    let kept = |name: &str, tensor: Array| {
        let axis = i32::from(name.ends_with("lora_a"));
        tensor.take_axis(Array::from_slice(&[0_i32, 1], &[2]), axis).unwrap()
    };
    let folder = peft_folder(
        &json!({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "rank_pattern": {"layers.1.mlp.up_proj": 2}}),
        |name, tensor| if of_one(name) { kept(name, tensor) } else { tensor },
    );
    let (stored, model, _) = applied(folder.path());
    assert_eq!(stored.problems, Vec::<String>::new());
    let mut expected = adapted();
    for (module, linear) in expected.linears_mut() {
        if of_one(&module) {
            for (ending, matrix) in [("lora_a", &mut linear.lora_a), ("lora_b", &mut linear.lora_b)] {
                matrix.value = matrix.value.take().map(|matrix| kept(ending, matrix));
            }
            linear.low_rank.as_mut().unwrap().scale = 6.0;
        }
    }
    assert_same_logits(&model, &expected);
}

/// `W' = m (W + s (A B)^T) / |W + s (A B)^T|`, row by row (Liu et al. 2024, arXiv 2402.09353), in f64.
fn dora(weight: &[f32], lora_a: &[f32], lora_b: &[f32], magnitude: &[f32], inputs: usize) -> Vec<f32> {
    let outputs = magnitude.len();
    let mut result = Vec::with_capacity(weight.len());
    for output in 0..outputs {
        let row: Vec<f64> = (0..inputs)
            .map(|input| {
                let change: f64 = (0..RANK)
                    .map(|rank| f64::from(lora_a[input * RANK + rank]) * f64::from(lora_b[rank * outputs + output]))
                    .sum();
                f64::from(weight[output * inputs + input]) + f64::from(SCALE) * change
            })
            .collect();
        let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        let factor = f64::from(magnitude[output]) / norm;
        result.extend(row.iter().map(|value| (value * factor) as f32));
    }
    result
}

#[test]
fn magnitudes_act_as_the_paper_says() {
    let folder = mlx_lm_folder(|tensors, configuration| {
        configuration["fine_tune_type"] = json!("dora");
        let modules: Vec<(String, i32)> = tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_suffix(".lora_b")?.to_owned(), tensor.dim(1))))
            .collect();
        for (index, (module, outputs)) in modules.into_iter().enumerate() {
            let key = random::key(index as u64).unwrap();
            let magnitude = random::uniform::<_, f32>(0.5, 1.5, &[outputs], &key).unwrap();
            tensors.insert(format!("{module}.m"), magnitude);
        }
    });
    let (stored, model, application) = applied(folder.path());
    assert_eq!(stored.kind, AdapterKind::Dora);
    assert_eq!((application.applied.len(), application.missing.len()), (84, 0));
    let mut expected = base();
    for (module, linear) in expected.linears_mut() {
        let values = |ending: &str| stored.tensors[&format!("{module}.{ending}")].as_slice::<f32>().to_vec();
        let (outputs, inputs) = linear.shape();
        let weight = dora(
            linear.weight.value.as_slice::<f32>(),
            &values("lora_a"),
            &values("lora_b"),
            &values("m"),
            inputs as usize,
        );
        linear.weight.value = Array::from_slice(&weight, &[outputs, inputs]);
    }
    assert_same_logits(&model, &expected);
    let mut fused = model.clone();
    fuse(&mut fused).unwrap();
    assert_same_logits(&fused, &expected);
}

#[test]
fn magnitudes_that_are_not_in_the_file_are_those_of_the_base() {
    let folder = mlx_lm_folder(|_, configuration| configuration["fine_tune_type"] = json!("dora"));
    let (_, model, application) = applied(folder.path());
    assert_eq!(application.missing, Vec::<String>::new());
    let own = base();
    let own = own.linears();
    for ((_, adapted), (_, own)) in model.linears().into_iter().zip(own) {
        let norms = |weight: Array| weight.square().unwrap().sum_axis(1, false).unwrap().sqrt().unwrap();
        let (found, expected) = (
            norms(adapted.adapted_weight().unwrap()),
            norms(own.weight.value.clone()),
        );
        for (found, expected) in found.as_slice::<f32>().iter().zip(expected.as_slice::<f32>()) {
            assert_relative_eq!(found, expected, max_relative = 1e-5);
        }
    }
}

#[test]
fn whole_weights_of_the_last_blocks_replace_the_bases() {
    let trained = adapted();
    let mut fused = trained.clone();
    fuse(&mut fused).unwrap();
    let last: Tensors = fused
        .linears()
        .into_iter()
        .filter(|(module, _)| module.starts_with("model.layers.3."))
        .map(|(module, linear)| (format!("{module}.weight"), linear.weight.value.clone()))
        .collect();
    let folder = mlx_lm_folder(|tensors, configuration| {
        *tensors = last.clone();
        *configuration = json!({"fine_tune_type": "full", "num_layers": 1, "lora_parameters": null});
    });
    let (stored, model, application) = applied(folder.path());
    assert_eq!((stored.kind, application.applied.len()), (AdapterKind::Full, 7));
    // The norms of the block are called for too, since everything in it is trained.
    assert_eq!(
        application.missing,
        [
            "model.layers.3.input_layernorm.weight",
            "model.layers.3.post_attention_layernorm.weight"
        ]
    );
    let mut expected = base();
    for (module, linear) in expected.linears_mut() {
        if let Some(weight) = last.get(&format!("{module}.weight")) {
            linear.weight.value = weight.clone();
        }
    }
    assert_same_logits(&model, &expected);
}

fn drop_names(tensors: &mut Tensors, dropped: impl Fn(&str) -> bool) {
    tensors.retain(|name, _| !dropped(name));
}

#[rstest]
#[case::all_of_them(|_: &str| true, 56, 0)]
#[case::every_second_matrix(|name: &str| name.ends_with("lora_b"), 28, 0)]
#[case::the_last_block(|name: &str| name.starts_with("model.layers.3."), 14, 42)]
#[case::one_module(|name: &str| name.starts_with("model.layers.2.mlp.up_proj"), 2, 54)]
fn tensors_that_the_file_lacks_are_listed(
    #[case] dropped: fn(&str) -> bool,
    #[case] missing: usize,
    #[case] left: usize,
) {
    let folder = mlx_lm_folder(|tensors, _| drop_names(tensors, dropped));
    let (_, model, application) = applied(folder.path());
    assert_eq!((application.missing.len(), application.applied.len()), (missing, left));
    assert_eq!(application.only_last_blocks, None);
    if left == 0 {
        assert_same_logits(&model, &base());
    }
}

#[rstest]
#[case::every_key_spelt_out(false)]
#[case::keys_left_out(true)]
fn the_last_blocks_alone_are_whole(#[case] without_keys: bool) {
    let folder = mlx_lm_folder(|tensors, configuration| {
        drop_names(tensors, |name| name < "model.layers.2.");
        if without_keys {
            configuration["lora_parameters"].as_object_mut().unwrap().remove("keys");
        }
    });
    let (_, _, application) = applied(folder.path());
    assert_eq!(application.missing, Vec::<String>::new());
    assert_eq!(application.only_last_blocks, Some(2));
    assert_eq!(application.expected.len(), 14);
}

#[test]
fn queries_and_values_alone_are_whole_where_no_keys_are_stored() {
    let folder = mlx_lm_folder(|tensors, configuration| {
        drop_names(tensors, |name| !name.contains("q_proj") && !name.contains("v_proj"));
        configuration["lora_parameters"].as_object_mut().unwrap().remove("keys");
    });
    let (_, _, application) = applied(folder.path());
    assert_eq!((application.expected.len(), application.missing.len()), (8, 0));
}

#[test]
fn a_base_of_another_width_takes_nothing_and_says_why() {
    let wide = |tensor: &Array| mlx_rs::ops::concatenate(&[tensor, tensor], 0).unwrap();
    let folder = mlx_lm_folder(|tensors, _| {
        for (name, tensor) in tensors.iter_mut() {
            if name.ends_with("lora_a") {
                *tensor = wide(tensor);
            }
        }
    });
    let (_, model, application) = applied(folder.path());
    assert_eq!((application.other_shape.len(), application.applied.len()), (28, 0));
    assert_eq!(
        application.other_shape[0],
        "model.layers.0.mlp.down_proj.lora_a: [768, 4] for [384, 4]"
    );
    assert_same_logits(&model, &base());
}

#[test]
fn tensors_of_a_deeper_model_are_left_over() {
    let folder = mlx_lm_folder(|tensors, _| {
        let deeper: Tensors = tensors
            .iter()
            .filter(|(name, _)| name.starts_with("model.layers.3."))
            .map(|(name, tensor)| (name.replace("layers.3", "layers.4"), tensor.clone()))
            .collect();
        tensors.extend(deeper);
    });
    let (_, model, application) = applied(folder.path());
    assert_eq!(application.unused.len(), 14);
    assert_same_logits(&model, &adapted());
}

type Rewrite = fn(&mut Value);

#[rstest]
#[case::rank(|c: &mut Value| c["lora_parameters"]["rank"] = json!(16), "`rank` is 16 and the tensors have 4")]
#[case::alpha(
    |c: &mut Value| c["lora_parameters"] = json!({"rank": 4, "alpha": 12, "dropout": 0.0}),
    "`scale` is absent, and mlx-lm does not read `alpha` (12)"
)]
#[case::kind(|c: &mut Value| c["fine_tune_type"] = json!("qlora"), "`fine_tune_type` is \"qlora\", none of `lora`, `dora` and `full`")]
#[case::keys(|c: &mut Value| c["lora_parameters"]["keys"] = json!("q_proj"), "`keys` is \"q_proj\", no list of paths")]
#[case::fewer_blocks_than_there_are(
    |c: &mut Value| c["num_layers"] = json!(2),
    "`num_layers` and `keys` do not call for 14 of 28 modules that have tensors, and mlx-lm refuses to load them"
)]
#[case::unknown_key(|c: &mut Value| c["lora_parameters"]["keys"] = json!(["auto"]), "no linear layer matches `auto`")]
#[case::layers(|c: &mut Value| c["num_layers"] = json!("all"), "`num_layers` is \"all\", no whole number")]
#[case::parameters(|c: &mut Value| c["lora_parameters"] = Value::Null, "`lora_parameters` is absent")]
#[case::scale(|c: &mut Value| c["lora_parameters"]["scale"] = json!(1e300), "`scale` is 1e+300, no finite number")]
#[case::no_rank(|c: &mut Value| c["lora_parameters"]["rank"] = json!(0), "`rank` is 0, no whole number above 0")]
#[case::all_dropped(
    |c: &mut Value| c["lora_parameters"]["dropout"] = json!(1.0),
    "`dropout` is 1.0, no number from 0 to below 1"
)]
fn a_wrong_configuration_is_told_and_what_can_be_is_applied(#[case] rewrite: Rewrite, #[case] problem: &str) {
    let folder = mlx_lm_folder(|_, configuration| rewrite(configuration));
    let (stored, _, application) = applied(folder.path());
    let problems = [stored.problems, application.problems].concat();
    assert_eq!(problems, [problem]);
    assert_eq!(application.applied.len(), 56);
}

#[rstest]
#[case::no_kind(json!({"r": 4, "lora_alpha": 12}), "`peft_type` is absent")]
#[case::changed_base(
    json!({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "init_lora_weights": "pissa_niter_4"}),
    "`init_lora_weights` is `pissa_niter_4`, which also changed the base: the adapter alone is not the whole model"
)]
#[case::no_alpha(json!({"peft_type": "LORA", "r": 4}), "`lora_alpha` is absent or no number")]
#[case::bias(
    json!({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "bias": "lora_only"}),
    "`bias` asks for trained biases, and they are not read"
)]
#[case::no_pattern(
    json!({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "alpha_pattern": {"(q_proj": 3}}),
    "`alpha_pattern` has `(q_proj`, which is no pattern"
)]
#[case::a_rank_beyond_32_bits(
    json!({"peft_type": "LORA", "r": 4_294_967_300_u64, "lora_alpha": 3, "rank_pattern": {".*": 4}}),
    "`r` is 4294967300, no whole number from 1 to 4294967295"
)]
fn what_mlx_lm_cannot_hold_is_told(#[case] configuration: Value, #[case] problem: &str) {
    let folder = peft_folder(&configuration, |_, tensor| tensor);
    assert_eq!(StoredAdapter::read(folder.path()).unwrap().problems, [problem]);
}

#[test]
fn another_kind_of_peft_is_named_with_what_to_do() {
    let folder = peft_folder(&json!({"peft_type": "IA3", "target_modules": []}), |_, tensor| tensor);
    let error = StoredAdapter::read(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("is no LoRA") && error.contains("\"IA3\"") && error.contains("hint: merge"),
        "{error}"
    );
}

#[test]
fn patterns_may_look_ahead_as_python_lets_them() {
    let configuration = json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 4,
        "alpha_pattern": {"(?!model\\.layers\\.0\\.).*": 12, "model.layers.0.*": 12},
    });
    let folder = peft_folder(&configuration, |_, tensor| tensor);
    let (stored, model, _) = applied(folder.path());
    assert!(stored.problems.is_empty(), "{:?}", stored.problems);
    assert_same_logits(&model, &adapted());
}

#[test]
fn a_pattern_that_takes_for_ever_is_told() {
    let configuration =
        json!({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "alpha_pattern": {"(([a-z_.0-9])+)+!": 3}});
    let folder = peft_folder(&configuration, |_, tensor| tensor);
    let problems = StoredAdapter::read(folder.path()).unwrap().problems;
    assert!(problems[0].contains("which cannot be matched with"), "{problems:?}");
}

#[test]
fn two_names_of_one_tensor_are_told() {
    let folder = peft_folder(&json!({"peft_type": "LORA", "r": 4, "lora_alpha": 12}), |_, tensor| {
        tensor
    });
    let path = folder.path().join(PEFT);
    let mut tensors = load_safetensors(&path).unwrap();
    let name = "base_model.model.model.layers.0.mlp.up_proj.lora_A";
    let twice = tensors[&format!("{name}.weight")].clone();
    tensors.insert(format!("{name}.default.weight"), twice);
    save_safetensors(&tensors, None, &path).unwrap();
    let [aside] = StoredAdapter::read(folder.path())
        .unwrap()
        .set_aside
        .try_into()
        .unwrap();
    assert!(
        aside.contains("lora_A") && aside.contains("the same tensor as another name"),
        "{aside}"
    );
}

#[test]
fn a_bias_of_an_adapter_is_called_one() {
    let folder = peft_folder(&json!({"peft_type": "LORA", "r": 4, "lora_alpha": 12}), |_, tensor| {
        tensor
    });
    let path = folder.path().join(PEFT);
    let mut tensors = load_safetensors(&path).unwrap();
    let name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.bias";
    tensors.insert(name.to_owned(), Array::from_slice(&[1.0_f32], &[1]));
    save_safetensors(&tensors, None, &path).unwrap();
    let [aside] = StoredAdapter::read(folder.path())
        .unwrap()
        .set_aside
        .try_into()
        .unwrap();
    assert!(
        aside.contains("lora_B.bias") && aside.contains("a trained bias"),
        "{aside}"
    );
}

#[rstest]
#[case::a_list("[]", "a list")]
#[case::a_number("3", "3")]
#[case::nothing("null", "null")]
fn a_configuration_that_is_no_object_is_called_one(#[case] text: &str, #[case] found: &str) {
    for folder in [mlx_lm_folder(|_, _| {}), peft_folder(&json!({}), |_, tensor| tensor)] {
        fs::write(folder.path().join(CONFIGURATION), text).unwrap();
        let error = StoredAdapter::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("found: {found}\n")), "{error}");
    }
}

#[test]
fn a_whole_weight_beside_the_adapter_is_set_aside() {
    let folder = peft_folder(&json!({"peft_type": "LORA", "r": 4, "lora_alpha": 12}), |_, tensor| {
        tensor
    });
    let path = folder.path().join(PEFT);
    let mut tensors = load_safetensors(&path).unwrap();
    let head = Array::from_slice(&[1.0_f32, 2.0], &[1, 2]);
    tensors.insert("base_model.model.lm_head.weight".to_owned(), head);
    save_safetensors(&tensors, None, &path).unwrap();
    let (stored, model, _) = applied(folder.path());
    let [aside] = stored.set_aside.as_slice() else {
        panic!("{:?}", stored.set_aside)
    };
    assert!(
        aside.contains("lm_head.weight") && aside.contains("modules_to_save"),
        "{aside}"
    );
    assert_same_logits(&model, &adapted());
}

#[rstest]
#[case::nothing(&[], "there is no adapter in `FOLDER`")]
#[case::a_pickle(&[("adapter_model.bin", "")], "is stored as a pickle")]
#[case::no_weights(&[(MLX_LM, "")], "No such file")]
#[case::no_json(&[(MLX_LM, ""), (CONFIGURATION, "{")], "the adapter settings in")]
#[case::an_empty_file(&[(MLX_LM, ""), (CONFIGURATION, "{}")], "is not a safetensors file")]
#[case::no_archive(&[("adapters.npz", "PK")], "is not a usable archive of tensors")]
fn files_that_cannot_be_read_are_refused(#[case] files: &[(&str, &str)], #[case] message: &str) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let error = StoredAdapter::read(folder.path()).unwrap_err().to_string();
    let message = message.replace("FOLDER", &folder.path().display().to_string());
    assert!(error.contains(&message), "{error}");
}

#[rstest]
#[case::mlx_lm(TargetFormat::MlxLm)]
#[case::peft(TargetFormat::Peft)]
fn a_converted_adapter_does_what_it_did(#[case] target: TargetFormat) {
    // One module has half of the ranks, two have scales of their own, and one block has no adapter.
    let kept = |name: &str, tensor: Array| {
        let axis = i32::from(name.ends_with("lora_a"));
        tensor.take_axis(Array::from_slice(&[0_i32, 1], &[2]), axis).unwrap()
    };
    let folder = peft_folder(
        &json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 12, "rank_pattern": {"layers.2.mlp.up_proj": 2},
            "alpha_pattern": {"layers.[12].self_attn.q_proj": 48},
        }),
        |name, tensor| {
            if name.contains("layers.2.mlp.up_proj") {
                kept(name, tensor)
            } else {
                tensor
            }
        },
    );
    let path = folder.path().join(PEFT);
    let mut tensors = load_safetensors(&path).unwrap();
    tensors.retain(|name, _| !name.contains("layers.0.") && !name.contains("layers.3.mlp."));
    save_safetensors(&tensors, None, &path).unwrap();
    let (stored, expected, _) = applied(folder.path());
    let converted = tempfile::tempdir().unwrap();
    convert(&stored, target, Some(4), converted.path()).unwrap();
    let (read, model, application) = applied(converted.path());
    assert_same_logits(&model, &expected);
    assert_eq!(
        (read.problems, read.set_aside),
        (Vec::<String>::new(), Vec::<String>::new())
    );
    assert_eq!(
        (application.missing, application.unused, application.only_last_blocks),
        (Vec::<String>::new(), Vec::<String>::new(), None)
    );
}

#[test]
fn an_adapter_of_one_rank_and_scale_needs_no_patterns_in_peft() {
    let stored = StoredAdapter::read(mlx_lm_folder(|_, _| {}).path()).unwrap();
    let converted = tempfile::tempdir().unwrap();
    convert(&stored, TargetFormat::Peft, Some(4), converted.path()).unwrap();
    let text = fs::read(converted.path().join(CONFIGURATION)).unwrap();
    let configuration: Value = serde_json::from_slice(&text).unwrap();
    // PEFT multiplies by `lora_alpha / r`.
    assert_eq!(configuration["r"], json!(RANK));
    assert_eq!(configuration["lora_alpha"], json!(f64::from(SCALE) * RANK as f64));
    assert_eq!(configuration["rank_pattern"], json!({}));
    assert_eq!(configuration["alpha_pattern"], json!({}));
}

#[rstest]
#[case::a_block_of_gpt2("model.h.0.attn.c_attn", "`model.h.0.attn.c_attn` has another name in transformers")]
#[case::a_table("model.embed_tokens", "`model.embed_tokens` is an embedding")]
fn what_has_another_form_in_peft_is_converted_for_mlx_lm_only(#[case] module: &str, #[case] message: &str) {
    let folder = mlx_lm_folder(|tensors, _| {
        for ending in ["lora_a", "lora_b"] {
            let tensor = tensors.remove(&format!("model.layers.1.mlp.up_proj.{ending}")).unwrap();
            tensors.insert(format!("{module}.{ending}"), tensor);
        }
    });
    let stored = StoredAdapter::read(folder.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let error = convert(&stored, TargetFormat::Peft, None, out.path()).unwrap_err();
    assert!(error.to_string().contains(message), "{error}");
    assert_eq!(convert(&stored, TargetFormat::MlxLm, None, out.path()).unwrap(), 56);
}

#[test]
fn whole_weights_are_no_adapter_of_peft() {
    let mut fused = adapted();
    fuse(&mut fused).unwrap();
    let folder = mlx_lm_folder(|tensors, configuration| {
        let weights = fused.linears().into_iter();
        *tensors = weights
            .map(|(module, linear)| (format!("{module}.weight"), linear.weight.value.clone()))
            .collect();
        *configuration = json!({"fine_tune_type": "full", "num_layers": -1, "lora_parameters": null});
    });
    let stored = StoredAdapter::read(folder.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let error = convert(&stored, TargetFormat::Peft, None, out.path()).unwrap_err();
    assert!(matches!(error, ConvertError::WholeWeights), "{error}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

type Damage = fn(&mut Tensors);

#[rstest]
#[case::one_of_two(|tensors: &mut Tensors| drop_names(tensors, |name| name == "model.layers.1.mlp.up_proj.lora_b"), "`model.layers.1.mlp.up_proj` has one of its two matrices")]
#[case::no_matrix(
    |tensors: &mut Tensors| { tensors.insert("model.layers.1.mlp.up_proj.lora_a".to_owned(), Array::from_slice(&[1.0_f32; 8], &[8])); },
    "the matrices of `model.layers.1.mlp.up_proj` do not fit together"
)]
#[case::a_number(
    |tensors: &mut Tensors| { tensors.insert("model.layers.1.mlp.up_proj.lora_a".to_owned(), Array::from_f32(1.0)); },
    "the matrices of `model.layers.1.mlp.up_proj` do not fit together"
)]
#[case::nothing(Tensors::clear, "there is no `lora_a` and no `lora_b`")]
fn what_is_no_whole_adapter_is_not_converted(
    #[case] damage: Damage,
    #[case] message: &str,
    #[values(TargetFormat::MlxLm, TargetFormat::Peft)] target: TargetFormat,
) {
    let folder = mlx_lm_folder(|tensors, _| damage(tensors));
    let (stored, ..) = applied(folder.path());
    let out = tempfile::tempdir().unwrap();
    let error = convert(&stored, target, Some(4), out.path()).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

#[test]
fn what_conversion_would_lose_is_refused_and_nothing_is_written() {
    let folder = peft_folder(
        &json!({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "bias": "all"}),
        |_, tensor| tensor,
    );
    let stored = StoredAdapter::read(folder.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let error = convert(&stored, TargetFormat::MlxLm, None, out.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("the adapter cannot be converted without loss\n  `bias`"),
        "{error}"
    );
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}
