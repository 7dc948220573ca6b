//! Three training steps on the same batches as transformers with torch's optimizers (`fixtures/golden/transformers`) and as
//! Python mlx-lm (`fixtures/golden/tiny`): the loss of each, and what became of the weights.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use approx::assert_relative_eq;
use mlx_diagnose::adapter::load_adapter;
use mlx_diagnose::data::{Batch, Example};
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::model::{CausalModel, ModelSource, load_safetensors};
use mlx_diagnose::param_snapshot::ParameterSnapshot;
use mlx_diagnose::train::{
    AdamW, AdamWSettings, Lanes, Optimizer, Schedule, Sgd, SgdSettings, TrainSettings, Trainer, loss_and_gradients,
    mean_loss,
};
use mlx_rs::Array;
use rstest::rstest;
use rstest_reuse::apply;
use serde_json::Value;

use crate::integration::architecture_parity::{every_golden_model, folder, length, load, numbers, values};
use crate::integration::training_parity::norm;
use crate::support::golden::{EXACT_PRECISION, floats, golden, ids, tiny};
use crate::support::tolerances::{LOSS, LOSS_AFTER_UPDATES, UPDATES};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// Batches of several rows each, every token after the first of a row being a target.
fn batches(golden: &Value) -> Vec<Batch> {
    golden
        .as_array()
        .unwrap()
        .iter()
        .map(|rows| {
            let rows: Vec<Example> = rows
                .as_array()
                .unwrap()
                .iter()
                .map(|row| Example::of_tokens(ids(row)))
                .collect();
            Batch::new(&rows, &(0..rows.len()).collect::<Vec<_>>())
        })
        .collect()
}

/// The loss before each step, and that of the first batch after all.
fn losses(model: &mut CausalModel, batches: &[Batch], optimizer: &mut dyn Optimizer, rate: f64) -> Vec<f64> {
    let mut losses = Vec::new();
    Trainer {
        optimizer,
        loss: &loss_and_gradients,
        lanes: Lanes::single(),
        others: None,
        settings: TrainSettings {
            steps: batches.len(),
            schedule: Schedule::constant(rate),
            clip_norm: None,
        },
        interrupt: &Interrupt::default(),
    }
    .train(model, &mut batches.iter().cloned(), &mut |step, _| {
        losses.push(f64::from(step.loss));
        Ok(())
    })
    .unwrap();
    losses.push(mean_loss(model, &batches[0], &Lanes::single()).unwrap());
    losses
}

fn assert_losses(found: &[f64], expected: &Value) {
    let mut all = floats(&expected["losses"]);
    all.push(number(&expected["first_batch_after"]) as f32);
    assert_eq!(found.len(), all.len());
    for (step, (found, expected)) in found.iter().zip(all).enumerate() {
        let allowed = if step == 0 { LOSS } else { LOSS_AFTER_UPDATES };
        assert_relative_eq!(*found, f64::from(expected), max_relative = allowed);
    }
    // Steps that change nothing must not agree as well.
    let change = (found[3] - found[0]).abs() / found[0];
    assert!(change > 100.0 * LOSS_AFTER_UPDATES, "{found:?}");
}

fn trainable(model: &CausalModel) -> BTreeMap<String, Array> {
    ParameterSnapshot::capture_trainable(model).into_parameters()
}

fn difference(one: &Array, other: &Array) -> Vec<f32> {
    let pairs = values(one).into_iter().zip(values(other));
    pairs.map(|(one, other)| one - other).collect()
}

/// The values of a parameter that change no output, so that their gradient is rounding, by whose sign `AdamW` takes whole
/// steps: the biases of GPT-2's keys, a third of those of its queries, keys and values, add the same to every score of a
/// query, and softmax takes that away.
fn without_effect(path: &str, values: usize) -> Option<Range<usize>> {
    path.ends_with(".attn.c_attn.bias")
        .then_some(values / 3..2 * values / 3)
}

