//! What the checks say of mistakes that are easily made: each is planted here, and must be found.

use checks_on_your_model::{Block, Model, loss_and_gradients, step};
use mlx_diagnose::checks::{
    ParameterSnapshot, adapter_is_identity, assert_finite, every_weight_is_seen, file_is_covered, finite,
    gradients_reach, only_changed, survives_saving,
};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::{ModuleParameters, ModuleParametersExt, Param};
use mlx_rs::ops::{matmul, ones};

fn adapted() -> Model {
    let mut model = Model::new(3, 0).unwrap();
    model.attach_adapters(0).unwrap();
    model
}

fn tokens() -> Array {
    Array::from_slice(&[1, 5, 7, 2], &[4])
}

fn targets() -> Array {
    Array::from_slice(&[5, 7, 2, 3], &[4])
}

/// The same model with a list of blocks that nobody registered.
#[derive(Debug, Clone, ModuleParameters)]
struct Forgetful {
    #[param]
    table: Param<Array>,
    // No `#[param]`.
    blocks: Vec<Block>,
    /// Made anew in each pass, as a mask is.
    #[param]
    unused: Param<Array>,
}

impl Forgetful {
    fn new() -> Self {
        let Model { table, blocks } = Model::new(3, 0).unwrap();
        Self {
            table,
            blocks,
            unused: Param::new(ones::<f32>(&[2]).unwrap()),
        }
    }

    fn forward(&self, tokens: &Array) -> Result<Array, Exception> {
        let mut hidden = self.table.take_axis(tokens, 0)?;
        for block in &self.blocks {
            hidden = block.forward(&hidden)?;
        }
        let mask = Array::from_slice(&[1.0_f32; 4], &[4, 1]);
        matmul(hidden.multiply(mask)?, self.table.t())
    }
}

#[test]
fn blocks_in_a_list_that_was_never_registered() {
    let tokens = tokens();
    let failure = every_weight_is_seen(&mut Forgetful::new(), &[&tokens], &["unused"], |model| {
        model.forward(&tokens)
    })
    .unwrap_err();
    assert_eq!(
        failure.to_string(),
        "the model computes with weights that it does not list as its parameters\n  \
         found: used and not listed: (16,16) in float32, (16,16) in float32, (16,16) in float32\n  \
         expected: an output that is computed from the 2 parameters of the model and nothing else\n  \
         hint: mark the field that holds them with `#[param]`, blocks in a `Vec` too; give constant tables as inputs of \
         this check"
    );
}

#[test]
fn a_parameter_that_is_never_used() {
    let tokens = tokens();
    let mut model = Forgetful::new();
    let blocks = model.blocks.clone();
    let weights: Vec<&Array> = blocks.iter().map(|block| &*block.linear.weight).collect();
    let inputs: Vec<&Array> = weights.into_iter().chain([&tokens]).collect();
    let failure = every_weight_is_seen(&mut model, &inputs, &[], |model| model.forward(&tokens)).unwrap_err();
    assert_eq!(
        failure.headline,
        "the model lists parameters that its output does not depend on"
    );
    assert_eq!(failure.found, ["listed and not used: `unused`"]);
}

#[test]
fn weights_of_a_file_that_the_model_has_no_place_for() {
    let folder = tempfile::tempdir().unwrap();
    Model::new(3, 0).unwrap().save(folder.path()).unwrap();
    let failure = file_is_covered(&Forgetful::new(), &folder.path().join("model.safetensors"), &[]).unwrap_err();
    assert_eq!(
        failure.found,
        [
            "tensors without a parameter: `blocks.0.linear.weight`, `blocks.1.linear.weight`, `blocks.2.linear.weight`",
            "parameters without a tensor: `unused`",
        ]
    );
}

#[test]
fn a_base_that_was_not_frozen() {
    let mut model = adapted();
    model.unfreeze_parameters(true);
    let before = ParameterSnapshot::capture(&model);
    let (_, gradients) = loss_and_gradients(&mut model, &tokens(), &targets()).unwrap();
    step(&mut model, &gradients, 0.1).unwrap();
    let after = ParameterSnapshot::capture(&model);
    let failure = only_changed(&before, &after, &["*.lora_b"]).unwrap_err();
    assert_eq!(
        failure.headline,
        "parameters changed that should have stayed as they were"
    );
    assert!(failure.found[0].contains("`blocks.0.linear.weight` ("), "{failure}");
    assert!(failure.found[0].contains("`table` ("), "{failure}");
}

