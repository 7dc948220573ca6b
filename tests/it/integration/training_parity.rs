//! Loss, gradients, adapters and one optimizer step against Python mlx-lm (`fixtures/golden/tiny`).

use std::collections::BTreeMap;

use approx::assert_relative_eq;
use mlx_diagnose::adapter::{LoraSettings, attach, attached_modules, fuse, load_adapter, save_adapter};
use mlx_diagnose::data::{Batch, Example};
use mlx_diagnose::device::Backend;
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::model::{CausalModel, ModelSource, Precision};
use mlx_diagnose::param_snapshot::ParameterSnapshot;
use mlx_diagnose::train::{
    AdamW, AdamWSettings, Lanes, Schedule, Sgd, SgdSettings, TrainSettings, Trainer, TrainingStep, UpdateOutcome,
    loss_and_gradients, mean_loss,
};
use mlx_rs::Array;
use rstest::rstest;
use serde_json::Value;

use crate::support::golden::{EXACT_PRECISION, PACKED_PRECISION, floats, golden, ids, largest_difference, row, tiny};
use crate::support::tolerances::{GRADIENTS, LOGITS, LOSS, LOSS_AFTER_UPDATES};

/// Trains on one batch at a learning rate of 1e-3 with the optimizer's defaults.
fn run(model: &mut CausalModel, batch: &Batch, steps: usize, clip_norm: Option<f32>) {
    Trainer {
        optimizer: &mut AdamW::new(AdamWSettings::default()),
        loss: &loss_and_gradients,
        lanes: Lanes::single(),
        others: None,
        settings: TrainSettings {
            steps,
            schedule: Schedule::constant(1e-3),
            clip_norm,
        },
        interrupt: &Interrupt::default(),
    }
    .train(model, &mut std::iter::repeat(batch.clone()), &mut |_, _| Ok(()))
    .unwrap();
}

fn golden_batch(golden: &Value) -> Batch {
    Batch::new(&[Example::of_tokens(ids(&golden["input_ids"]))], &[0])
}

pub fn norm(array: &Array) -> f64 {
    array
        .contiguous()
        .unwrap()
        .to_vec_exact::<f32>()
        .unwrap()
        .iter()
        .map(|value| f64::from(*value).powi(2))
        .sum::<f64>()
        .sqrt()
}

fn assert_norms(found: &BTreeMap<String, Array>, expected: &Value) {
    let expected = expected.as_object().unwrap();
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected
            .keys()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
    for (name, array) in found {
        assert_relative_eq!(
            norm(array),
            expected[name].as_f64().unwrap(),
            max_relative = f64::from(GRADIENTS),
            epsilon = 1e-6
        );
    }
}

fn assert_loss_and_gradients(model: &CausalModel, golden: &Value, expected: &Value) {
    let pass = loss_and_gradients(model, &golden_batch(golden), &Lanes::single()).unwrap();
    let loss = f64::from(pass.loss.item_exact::<f32>());
    assert_relative_eq!(loss, expected["loss"].as_f64().unwrap(), max_relative = LOSS);
    assert_norms(&pass.gradients, &expected["gradient_norms"]);
}

#[rstest]
fn full_fine_tuning_has_the_loss_and_gradients_of_mlx_lm(
    #[values(
        "llama",
        "llama-untied",
        "llama-rope-scaling",
        "mistral",
        "qwen2",
        "qwen3",
        "mixtral",
        "gpt2"
    )]
    name: &str,
) {
    let golden = golden(&format!("tiny/{name}/golden.json"));
    let model = ModelSource::Folder(tiny(name)).load(EXACT_PRECISION).unwrap().model;
    assert_loss_and_gradients(&model, &golden, &golden);
}

