//! What a training step can be made of: recomputed blocks, packed rows, 16 bits.

use std::collections::BTreeMap;

use approx::assert_relative_eq;
use mlx_diagnose::adapter::{LoraSettings, attach, load_adapter};
use mlx_diagnose::data::{Batch, Example};
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::model::{CausalModel, ModelSource, Precision};
use mlx_diagnose::param_snapshot::ParameterSnapshot;
use mlx_diagnose::train::{
    AdamW, AdamWSettings, CompiledLoss, Lanes, LossAndGradients, Schedule, TrainSettings, Trainer, TrainingOutcome,
    loss_and_gradients, mean_loss, recomputed_loss_and_gradients, scaled_loss_and_gradients,
};
use mlx_rs::module::{ModuleParameters, update_parameters};
use mlx_rs::{Array, Dtype};
use rstest::rstest;

use crate::integration::architecture_parity;
use crate::support::golden::{EXACT_PRECISION, PACKED_PRECISION, tiny};

/// Relative difference allowed between gradients that are computed in another order.
const GRADIENTS: f64 = 1e-4;

fn whole(name: &str) -> CausalModel {
    let mut model = architecture_parity::load(name).model;
    model.unfreeze_parameters(true);
    model
}

fn adapted(name: &str, adapter: &str, precision: Precision) -> CausalModel {
    let mut model = ModelSource::Folder(tiny(name)).load(precision).unwrap().model;
    load_adapter(&mut model, &tiny(adapter).join("adapter")).unwrap();
    model
}

/// Rows of these lengths whose first tokens are a prompt.
fn rows(lengths: &[u32]) -> Vec<Example> {
    let row = |&length: &u32| {
        let mut row = Example::of_tokens((0..length).map(|place| 3 + (place * 7 + length) % 40).collect());
        row.supervised[..length as usize / 3].fill(false);
        row
    };
    lengths.iter().map(row).collect()
}