#[test]
fn an_optimizer_whose_result_is_thrown_away() {
    let mut model = adapted();
    let before = ParameterSnapshot::capture(&model);
    let (_, gradients) = loss_and_gradients(&mut model, &tokens(), &targets()).unwrap();
    step(&mut model.clone(), &gradients, 0.1).unwrap();
    let after = ParameterSnapshot::capture(&model);
    let failure = only_changed(&before, &after, &["*.lora_b"]).unwrap_err();
    assert_eq!(failure.headline, "parameters did not change that should have");
    assert_eq!(
        failure.found,
        [
            "should have changed and did not: `blocks.0.linear.lora_b`, `blocks.1.linear.lora_b`, `blocks.2.linear.lora_b`"
        ]
    );
}

#[test]
fn a_pattern_with_a_slip_of_the_pen() {
    let before = ParameterSnapshot::capture(&adapted());
    let failure = only_changed(&before, &before, &["blocks.0.linear.lora_bb"]).unwrap_err();
    assert_eq!(
        failure.found,
        ["patterns of no parameter: `blocks.0.linear.lora_bb` (did you mean `blocks.0.linear.lora_b`?)"]
    );
}

#[test]
fn gradients_that_do_not_arrive() {
    let mut model = adapted();
    let (_, mut gradients) = loss_and_gradients(&mut model, &tokens(), &targets()).unwrap();
    gradients.remove("blocks.1.linear.lora_b");
    let broken = gradients["blocks.2.linear.lora_b"]
        .multiply(Array::from_f32(f32::NAN))
        .unwrap();
    gradients.insert("blocks.2.linear.lora_b".into(), broken);
    gradients.insert("blocks.3.linear.lora_b".into(), Array::from_f32(1.0));
    let failure = gradients_reach(&model, &gradients, &["blocks.0.*"]).unwrap_err();
    assert_eq!(
        failure.found,
        [
            "no gradient: `blocks.1.linear.lora_b`",
            "a gradient of zeros: `blocks.1.linear.lora_a`, `blocks.2.linear.lora_a`",
            "a gradient with NaN or infinity: `blocks.2.linear.lora_b` (32 of 32 values)",
            "a gradient of no trainable parameter: `blocks.3.linear.lora_b`",
        ]
    );
}

#[test]
fn adapters_that_start_at_random() {
    let base = Model::new(3, 0).unwrap();
    let mut model = adapted();
    model.blocks[1].linear.lora_b = Param::new(Some(ones::<f32>(&[2, 16]).unwrap()));
    let outputs = [base.forward(&tokens()).unwrap(), model.forward(&tokens()).unwrap()];
    let failure = adapter_is_identity(&model, &outputs[0], &outputs[1], &["*.lora_b"]).unwrap_err();
    assert_eq!(failure.headline, "fresh adapters change the model");
    assert!(
        failure.found[0].contains(" of 48 values of the output differ, by up to "),
        "{failure}"
    );
    assert_eq!(failure.found[1], "not zero: `blocks.1.linear.lora_b` (up to 1.000e0)");
}

#[test]
fn a_loader_that_drops_what_it_does_not_know() {
    // mlx-rs leaves parameters as they are for which the file has no name.
    let save = |model: &Model, folder: &std::path::Path| {
        let parameters = model.parameters().flatten();
        let renamed = parameters
            .iter()
            .map(|(name, array)| (name.replace("blocks.1", "block.1"), (*array).clone()));
        Array::save_safetensors(renamed.collect::<Vec<_>>(), None, folder.join("model.safetensors"))
    };
    let load = |folder: &std::path::Path| {
        let mut model = Model::new(3, 1).unwrap();
        model.load_safetensors(folder.join("model.safetensors")).map(|()| model)
    };
    let failure = survives_saving(&Model::new(3, 0).unwrap(), &[], save, load).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "the model is another one after saving and loading\n  \
         found: another value after loading: `blocks.1.linear.weight` (256 of 256 values)\n  \
         expected: the same parameters, bit for bit\n  \
         hint: save frozen parameters too, and refuse files that lack a name instead of leaving its fresh value"
    );
}

#[test]
fn weights_that_are_not_finite() {
    let mut model = Model::new(3, 0).unwrap();
    let spoilt = model.blocks[2].linear.weight.divide(Array::from_f32(0.0)).unwrap();
    model.blocks[2].linear.weight = Param::new(spoilt);
    let failure = finite(&model).unwrap_err();
    assert_eq!(
        failure.found,
        ["NaN or infinity: `blocks.2.linear.weight` (256 of 256 values)"]
    );
}

#[test]
#[should_panic(expected = "parameters are not finite\n  found: NaN or infinity: `table` (192 of 192 values)")]
fn an_assertion_ends_the_test_with_the_same_words() {
    let mut model = Model::new(1, 0).unwrap();
    model.table = Param::new(model.table.multiply(Array::from_f32(f32::INFINITY)).unwrap());
    assert_finite(&model);
}