#[rstest]
#[case::all_blocks("llama", "adapter", "adapter", EXACT_PRECISION)]
#[case::last_block("llama", "adapter-last-block", "adapter-last-block", EXACT_PRECISION)]
#[case::on_experts("mixtral", "adapter", "adapter", EXACT_PRECISION)]
#[case::on_an_embedding_that_is_the_output_layer("gpt2", "adapter", "adapter", EXACT_PRECISION)]
#[case::on_an_unpacked_base("llama-4bit", "../llama/adapter", "../llama/adapter", EXACT_PRECISION)]
#[case::on_a_packed_base("llama-4bit", "../llama/adapter", "../llama/adapter", PACKED_PRECISION)]
#[case::on_a_base_of_floating_point_modes("llama-floats", "../llama/adapter", "../llama/adapter", PACKED_PRECISION)]
fn an_adapter_of_mlx_lm_has_its_logits_loss_gradients_and_first_step(
    #[case] name: &str,
    #[case] folder: &str,
    #[case] key: &str,
    #[case] precision: Precision,
) {
    let golden = golden(&format!("tiny/{name}/golden.json"));
    let expected = &golden["adapters"][key];
    let mut model = ModelSource::Folder(tiny(name)).load(precision).unwrap().model;
    load_adapter(&mut model, &tiny(name).join(folder)).unwrap();
    let logits = model.logits(&row(&ids(&golden["input_ids"]))).unwrap();
    let all = logits.to_vec_exact::<f32>().unwrap();
    let last_row = floats(&expected["last_logits"]);
    let difference = largest_difference(&all[all.len() - last_row.len()..], &last_row);
    assert!(difference <= LOGITS, "{difference}");
    assert_loss_and_gradients(&model, &golden, expected);

    let batch = golden_batch(&golden);
    run(&mut model, &batch, 1, None);
    let after = &expected["after_one_step"];
    assert_relative_eq!(
        mean_loss(&model, &batch, &Lanes::single()).unwrap(),
        after["loss"].as_f64().unwrap(),
        max_relative = LOSS_AFTER_UPDATES
    );
    let trainable = ParameterSnapshot::capture_trainable(&model).into_parameters();
    assert_norms(&trainable, &after["parameter_norms"]);
}

#[test]
fn lanes_change_neither_loss_nor_gradients() {
    Backend::select();
    let mut model = ModelSource::Folder(tiny("llama")).load(EXACT_PRECISION).unwrap().model;
    load_adapter(&mut model, &tiny("llama").join("adapter")).unwrap();
    let rows: Vec<Example> = [12_u32, 5, 9, 30]
        .iter()
        .map(|&length| Example::of_tokens((3..3 + length).collect()))
        .collect();
    let batch = Batch::new(&rows, &[0, 1, 2, 3]);
    let alone = loss_and_gradients(&model, &batch, &Lanes::single()).unwrap();
    let together = loss_and_gradients(&model, &batch, &Lanes::on_cpu(2)).unwrap();
    assert_relative_eq!(
        alone.loss.item_exact::<f32>(),
        together.loss.item_exact::<f32>(),
        max_relative = 1e-5
    );
    for (name, gradient) in &alone.gradients {
        assert_relative_eq!(norm(gradient), norm(&together.gradients[name]), max_relative = 1e-4);
    }
}

/// The parameters after one step of plain descent, by which they differ by the gradients.
fn descended(batches: &[Batch]) -> (TrainingStep, BTreeMap<String, Array>) {
    let mut model = ModelSource::Folder(tiny("llama")).load(EXACT_PRECISION).unwrap().model;
    load_adapter(&mut model, &tiny("llama").join("adapter")).unwrap();
    let outcome = Trainer {
        optimizer: &mut Sgd::new(SgdSettings::default()),
        loss: &loss_and_gradients,
        lanes: Lanes::single(),
        others: None,
        settings: TrainSettings {
            steps: 1,
            schedule: Schedule::constant(1.0),
            clip_norm: None,
        },
        interrupt: &Interrupt::default(),
    }
    .update(&mut model, batches, 1)
    .unwrap();
    let UpdateOutcome::Updated(step) = outcome else {
        panic!("{outcome:?}");
    };
    (step, ParameterSnapshot::capture_trainable(&model).into_parameters())
}

