//! The model of this crate is held to the checks of mlx-diagnose.

use checks_on_your_model::{Model, loss_and_gradients, step};
use mlx_diagnose::checks::{
    ParameterSnapshot, assert_adapter_is_identity, assert_every_weight_is_seen, assert_file_is_covered, assert_finite,
    assert_gradients_reach, assert_only_changed, assert_survives_saving,
};
use mlx_rs::Array;

const SEED: u64 = 0;
const OTHER_SEED: u64 = 1;

fn model() -> Model {
    Model::new(3, SEED).unwrap()
}

fn adapted() -> Model {
    let mut model = model();
    model.attach_adapters(SEED).unwrap();
    model
}

fn tokens() -> Array {
    Array::from_slice(&[1, 5, 7, 2], &[4])
}

fn targets() -> Array {
    Array::from_slice(&[5, 7, 2, 3], &[4])
}

/// The first check to write: the others see no more than the model lists.
#[test]
fn the_model_lists_every_weight_that_it_computes_with() {
    let tokens = tokens();
    assert_every_weight_is_seen(&mut model(), &[&tokens], &[], |model| model.forward(&tokens));
    assert_every_weight_is_seen(&mut adapted(), &[&tokens], &[], |model| model.forward(&tokens));
}

#[test]
fn fresh_adapters_change_nothing() {
    let before = model().forward(&tokens()).unwrap();
    let adapted = adapted();
    let after = adapted.forward(&tokens()).unwrap();
    assert_adapter_is_identity(&adapted, &before, &after, &["*.lora_b"]);
}

#[test]
fn gradients_reach_every_adapter() {
    let mut model = adapted();
    let (_, gradients) = loss_and_gradients(&mut model, &tokens(), &targets()).unwrap();
    // While `lora_b` is zero, nothing reaches `lora_a`.
    assert_gradients_reach(&model, &gradients, &["*.lora_a"]);
    step(&mut model, &gradients, 0.1).unwrap();
    let (_, gradients) = loss_and_gradients(&mut model, &tokens(), &targets()).unwrap();
    assert_gradients_reach(&model, &gradients, &[]);
}

#[test]
fn training_changes_the_adapters_and_nothing_else() {
    let mut model = adapted();
    let before = ParameterSnapshot::capture(&model);
    let mut losses = Vec::new();
    for _ in 0..5 {
        let (loss, gradients) = loss_and_gradients(&mut model, &tokens(), &targets()).unwrap();
        step(&mut model, &gradients, 0.1).unwrap();
        losses.push(loss.item_exact::<f32>());
    }
    assert!(losses[4] < losses[0], "{losses:?}");
    assert_only_changed(
        &before,
        &ParameterSnapshot::capture(&model),
        &["blocks.*.lora_a", "blocks.*.lora_b"],
    );
    assert_finite(&model);
}

#[test]
fn a_trained_model_survives_saving() {
    let mut model = adapted();
    let (_, gradients) = loss_and_gradients(&mut model, &tokens(), &targets()).unwrap();
    step(&mut model, &gradients, 0.1).unwrap();
    // Another seed: what is not saved cannot be right by chance.
    assert_survives_saving(&model, &[], Model::save, |folder| {
        let mut fresh = Model::new(3, OTHER_SEED)?;
        fresh.attach_adapters(OTHER_SEED)?;
        fresh.load(folder)?;
        Ok::<_, mlx_rs::error::Exception>(fresh)
    });
}

#[test]
fn the_file_has_the_names_of_the_parameters() {
    let folder = tempfile::tempdir().unwrap();
    model().save(folder.path()).unwrap();
    let file = folder.path().join("model.safetensors");
    assert_file_is_covered(&model(), &file, &[]);
    // The adapters have a file of their own.
    assert_file_is_covered(&adapted(), &file, &["*.lora_a", "*.lora_b"]);
}
