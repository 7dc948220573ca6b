//! Low-rank adapters by what they are made of; `scripts/test-lora` runs these, `scripts/test-lora-quick` those of
//! [`configuration`] and [`layer`].

use std::collections::BTreeSet;

use approx::assert_relative_eq;
use mlx_diagnose::adapter::{
    AdapterSet, AdapterSetError, AttachError, LoraSettings, StoredAdapter, attach, attach_magnitudes, attached_modules,
    load_adapter, merge, save_adapter,
};
use mlx_diagnose::data::{Batch, Example};
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::model::{CausalModel, Linear, LowRankSettings, ModelSource, Packing, QuantizationMode, pack_folder};
use mlx_diagnose::param_snapshot::ParameterSnapshot;
use mlx_diagnose::train::{
    Lanes, Schedule, Sgd, SgdSettings, TrainSettings, Trainer, UpdateOutcome, loss_and_gradients, mean_loss,
};
use mlx_rs::Array;
use mlx_rs::module::{ModuleParameters, Param};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::golden::{EXACT_PRECISION, PACKED_PRECISION, row, tiny};
use crate::support::moved_adapter::attach_moved;

fn model() -> CausalModel {
    ModelSource::Folder(tiny("llama")).load(EXACT_PRECISION).unwrap().model
}

fn values(array: &Array) -> Vec<f32> {
    array.contiguous().unwrap().to_vec_exact::<f32>().unwrap()
}

fn logits(model: &CausalModel) -> Vec<f32> {
    values(&model.logits(&row(&[1, 5, 9, 2, 7])).unwrap())
}

mod configuration {
    use super::*;

    fn refused(settings: &LoraSettings) -> AttachError {
        attach(&mut model(), settings, 0).unwrap_err()
    }

    #[test]
    fn the_defaults_are_those_of_mlx_lm() {
        let settings = LoraSettings::default();
        assert_eq!((settings.rank, settings.scale, settings.dropout), (8, 20.0, 0.0));
        assert_eq!(settings.layers, None);
    }

    #[test]
    fn keys_choose_the_layers_of_every_block() {
        let mut model = model();
        let settings = LoraSettings {
            keys: vec!["self_attn.q_proj".to_owned(), "mlp.down_proj".to_owned()],
            ..LoraSettings::default()
        };
        let adapted = attach(&mut model, &settings, 0).unwrap();
        let blocks = model.model.layers.len();
        assert_eq!(adapted.len(), 2 * blocks);
        assert!(
            adapted
                .iter()
                .all(|path| path.ends_with("q_proj") || path.ends_with("down_proj"))
        );
    }

    #[test]
    fn layers_are_counted_from_the_last_block() {
        let mut model = model();
        let settings = LoraSettings {
            layers: Some(1),
            ..LoraSettings::default()
        };
        let last = format!("model.layers.{}.", model.model.layers.len() - 1);
        let adapted = attach(&mut model, &settings, 0).unwrap();
        assert!(adapted.iter().all(|path| path.starts_with(&last)), "{adapted:?}");
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = refused(&LoraSettings {
            keys: vec!["q_proj".to_owned()],
            ..LoraSettings::default()
        });
        assert!(
            error.to_string().contains("did you mean `self_attn.q_proj`?"),
            "{error}"
        );
    }

