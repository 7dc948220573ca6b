//! An adapter that changes what a model says, without training.

use mlx_diagnose::adapter::{LoraSettings, attach};
use mlx_diagnose::model::CausalModel;
use mlx_rs::Array;
use mlx_rs::module::Param;

/// Attaches adapters whose `lora_b` is zero no longer.
pub fn attach_moved(model: &mut CausalModel, settings: &LoraSettings) {
    attach(model, settings, 3).unwrap();
    for (_, linear) in model.linears_mut() {
        if let Some(lora_b) = &linear.lora_b.value {
            let ramp: Vec<f32> = (0..lora_b.size())
                .map(|place| (place % 7) as f32 * 0.01 - 0.03)
                .collect();
            linear.lora_b = Param::new(Some(Array::from_slice(&ramp, lora_b.shape())));
        }
    }
}
