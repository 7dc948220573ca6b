//! Small models with what other programs compute from them (`scripts/peers` makes the files, `fixtures/golden` holds them).

use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;

/// A random model of one architecture, and the file of what transformers computes from it.
#[derive(Debug)]
pub struct GoldenModel {
    /// The name of the architecture, or of a kind of it.
    pub name: &'static str,
    files: &'static [(&'static str, &'static [u8])],
    numbers: &'static str,
}

impl GoldenModel {
    /// Writes the model's files to the new folder `target`.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn unpack(&self, target: &Path) -> io::Result<()> {
        fs::create_dir_all(target)?;
        for (name, contents) in self.files {
            fs::write(target.join(name), contents)?;
        }
        Ok(())
    }

    /// What the other program computes.
    ///
    /// # Errors
    /// The file is not one of these.
    pub(super) fn numbers<'numbers, T: Deserialize<'numbers>>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.numbers)
    }
}

/// What transformers computes from a model in f32 on a CPU.
#[derive(Debug, Deserialize)]
pub(super) struct TransformersNumbers {
    /// A row of tokens.
    pub(super) input_ids: Vec<u32>,
    /// The logits after each of them.
    pub(super) logits: Vec<Vec<f64>>,
    /// The mean loss of predicting each from those before it, in nats.
    pub(super) loss: f64,
    /// The beginning of an answer.
    pub(super) prompt: Vec<u32>,
    /// The likeliest tokens after it, one after the other.
    pub(super) answer: Vec<u32>,
}

/// What mlx-lm computes from a model in f32 on a CPU.
#[derive(Debug, Deserialize)]
pub(super) struct MlxLmNumbers {
    /// A row of tokens.
    pub(super) input_ids: Vec<u32>,
    /// The logits after each of them.
    pub(super) logits: Vec<Vec<f64>>,
}

/// The gradients of the loss, by mlx-lm's names of the parameters.
pub(super) const GRADIENTS: &str = "gradients.safetensors";

/// A row for each name: the folder in `fixtures/golden`, and its files.
macro_rules! golden_models {
    ($folder:literal: $($name:literal),+ => $files:tt) => {
        [$(golden_models!(@model $folder, $name, $files)),+]
    };
    (@model $folder:literal, $name:literal, [$($file:literal),+]) => {
        GoldenModel {
            name: $name,
            files: &[$((
                $file,
                include_bytes!(concat!("../../fixtures/golden/", $folder, "/", $name, "/", $file)).as_slice(),
            )),+],
            numbers: include_str!(concat!("../../fixtures/golden/", $folder, "/", $name, "/golden.json")),
        }
    };
}

/// Every architecture against transformers.
pub static GOLDEN_MODELS: [GoldenModel; 9] = golden_models![
    "transformers": "llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3", "phi3-longrope", "mixtral", "gpt2"
        => ["config.json", "model.safetensors", "gradients.safetensors"]
];

/// Packed weights against mlx-lm: 4 bits with exceptions of 8, and MLX's packed floats.
pub(super) static PACKED_MODELS: [GoldenModel; 2] =
    golden_models!["tiny": "llama-4bit", "llama-floats" => ["config.json", "model.safetensors"]];

/// Updates of every optimizer by MLX's own.
pub(super) const OPTIMIZERS: &str = include_str!("../../fixtures/golden/optimizers.json");

/// Distributions that mlx-lm draws tokens from.
pub(super) const SAMPLER: &str = include_str!("../../fixtures/golden/sampler.json");