fn norm(array: &Array) -> f64 {
    let values = array.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap();
    let values = values.to_vec_exact::<f32>().unwrap();
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

fn assert_same(found: &BTreeMap<String, Array>, expected: &BTreeMap<String, Array>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let largest = expected.values().map(norm).fold(0.0, f64::max);
    for (name, expected) in expected {
        let difference = norm(&found[name].subtract(expected).unwrap());
        assert!(difference <= GRADIENTS * largest, "{name}: {difference} of {largest}");
    }
}

fn assert_same_pass(found: &LossAndGradients, expected: &LossAndGradients) {
    let loss = |pass: &LossAndGradients| pass.loss.item_exact::<f32>();
    assert_relative_eq!(loss(found), loss(expected), max_relative = 1e-6);
    assert_same(&found.gradients, &expected.gradients);
}

#[rstest]
fn recomputing_blocks_gives_the_gradients_of_keeping_them(
    #[values("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3", "mixtral", "gpt2")] name: &str,
) {
    let model = whole(name);
    let batch = Batch::new(&rows(&[12, 7, 15]), &[0, 1, 2]);
    let expected = loss_and_gradients(&model, &batch, &Lanes::single()).unwrap();
    assert_same_pass(&recomputed_loss_and_gradients(&model, &batch, 1.0).unwrap(), &expected);
}

#[rstest]
#[case::plain("llama", EXACT_PRECISION)]
#[case::on_a_packed_base("llama-4bit", PACKED_PRECISION)]
fn recomputing_serves_adapters_and_raised_losses_too(#[case] base: &str, #[case] precision: Precision) {
    let model = adapted(base, "llama", precision);
    let batch = Batch::new(&rows(&[12, 7, 15]), &[0, 1, 2]);
    let expected = loss_and_gradients(&model, &batch, &Lanes::single()).unwrap();
    assert_same_pass(&recomputed_loss_and_gradients(&model, &batch, 1.0).unwrap(), &expected);
    assert_same_pass(
        &recomputed_loss_and_gradients(&model, &batch, 1024.0).unwrap(),
        &expected,
    );
    let raised = scaled_loss_and_gradients(&model, &batch, &Lanes::single(), 1024.0).unwrap();
    assert_same_pass(&raised, &expected);
}

#[test]
fn recomputing_serves_adapters_on_the_last_blocks_only() {
    let mut model = ModelSource::Folder(tiny("llama")).load(EXACT_PRECISION).unwrap().model;
    load_adapter(&mut model, &tiny("llama").join("adapter-last-block")).unwrap();
    let batch = Batch::new(&rows(&[12, 7]), &[0, 1]);
    let expected = loss_and_gradients(&model, &batch, &Lanes::single()).unwrap();
    assert_same_pass(&recomputed_loss_and_gradients(&model, &batch, 1.0).unwrap(), &expected);
}

#[test]
fn the_second_pass_drops_what_the_first_one_dropped() {
    let mut model = adapted("llama", "llama", EXACT_PRECISION);
    for (_, linear) in model.linears_mut() {
        if let Some(settings) = &mut linear.low_rank {
            settings.dropout = 0.4;
        }
    }
    model.set_training(true);
    let batch = Batch::new(&rows(&[12, 7, 15]), &[0, 1, 2]);
    let pass = |model: &CausalModel| {
        mlx_rs::random::seed(11).unwrap();
        recomputed_loss_and_gradients(model, &batch, 1.0).unwrap()
    };
    let here = pass(&model);
    let squared: f64 = here.gradients.values().map(|gradient| norm(gradient).powi(2)).sum();
    // With the same masks in both passes the gradient is the slope of the loss along itself.
    let step = 1e-3 / squared.sqrt();
    let moved = |sign: f64| {
        let mut moved = model.clone();
        let parameters = ParameterSnapshot::capture_trainable(&model).into_parameters();
        let factor = Array::from_f32((sign * step) as f32);
        let parameters = parameters.into_iter().map(|(name, value)| {
            let change = here.gradients[&name].multiply(&factor).unwrap();
            (std::rc::Rc::from(name), value.add(change).unwrap())
        });
        let parameters: Vec<(std::rc::Rc<str>, Array)> = parameters.collect();
        update_parameters(&mut moved, parameters);
        f64::from(pass(&moved).loss.item_exact::<f32>())
    };
    let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
    assert_relative_eq!(slope, squared, max_relative = 0.02);
    // Without them it would not be: other masks, another loss.
    let other = recomputed_loss_and_gradients(&model, &batch, 1.0).unwrap();
    assert_ne!(other.loss.item_exact::<f32>(), here.loss.item_exact::<f32>());
}

#[test]
fn recomputing_needs_less_memory() {
    let model = whole("llama");
    let batch = Batch::new(&rows(&[120; 6]), &[0, 1, 2, 3, 4, 5]);
    let peak = |pass: &dyn Fn() -> LossAndGradients| {
        mlx_rs::memory::clear_cache().unwrap();
        let before = mlx_rs::memory::active_memory().unwrap();
        mlx_rs::memory::reset_peak_memory().unwrap();
        let pass = pass();
        mlx_rs::transforms::eval(pass.gradients.values().chain([&pass.loss])).unwrap();
        mlx_rs::memory::peak_memory().unwrap() - before
    };
    let kept = peak(&|| loss_and_gradients(&model, &batch, &Lanes::single()).unwrap());
    let recomputed = peak(&|| recomputed_loss_and_gradients(&model, &batch, 1.0).unwrap());
    assert!(recomputed < kept, "{recomputed} of {kept} bytes");
}

#[rstest]
fn packed_rows_are_the_sum_of_single_ones(
    #[values("llama", "qwen2", "qwen3", "gemma3_text", "phi3", "mixtral", "gpt2")] name: &str,
) {
    let model = whole(name);
    let rows = rows(&[12, 7, 15, 4]);
    let singles = Batch::new(&rows, &[0, 1, 2, 3]);
    let packed = Batch::packed(&rows, &[&[1, 0, 3], &[2]]);
    assert_eq!(packed.supervised_tokens(), singles.supervised_tokens());
    let expected = loss_and_gradients(&model, &singles, &Lanes::single()).unwrap();
    assert_same_pass(
        &loss_and_gradients(&model, &packed, &Lanes::single()).unwrap(),
        &expected,
    );
    assert_same_pass(&recomputed_loss_and_gradients(&model, &packed, 1.0).unwrap(), &expected);
}

#[rstest]
#[case::kept(0.0)]
#[case::dropped(0.3)]
fn a_compiled_loss_follows_the_trained_values_and_the_rows(#[case] dropout: f32) {
    let mut model = adapted("llama", "llama", EXACT_PRECISION);
    for (_, linear) in model.linears_mut() {
        if let Some(settings) = &mut linear.low_rank {
            settings.dropout = dropout;
        }
    }
    model.set_training(true);
    let compiled = CompiledLoss::new(&model);
    let rows = rows(&[12, 7, 15, 12]);
    let batches = [
        Batch::new(&rows, &[0, 1]),
        Batch::new(&rows, &[3, 1]),
        Batch::packed(&rows, &[&[1, 0], &[2]]),
    ];
    for batch in &batches {
        let pass = |seed: u64| {
            mlx_rs::random::seed(seed).unwrap();
            compiled.loss_and_gradients(&model, batch).unwrap()
        };
        let found = pass(1);
        if dropout == 0.0 {
            assert_same_pass(&found, &loss_and_gradients(&model, batch, &Lanes::single()).unwrap());
        } else {
            // The key is an argument: another one drops other values, the same one the same.
            let loss = |pass: LossAndGradients| pass.loss.item_exact::<f32>();
            assert_eq!(loss(pass(1)), loss(found));
            assert_ne!(loss(pass(1)), loss(pass(2)));
        }
        let moved = ParameterSnapshot::capture_trainable(&model).into_parameters();
        let moved = moved.into_iter().map(|(name, value)| {
            let moved = value.multiply(Array::from_f32(1.1)).unwrap();
            (std::rc::Rc::<str>::from(name), moved)
        });
        let moved: Vec<_> = moved.collect();
        update_parameters(&mut model, moved);
    }
}

#[rstest]
#[case(Dtype::Bfloat16)]
#[case(Dtype::Float16)]
fn sixteen_bits_learn_with_adapters_and_a_loss_in_thirty_two(#[case] dtype: Dtype) {
    let precision = Precision {
        dtype,
        keep_packed: false,
    };
    let mut model = ModelSource::Folder(tiny("llama")).load(precision).unwrap().model;
    let settings = LoraSettings {
        scale: 4.0,
        ..LoraSettings::default()
    };
    attach(&mut model, &settings, 0).unwrap();
    let batch = Batch::new(&rows(&[12, 7, 15]), &[0, 1, 2]);
    let before = mean_loss(&model, &batch, &Lanes::single()).unwrap();
    let outcome = Trainer {
        optimizer: &mut AdamW::new(AdamWSettings {
            bias_correction: true,
            ..AdamWSettings::default()
        }),
        loss: &|model, batch, lanes| scaled_loss_and_gradients(model, batch, lanes, 1024.0),
        lanes: Lanes::single(),
        others: None,
        settings: TrainSettings {
            steps: 30,
            schedule: Schedule::constant(5e-3),
            clip_norm: None,
        },
        interrupt: &Interrupt::default(),
    }
    .train(&mut model, &mut std::iter::repeat(batch.clone()), &mut |_, _| Ok(()))
    .unwrap();
    assert!(matches!(outcome, TrainingOutcome::Completed), "{outcome:?}");
    let after = mean_loss(&model, &batch, &Lanes::single()).unwrap();
    assert!(after < 0.8 * before, "{before} {after}");
    let trained = ParameterSnapshot::capture_trainable(&model).into_parameters();
    assert!(trained.values().all(|value| value.dtype() == Dtype::Float32));
    let held = model.parameters().flatten();
    assert_eq!(held["model.layers.0.mlp.up_proj.weight"].dtype(), dtype);
}
