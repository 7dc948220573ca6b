//! Whether the probes of the last phase see what happens to an adapter that is saved, loaded and fused.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use approx::assert_relative_eq;
use mlx_diagnose::adapter::{LoraSettings, attach, fuse, load_adapter, save_adapter};
use mlx_diagnose::evidence::{FuseEvidence, ReloadEvidence};
use mlx_diagnose::model::{CausalModel, ModelSource, load_safetensors, save_safetensors};
use mlx_diagnose::param_snapshot::ParameterSnapshot;
use mlx_diagnose::probes::divergence::{HeldOutRow, held_out_shift, sampled_log_probabilities};
use mlx_diagnose::probes::fuse::FuseProbe;
use mlx_diagnose::probes::reload::{ReloadProbe, Reloaded};
use mlx_diagnose::probes::update_size::module_updates;
use mlx_diagnose::train::Lanes;
use mlx_rs::{Array, random};
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::golden::{EXACT_PRECISION, root};

const TENSORS: &str = "adapters.safetensors";
const CONFIGURATION: &str = "adapter_config.json";

fn settings() -> LoraSettings {
    LoraSettings {
        rank: 4,
        scale: 3.0,
        ..LoraSettings::default()
    }
}

fn base() -> CausalModel {
    let source = ModelSource::Folder(root().join("fixtures/embedded/model"));
    source.load(EXACT_PRECISION).unwrap().model
}

/// The base with adapters that change it.
fn adapted(base: &CausalModel) -> CausalModel {
    let mut model = base.clone();
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

fn row() -> Array {
    Array::from_slice(&[5_i32, 40, 300, 21, 77, 130, 9, 64], &[1, 8])
}

/// Saves, lets `tamper` change the folder, loads and measures.
fn reload(tamper: impl Fn(&Path)) -> ReloadEvidence {
    let base = base();
    let live = adapted(&base);
    let folder = tempfile::tempdir().unwrap();
    let saved = save_adapter(&live, &settings(), "tiny", folder.path()).unwrap();
    tamper(folder.path());
    let mut model = base.clone();
    let loading = load_adapter(&mut model, folder.path()).map(Some);
    let logits = loading.is_ok().then(|| model.logits(&row()).unwrap());
    ReloadProbe {
        live: &live,
        base: &ParameterSnapshot::capture(&base),
        base_logits: &base.logits(&row()).unwrap(),
        live_logits: &live.logits(&row()).unwrap(),
    }
    .measure(&Reloaded {
        saved: Some(saved),
        folder: folder.path(),
        model: &model,
        loading,
        logits: logits.as_ref(),
    })
    .unwrap()
}

fn change_configuration(folder: &Path, change: impl Fn(&mut Value)) {
    let path = folder.join(CONFIGURATION);
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn change_tensors(folder: &Path, change: impl Fn(BTreeMap<String, Array>) -> BTreeMap<String, Array>) {
    let path = folder.join(TENSORS);
    let tensors = change(load_safetensors(&path).unwrap());
    save_safetensors(&tensors, None, &path).unwrap();
}

#[test]
fn an_untouched_folder_comes_back_whole() {
    let evidence = reload(|_| {});
    assert_eq!(evidence.loaded, evidence.saved);
    assert_eq!(evidence.stored, Some(evidence.saved));
    assert_eq!(evidence.difference_from_live, Some(0.0));
    assert!(evidence.live_from_base.unwrap() > 0.1);
    assert_eq!((evidence.refused, evidence.other_format), (None, None));
    assert!(evidence.lost.is_empty() && evidence.other_base.is_empty());
    assert_eq!(evidence.configuration_problems, Vec::<String>::new());
}

#[rstest]
#[case::no_file(|folder: &Path| fs::remove_file(folder.join(CONFIGURATION)).unwrap(), "there is no `adapter_config.json`")]
#[case::another_scale(
    |folder: &Path| change_configuration(folder, |value| value["lora_parameters"]["scale"] = json!(1)),
    "`scale` is 1, the live adapters have 3"
)]
#[case::another_rank(
    |folder: &Path| change_configuration(folder, |value| value["lora_parameters"]["rank"] = json!(8)),
    "`rank` is 8, the live adapters have 4"
)]
#[case::text_for_a_number(
    |folder: &Path| change_configuration(folder, |value| value["lora_parameters"]["scale"] = json!("3")),
    "`scale` is \"3\", not a number"
)]
#[case::unresolved_keys(
    |folder: &Path| change_configuration(folder, |value| value["lora_parameters"]["keys"] = json!(["auto"])),
    "no linear layer matches `auto`"
)]
#[case::fewer_layers(
    |folder: &Path| change_configuration(folder, |value| value["num_layers"] = json!(1)),
    "`keys` and `num_layers` name 7 layers, 7 of them among the 28 that carry adapters"
)]
#[case::no_layers(
    |folder: &Path| change_configuration(folder, |value| {
        value.as_object_mut().unwrap().remove("num_layers");
    }),
    "`num_layers` is absent"
)]
#[case::another_type(
    |folder: &Path| change_configuration(folder, |value| value["fine_tune_type"] = json!("dora")),
    "`fine_tune_type` is \"dora\", the live adapters are `lora`"
)]
fn a_configuration_that_does_not_fit_is_said_in_one_clause(#[case] tamper: fn(&Path), #[case] problem: &str) {
    assert_eq!(reload(tamper).configuration_problems, [problem]);
}