    #[test]
    fn more_blocks_than_there_are_is_an_error_with_their_number() {
        let error = refused(&LoraSettings {
            layers: Some(99),
            ..LoraSettings::default()
        });
        assert!(
            matches!(error, AttachError::TooManyLayers { requested: 99, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_rank_of_zero_or_beyond_every_layer_is_an_error() {
        let with_rank = |rank| LoraSettings {
            rank,
            ..LoraSettings::default()
        };
        assert!(matches!(refused(&with_rank(0)), AttachError::ZeroRank));
        assert!(matches!(refused(&with_rank(1 << 20)), AttachError::RankTooLarge { .. }));
    }
}

mod layer {
    use super::*;

    #[test]
    fn rank_8_on_128_by_128_trains_87_5_percent_fewer_values() {
        let mut layer = Linear::new(Array::zeros::<f32>(&[128, 128]).unwrap(), None);
        layer.freeze_parameters(true);
        let all = layer.weight.value.size();
        layer.lora_a = Param::new(Some(Array::zeros::<f32>(&[128, 8]).unwrap()));
        layer.lora_b = Param::new(Some(Array::zeros::<f32>(&[8, 128]).unwrap()));
        let trained = ParameterSnapshot::capture_trainable(&layer).values();
        assert_relative_eq!(1.0 - trained as f64 / all as f64, 0.875);
    }

    #[test]
    fn the_output_is_the_weight_and_the_scaled_product() {
        let (x, w) = ([1.0_f32, -2.0, 3.0], [[1.0_f32, 2.0, 3.0], [-1.0, 0.5, 2.0]]);
        let (a, b, scale) = ([[0.5_f32], [0.25], [-1.0]], [[2.0_f32, -3.0]], 4.0_f32);
        let mut layer = Linear::new(Array::from_slice(&w.concat(), &[2, 3]), None);
        layer.lora_a = Param::new(Some(Array::from_slice(&a.concat(), &[3, 1])));
        layer.lora_b = Param::new(Some(Array::from_slice(&b.concat(), &[1, 2])));
        layer.low_rank = Some(LowRankSettings {
            scale,
            dropout: 0.0,
            training: false,
        });
        let found = values(&layer.forward(&Array::from_slice(&x, &[1, 3])).unwrap());
        let narrow: f32 = x.iter().zip(a).map(|(x, [a])| x * a).sum();
        for (output, (found, weights)) in found.into_iter().zip(w).enumerate() {
            let plain: f32 = x.iter().zip(weights).map(|(x, w)| x * w).sum();
            assert_relative_eq!(found, plain + scale * narrow * b[0][output], max_relative = 1e-6);
        }
    }

    #[test]
    fn no_gradient_flows_through_the_norms_of_magnitudes() {
        // At first every factor is 1, so that the matrices have the gradients that they have without magnitudes.
        let gradients = |with_magnitudes: bool| {
            let mut model = model();
            attach_moved(
                &mut model,
                &LoraSettings {
                    scale: 0.0,
                    ..LoraSettings::default()
                },
            );
            if with_magnitudes {
                attach_magnitudes(&mut model).unwrap();
            }
            for (_, linear) in model.linears_mut() {
                if let Some(low_rank) = &mut linear.low_rank {
                    low_rank.scale = 1e-3;
                }
            }
            let batch = Batch::new(&[Example::of_tokens((3..20).collect())], &[0]);
            loss_and_gradients(&model, &batch, &Lanes::single()).unwrap().gradients
        };
        let (plain, with_magnitudes) = (gradients(false), gradients(true));
        for (name, expected) in plain {
            for (found, expected) in values(&with_magnitudes[&name]).into_iter().zip(values(&expected)) {
                assert_relative_eq!(found, expected, epsilon = 1e-5, max_relative = 1e-2);
            }
        }
    }

    #[test]
    fn a_fresh_adapter_leaves_every_answer_as_it_was() {
        let mut model = model();
        let before = logits(&model);
        attach(&mut model, &LoraSettings::default(), 0).unwrap();
        assert_eq!(logits(&model), before);
        attach_magnitudes(&mut model).unwrap();
        for (found, before) in logits(&model).into_iter().zip(before) {
            assert_relative_eq!(found, before, epsilon = 1e-4);
        }
    }
}

mod training {
    use super::*;

    fn update(model: &mut CausalModel, batch: &Batch) -> f32 {
        let outcome = Trainer {
            optimizer: &mut Sgd::new(SgdSettings::default()),
            loss: &loss_and_gradients,
            lanes: Lanes::single(),
            others: None,
            settings: TrainSettings {
                steps: 1,
                schedule: Schedule::constant(1e-3),
                clip_norm: None,
            },
            interrupt: &Interrupt::default(),
        }
        .update(model, std::slice::from_ref(batch), 1)
        .unwrap();
        match outcome {
            UpdateOutcome::Updated(step) => step.loss,
            UpdateOutcome::NotFinite { .. } => panic!("{outcome:?}"),
        }
    }

    fn batch() -> Batch {
        Batch::new(&[Example::of_tokens((3..20).collect())], &[0])
    }

    /// The names of all values that differ.
    fn changed(before: &ParameterSnapshot, after: &CausalModel) -> BTreeSet<String> {
        let after = ParameterSnapshot::capture(after).into_parameters();
        let differs = |(name, value): &(&String, &Array)| {
            value.dtype() == mlx_rs::Dtype::Float32 && values(value) != values(&before.parameters()[*name])
        };
        after.iter().filter(differs).map(|(name, _)| name.clone()).collect()
    }

    #[test]
    fn only_adapters_change_and_the_first_update_moves_lora_b_alone() {
        let mut model = model();
        attach(&mut model, &LoraSettings::default(), 0).unwrap();
        let before = ParameterSnapshot::capture(&model);
        update(&mut model, &batch());
        let first = changed(&before, &model);
        assert!(first.iter().all(|name| name.ends_with(".lora_b")), "{first:?}");
        assert_eq!(first.len(), attached_modules(&model).len());
        update(&mut model, &batch());
        let both = changed(&before, &model);
        assert_eq!(both.len(), 2 * first.len());
    }

    #[rstest]
    #[case(Packing::affine(32, 2))]
    #[case(Packing::affine(32, 3))]
    #[case(Packing::affine(32, 4))]
    #[case(Packing::affine(32, 6))]
    #[case(Packing::affine(32, 8))]
    #[case(Packing::of_mode(QuantizationMode::Mxfp4))]
    #[case(Packing::of_mode(QuantizationMode::Nvfp4))]
    #[case(Packing::of_mode(QuantizationMode::Mxfp8))]
    fn a_packed_base_stays_packed_and_as_it_was(#[case] packing: Packing) {
        let folder = tempfile::tempdir().unwrap();
        let packed_folder = folder.path().join("packed");
        pack_folder(&tiny("llama"), &packed_folder, packing).unwrap();
        let mut model = ModelSource::Folder(packed_folder).load(PACKED_PRECISION).unwrap().model;
        let packed = |model: &CausalModel| -> Vec<Vec<u32>> {
            let linears = model.linears().into_iter();
            let packed = linears.filter(|(_, linear)| linear.packing.is_some());
            let words: Vec<Vec<u32>> = packed
                .map(|(_, linear)| linear.weight.value.contiguous().unwrap())
                .map(|words| words.to_vec_exact::<u32>().unwrap())
                .collect();
            assert!(!words.is_empty());
            words
        };
        attach(&mut model, &LoraSettings::default(), 0).unwrap();
        let before = packed(&model);
        let first = update(&mut model, &batch());
        for _ in 0..20 {
            update(&mut model, &batch());
        }
        assert!(mean_loss(&model, &batch(), &Lanes::single()).unwrap() < f64::from(first));
        assert_eq!(packed(&model), before);
    }

    #[test]
    fn magnitudes_learn_beside_the_matrices_and_load_elsewhere_to_the_same() {
        let mut model = model();
        let settings = LoraSettings::default();
        attach(&mut model, &settings, 0).unwrap();
        attach_magnitudes(&mut model).unwrap();
        let before = ParameterSnapshot::capture(&model);
        let first = update(&mut model, &batch());
        for _ in 0..20 {
            update(&mut model, &batch());
        }
        assert!(mean_loss(&model, &batch(), &Lanes::single()).unwrap() < f64::from(first));
        let moved = changed(&before, &model);
        assert_eq!(moved.len(), 3 * attached_modules(&model).len());
        // Finished adapters go another way, which is compared with mlx-lm's.
        let folder = tempfile::tempdir().unwrap();
        save_adapter(&model, &settings, "tiny", folder.path()).unwrap();
        let mut finished = super::model();
        StoredAdapter::read(folder.path())
            .unwrap()
            .apply(&mut finished)
            .unwrap();
        for (found, expected) in logits(&finished).into_iter().zip(logits(&model)) {
            assert_relative_eq!(found, expected, epsilon = 1e-4);
        }
        // To go on training, the magnitudes themselves come back.
        let mut resumed = super::model();
        load_adapter(&mut resumed, folder.path()).unwrap();
        attach_magnitudes(&mut resumed).unwrap();
        assert_eq!(logits(&resumed), logits(&model));
        let trained = |model: &CausalModel| ParameterSnapshot::capture_trainable(model).into_parameters().len();
        assert_eq!(trained(&resumed), trained(&model));
    }
}

mod application {
    use super::*;

    #[test]
    fn merging_changes_no_answer_and_goes_back_bit_for_bit() {
        let mut model = model();
        attach_moved(&mut model, &LoraSettings::default());
        let adapted = logits(&model);
        let parameters = |model: &CausalModel| -> Vec<(String, Vec<f32>)> {
            let all = ParameterSnapshot::capture(model).into_parameters();
            all.into_iter().map(|(name, value)| (name, values(&value))).collect()
        };
        let before = parameters(&model);
        let unmerged = merge(&mut model).unwrap();
        assert_eq!(unmerged.layers(), model.model.layers.len() * 7);
        assert_eq!(attached_modules(&model), [""; 0]);
        for (found, expected) in logits(&model).into_iter().zip(&adapted) {
            assert_relative_eq!(found, *expected, epsilon = 1e-4);
        }
        assert_eq!(parameters(&unmerged.unmerge()), before);
    }

    #[test]
    fn several_adapters_share_a_base_and_leave_each_other_in_peace() {
        let folder = tempfile::tempdir().unwrap();
        let mut set = AdapterSet::new(model());
        let base = logits(set.base());
        let mut alone = Vec::new();
        for (name, scale) in [("quiet", 2.0), ("loud", 8.0)] {
            let settings = LoraSettings {
                scale,
                ..LoraSettings::default()
            };
            let mut adapted = model();
            attach_moved(&mut adapted, &settings);
            alone.push(logits(&adapted));
            let path = folder.path().join(name);
            save_adapter(&adapted, &settings, "tiny", &path).unwrap();
            set.add(name, &StoredAdapter::read(&path).unwrap()).unwrap();
        }
        assert_eq!(set.names(), ["loud", "quiet"]);
        assert_eq!(logits(set.model("quiet").unwrap()), alone[0]);
        assert_eq!(logits(set.model("loud").unwrap()), alone[1]);
        assert_eq!(logits(set.base()), base);
        set.remove("loud").unwrap();
        let error = set.model("quite").unwrap_err();
        assert!(error.to_string().contains("did you mean `quiet`?"), "{error}");
        let again = StoredAdapter::read(&folder.path().join("quiet")).unwrap();
        assert!(matches!(set.add("quiet", &again), Err(AdapterSetError::Taken { .. })));
    }
}

mod save_and_load {
    use super::*;

    #[test]
    fn what_is_saved_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let settings = LoraSettings::default();
        let mut saved = model();
        attach_moved(&mut saved, &settings);
        save_adapter(&saved, &settings, "tiny", folder.path()).unwrap();
        let mut loaded = model();
        let stated = load_adapter(&mut loaded, folder.path()).unwrap();
        assert_eq!((stated.rank, stated.scale), (settings.rank, settings.scale));
        assert_eq!(logits(&loaded), logits(&saved));
    }

    /// An adapter of rank 4 with a change in its configuration.
    fn saved_and_rewritten(rewrite: impl FnOnce(&mut Value)) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let settings = LoraSettings {
            rank: 4,
            ..LoraSettings::default()
        };
        let mut saved = model();
        attach_moved(&mut saved, &settings);
        save_adapter(&saved, &settings, "tiny", folder.path()).unwrap();
        let path = folder.path().join("adapter_config.json");
        let mut configuration = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        rewrite(&mut configuration);
        std::fs::write(&path, configuration.to_string()).unwrap();
        folder
    }

    #[rstest]
    fn a_rank_that_no_matrix_can_have_is_refused(#[values(json!(0), json!(-4), json!(2.5), json!(0.5))] rank: Value) {
        let folder = saved_and_rewritten(|configuration| configuration["lora_parameters"]["rank"] = rank);
        let error = load_adapter(&mut model(), folder.path()).unwrap_err().to_string();
        assert!(error.contains("a whole number of at least 1"), "{error}");
    }

    #[rstest]
    #[case::as_mlx_lm_writes_it(-1, None)]
    #[case::as_other_programs_do(0, None)]
    #[case::counted(2, Some(2))]
    fn a_number_of_blocks_that_is_not_above_zero_means_all(#[case] written: i64, #[case] read: Option<usize>) {
        let folder = saved_and_rewritten(|configuration| configuration["num_layers"] = json!(written));
        assert_eq!(load_adapter(&mut model(), folder.path()).unwrap().layers, read);
        assert_eq!(StoredAdapter::read(folder.path()).unwrap().settings.layers, read);
    }

    #[test]
    fn an_adapter_of_another_width_is_refused_with_both_shapes() {
        let folder = saved_and_rewritten(|configuration| configuration["lora_parameters"]["rank"] = json!(8));
        let error = load_adapter(&mut model(), folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("shape of model.layers.0.self_attn.q_proj.lora_a"),
            "{error}"
        );
    }
}