#[rstest]
#[case::of_one_row_each(&[vec![0], vec![1], vec![2], vec![3]])]
#[case::of_unequal_sizes(&[vec![0, 1, 2], vec![3]])]
#[case::with_one_that_has_no_target(&[vec![0, 1], vec![4], vec![2, 3]])]
fn accumulating_over_batches_is_one_batch_of_all_rows(#[case] parts: &[Vec<usize>]) {
    let mut rows: Vec<Example> = [12_u32, 5, 9, 30, 4]
        .iter()
        .map(|&length| Example::of_tokens((3..3 + length).collect()))
        .collect();
    rows[4].supervised.fill(false);
    let parts: Vec<Batch> = parts.iter().map(|part| Batch::new(&rows, part)).collect();
    let (whole_step, whole) = descended(&[Batch::new(&rows, &[0, 1, 2, 3])]);
    let (step, accumulated) = descended(&parts);
    assert_relative_eq!(step.loss, whole_step.loss, max_relative = 1e-5);
    assert_relative_eq!(step.gradient_norm, whole_step.gradient_norm, max_relative = 1e-5);
    assert_eq!(step.supervised_tokens, whole_step.supervised_tokens);
    for (name, expected) in &whole {
        let difference = largest_difference(
            &accumulated[name].contiguous().unwrap().to_vec_exact::<f32>().unwrap(),
            &expected.contiguous().unwrap().to_vec_exact::<f32>().unwrap(),
        );
        assert!(difference <= 1e-5, "{name}: {difference}");
    }
}

#[test]
fn the_gradient_of_the_loss_is_its_slope() {
    let mut model = ModelSource::Folder(tiny("qwen3")).load(EXACT_PRECISION).unwrap().model;
    attach(&mut model, &LoraSettings::default(), 7).unwrap();
    let batch = Batch::new(&[Example::of_tokens((5..40).collect())], &[0]);
    let gradients = loss_and_gradients(&model, &batch, &Lanes::single()).unwrap().gradients;
    let squares: f64 = gradients.values().map(|gradient| norm(gradient).powi(2)).sum();
    // A step along the gradient changes the loss by the step times the gradient's squared norm.
    let step = 1e-3 / squares;
    let loss_at = |sign: f64| {
        let mut moved = model.clone();
        let parameters = gradients.iter().map(|(name, gradient)| {
            let snapshot = ParameterSnapshot::capture(&model);
            let change = gradient.multiply(Array::from_f32((sign * step) as f32)).unwrap();
            (
                std::rc::Rc::from(name.as_str()),
                snapshot.parameters()[name].add(change).unwrap(),
            )
        });
        mlx_rs::module::update_parameters(&mut moved, parameters.collect::<Vec<_>>());
        mean_loss(&moved, &batch, &Lanes::single()).unwrap()
    };
    let slope = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * step);
    assert_relative_eq!(slope, squares, max_relative = 0.02);
}

#[rstest]
#[case::f32("llama", EXACT_PRECISION)]
#[case::packed("llama-4bit", PACKED_PRECISION)]
#[case::packed_in_floating_point_modes("llama-floats", PACKED_PRECISION)]
#[case::bf16("llama", Precision { dtype: mlx_rs::Dtype::Bfloat16, keep_packed: false })]
fn a_fresh_adapter_changes_nothing_and_a_saved_one_comes_back_whole(#[case] name: &str, #[case] precision: Precision) {
    let base = ModelSource::Folder(tiny(name)).load(precision).unwrap().model;
    let mut model = base.clone();
    let settings = LoraSettings::default();
    let modules = attach(&mut model, &settings, 1).unwrap();
    assert_eq!(modules, attached_modules(&model));
    assert_eq!(modules.len(), 14);
    let input = row(&[4, 5, 6, 7, 8]);
    let values = |model: &CausalModel| {
        model
            .logits(&input)
            .unwrap()
            .as_dtype(mlx_rs::Dtype::Float32)
            .unwrap()
            .to_vec_exact::<f32>()
            .unwrap()
    };
    assert_eq!(values(&model), values(&base));

    let batch = Batch::new(&[Example::of_tokens((4..20).collect())], &[0]);
    run(&mut model, &batch, 3, Some(1.0));
    assert_ne!(values(&model), values(&base));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(save_adapter(&model, &settings, "tiny", folder.path()).unwrap(), 28);
    let mut reloaded = base.clone();
    load_adapter(&mut reloaded, folder.path()).unwrap();
    assert_eq!(values(&reloaded), values(&model));
}