#[test]
fn a_file_that_lacks_tensors_is_compared_although_loading_refuses_it() {
    let evidence = reload(|folder| {
        change_tensors(folder, |tensors| tensors.into_iter().skip(2).collect());
    });
    assert!(evidence.refused.is_some_and(|reason| reason.contains("missing: ")));
    assert_eq!(evidence.stored, Some(evidence.saved - 2));
    assert_eq!(evidence.loaded, evidence.saved - 2);
    assert_eq!(evidence.lost.total, 2);
    assert_eq!(evidence.difference_from_live, None);
}

#[test]
fn a_file_that_is_cut_off_holds_nothing() {
    let evidence = reload(|folder| {
        let path = folder.join(TENSORS);
        let contents = fs::read(&path).unwrap();
        fs::write(path, &contents[..contents.len() / 2]).unwrap();
    });
    assert!(evidence.refused.is_some());
    assert_eq!((evidence.stored, evidence.loaded), (None, 0));
    assert_eq!(evidence.lost.total, evidence.saved);
    assert_eq!(evidence.configuration_problems, Vec::<String>::new());
}

#[test]
fn names_of_peft_are_recognised() {
    let evidence = reload(|folder| {
        change_tensors(folder, |tensors| {
            let renamed = tensors.into_iter();
            renamed
                .map(|(name, tensor)| (format!("base_model.model.{name}.weight"), tensor))
                .collect()
        });
    });
    assert_eq!(evidence.other_format.as_deref(), Some("PEFT"));
    assert!(evidence.refused.is_some());
}

#[test]
fn a_reason_for_refusing_names_no_folder() {
    let evidence = reload(|folder| fs::remove_file(folder.join(TENSORS)).unwrap());
    let reason = evidence.refused.unwrap();
    assert!(
        reason.contains("adapters.safetensors") && !reason.contains("tmp"),
        "{reason}"
    );
}

fn fused(change: impl Fn(&mut CausalModel)) -> FuseEvidence {
    let live = adapted(&base());
    let live_logits = live.logits(&row()).unwrap();
    let mut model = live.clone();
    change(&mut model);
    let layers = fuse(&mut model).unwrap();
    FuseProbe {
        live: &live,
        tokens: &row(),
        live_logits: &live_logits,
        live_log_probabilities: &sampled_log_probabilities(&live_logits).unwrap(),
    }
    .measure(model, layers)
    .unwrap()
}

#[test]
fn fused_weights_hold_the_whole_adapter_and_answer_like_it() {
    let evidence = fused(|_| {});
    assert_eq!((evidence.fused, evidence.bits), (28, None));
    assert_relative_eq!(evidence.kept.unwrap(), 1.0, max_relative = 1e-4);
    assert!(evidence.difference_from_live.unwrap() < 1e-3);
    assert!(evidence.divergence_from_live.unwrap() < 1e-6);
}

#[test]
fn half_the_scale_fuses_half_the_adapter() {
    let evidence = fused(|model| {
        for (_, linear) in model.linears_mut() {
            if let Some(low_rank) = &mut linear.low_rank {
                low_rank.scale *= 0.5;
            }
        }
    });
    assert_relative_eq!(evidence.kept.unwrap(), 0.5, max_relative = 1e-4);
    assert!(evidence.divergence_from_live.unwrap() > 1e-3);
}

#[test]
fn logits_given_block_by_block_are_those_of_the_whole_model() {
    let model = adapted(&base());
    let expected = model.logits(&row()).unwrap();
    let mut passed = Vec::new();
    let paths: Vec<String> = model.linears().into_iter().map(|(path, _)| path).collect();
    let logits = model
        .into_logits(&row(), |path, _| {
            passed.push(path.to_owned());
            Ok(())
        })
        .unwrap();
    assert_eq!(passed, paths);
    assert_eq!(logits.as_slice::<f32>(), expected.as_slice::<f32>());
}

#[test]
fn updates_are_listed_for_every_adapter_and_grow_with_the_scale() {
    let mut model = adapted(&base());
    let relative = |model: &CausalModel| -> Vec<f64> {
        let updates = module_updates(model, &BTreeMap::new()).unwrap();
        assert!(updates.iter().all(|update| update.quantization_steps.is_none()));
        updates.into_iter().map(|update| update.relative.unwrap()).collect()
    };
    let before = relative(&model);
    for (_, linear) in model.linears_mut() {
        if let Some(low_rank) = &mut linear.low_rank {
            low_rank.scale *= 2.0;
        }
    }
    assert_eq!(before.len(), 28);
    for (before, after) in before.into_iter().zip(relative(&model)) {
        assert_relative_eq!(after, 2.0 * before, max_relative = 1e-5);
    }
}

#[test]
fn a_held_out_row_costs_the_base_nothing_more_and_the_adapted_model_something() {
    let base = base();
    let rows = [HeldOutRow {
        tokens: vec![5, 40, 300, 21, 77, 130],
        answer: 2,
    }];
    let same = held_out_shift(&base, &base, &rows, &Lanes::on_cpu(2)).unwrap().unwrap();
    assert_eq!((same.divergence, same.rise), (Some(0.0), Some(0.0)));
    let moved = held_out_shift(&base, &adapted(&base), &rows, &Lanes::on_cpu(2))
        .unwrap()
        .unwrap();
    assert!(moved.divergence.unwrap() > 1e-3);
    assert!(moved.rise.unwrap().abs() > 1e-3);
    assert_eq!(held_out_shift(&base, &base, &[], &Lanes::on_cpu(2)).unwrap(), None);
}