#[apply(every_golden_model)]
fn three_steps_of_adamw_have_the_losses_and_weights_of_torch(name: &str) {
    let golden = &numbers(name)["training"];
    let adamw = &golden["adamw"];
    let settings = &adamw["settings"];
    let betas = floats(&settings["betas"]);
    let mut optimizer = AdamW::new(AdamWSettings {
        beta1: betas[0],
        beta2: betas[1],
        epsilon: number(&settings["eps"]) as f32,
        weight_decay: number(&settings["weight_decay"]) as f32,
        bias_correction: true,
    });
    let mut model = load(name).model;
    let before = trainable(&model);
    let found = losses(
        &mut model,
        &batches(&golden["batches"]),
        &mut optimizer,
        number(&settings["lr"]),
    );
    assert_losses(&found, adamw);
    let after = trainable(&model);
    let expected = load_safetensors(&folder(name).join("trained.safetensors")).unwrap();
    assert!(
        after.keys().eq(expected.keys()),
        "{:?} and {:?}",
        after.keys(),
        expected.keys()
    );
    for (path, expected) in &expected {
        let mut off = difference(&after[path], expected);
        let mut whole = difference(expected, &before[path]);
        if let Some(without_effect) = without_effect(path, off.len()) {
            off.drain(without_effect.clone());
            whole.drain(without_effect);
        }
        let (off, whole) = (length(&off), length(&whole));
        assert!(off <= UPDATES * whole, "{name} {path}: {off} of {whole}");
    }
}

#[apply(every_golden_model)]
fn three_steps_of_sgd_have_the_losses_of_torch(name: &str) {
    let golden = &numbers(name)["training"];
    let settings = &golden["sgd"]["settings"];
    let mut optimizer = Sgd::new(SgdSettings {
        momentum: number(&settings["momentum"]) as f32,
        nesterov: settings["nesterov"].as_bool().unwrap(),
        weight_decay: number(&settings["weight_decay"]) as f32,
        ..SgdSettings::default()
    });
    let batches = batches(&golden["batches"]);
    let found = losses(&mut load(name).model, &batches, &mut optimizer, number(&settings["lr"]));
    assert_losses(&found, &golden["sgd"]);
}

#[rstest]
#[case::llama("llama", None)]
#[case::llama_untied("llama-untied", None)]
#[case::llama_rope_scaling("llama-rope-scaling", None)]
#[case::mistral("mistral", None)]
#[case::qwen2("qwen2", None)]
#[case::qwen3("qwen3", None)]
#[case::mixtral("mixtral", None)]
#[case::gpt2("gpt2", None)]
#[case::adapter("llama", Some("adapter"))]
#[case::adapter_of_the_last_block("llama", Some("adapter-last-block"))]
#[case::adapter_on_experts("mixtral", Some("adapter"))]
#[case::adapter_on_an_embedding("gpt2", Some("adapter"))]
#[case::adapter_on_packed_weights("llama-4bit", Some("../llama/adapter"))]
#[case::adapter_on_floating_point_modes("llama-floats", Some("../llama/adapter"))]
fn three_steps_have_the_losses_and_updates_of_mlx_lm(#[case] name: &str, #[case] adapter: Option<&str>) {
    let golden = golden(&format!("tiny/{name}/golden.json"));
    let mut model = ModelSource::Folder(tiny(name)).load(EXACT_PRECISION).unwrap().model;
    let expected = match adapter {
        Some(adapter) => {
            load_adapter(&mut model, &tiny(name).join(Path::new(adapter))).unwrap();
            &golden["adapters"][adapter]["three_steps"]
        }
        None => &golden["three_steps"],
    };
    let before = trainable(&model);
    let mut optimizer = AdamW::new(AdamWSettings::MLX);
    let found = losses(&mut model, &batches(&expected["batches"]), &mut optimizer, 1e-3);
    assert_losses(&found, expected);
    let after = trainable(&model);
    let norms = expected["update_norms"].as_object().unwrap();
    assert_eq!(norms.len(), after.len());
    for (path, expected) in norms {
        let found = norm(&after[path].subtract(&before[path]).unwrap());
        assert_relative_eq!(
            found,
            number(expected),
            max_relative = f64::from(UPDATES),
            epsilon = 1e-6
        );
    }
}