#[rstest]
#[case::f32("llama", EXACT_PRECISION, 1e-4)]
// Rounding the sum to bf16 moves each weight by up to one part in 256.
#[case::bf16("llama", Precision { dtype: mlx_rs::Dtype::Bfloat16, keep_packed: false }, 0.2)]
#[case::unpacked_four_bit("llama-4bit", EXACT_PRECISION, 1e-4)]
fn a_fused_model_answers_as_with_its_adapter(#[case] name: &str, #[case] precision: Precision, #[case] tolerance: f32) {
    let mut model = ModelSource::Folder(tiny(name)).load(precision).unwrap().model;
    load_adapter(&mut model, &tiny("llama").join("adapter")).unwrap();
    let input = row(&[4, 5, 6, 7, 8]);
    let values = |model: &CausalModel| {
        model
            .logits(&input)
            .unwrap()
            .as_dtype(mlx_rs::Dtype::Float32)
            .unwrap()
            .to_vec_exact::<f32>()
            .unwrap()
    };
    let with_adapter = values(&model);
    assert_eq!(fuse(&mut model).unwrap(), 14);
    assert_eq!(attached_modules(&model), Vec::<String>::new());
    let difference = largest_difference(&values(&model), &with_adapter);
    assert!(difference <= tolerance, "{difference}");
}

#[test]
fn fusing_into_packed_weights_stays_packed_and_within_half_a_quantisation_step() {
    let mut model = ModelSource::Folder(tiny("llama-4bit"))
        .load(PACKED_PRECISION)
        .unwrap()
        .model;
    load_adapter(&mut model, &tiny("llama").join("adapter")).unwrap();
    let mut plain = ModelSource::Folder(tiny("llama-4bit"))
        .load(EXACT_PRECISION)
        .unwrap()
        .model;
    load_adapter(&mut plain, &tiny("llama").join("adapter")).unwrap();
    fuse(&mut model).unwrap();
    fuse(&mut plain).unwrap();
    for ((path, packed), (_, exact)) in model.linears().into_iter().zip(plain.linears()) {
        let Some(packing) = packed.packing.map(|form| form.packing) else {
            continue;
        };
        let error = packed
            .plain_weight()
            .unwrap()
            .subtract(&exact.weight.value)
            .unwrap()
            .abs()
            .unwrap();
        // The scale of a group is its quantisation step; MLX rounds the ends of a group's range to whole steps, which
        // can cost another step at the edges.
        let steps = packed.scales.value.as_ref().unwrap().abs().unwrap();
        let groups = steps.dim(1);
        let per_group = error
            .reshape(&[-1, groups, packing.group_size])
            .unwrap()
            .max_axis(-1, false)
            .unwrap();
        let in_steps = per_group.divide(&steps).unwrap().max(None).unwrap().item_exact::<f32>();
        assert!(in_steps <= 1.01, "{path}: {in_steps} steps");
    }
}

#[test]
fn a_fresh_model_guesses_uniformly_and_learns() {
    let configuration = mlx_diagnose::model::ModelConfiguration::read(&tiny("llama").join("config.json")).unwrap();
    let mut model = mlx_diagnose::model::initialise(&configuration, 3).unwrap();
    let batch = Batch::new(&[Example::of_tokens((4..40).collect())], &[0]);
    let before = mean_loss(&model, &batch, &Lanes::single()).unwrap();
    assert_relative_eq!(before, (configuration.vocab_size as f64).ln(), epsilon = 0.1);
    run(&mut model, &batch, 20, None);
    let after = mean_loss(&model, &batch, &Lanes::single()).unwrap();
    assert!(after < 0.7 * before, "{before} to {after}");
}
