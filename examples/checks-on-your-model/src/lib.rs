//! A small model of one's own on mlx-rs, with adapters, training, saving and loading.
//!
//! Nothing here knows of mlx-diagnose: `tests/checks.rs` holds this code to its checks, and `tests/defects.rs` shows what
//! they say of the mistakes that are easily made.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::{FlattenedModuleParam, ModuleParameters, Param};
use mlx_rs::ops::indexing::take_along_axis;
use mlx_rs::ops::{addmm, matmul, maximum, multiply, subtract, zeros};
use mlx_rs::{Array, nn, random};

/// Values per token.
const WIDTH: i32 = 16;
/// Largest fresh weight: one over the root of the width.
const BOUND: f32 = 0.25;
/// Tokens that the model knows.
pub const VOCABULARY: i32 = 12;
/// Rank of the adapters.
const RANK: i32 = 2;

/// Randomness for one place of a model.
fn key(seed: u64, place: usize) -> Result<Array, Exception> {
    // Far enough apart for any number of places.
    const STRIDE: u64 = 1 << 32;
    random::key(seed.wrapping_mul(STRIDE).wrapping_add(place as u64))
}

/// A linear layer with room for an adapter.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Linear {
    /// `[outputs, inputs]`.
    #[param]
    pub weight: Param<Array>,
    /// `[inputs, rank]`.
    #[param]
    pub lora_a: Param<Option<Array>>,
    /// `[rank, outputs]`.
    #[param]
    pub lora_b: Param<Option<Array>>,
}

impl Linear {
    fn new(key: &Array) -> Result<Self, Exception> {
        Ok(Self {
            weight: Param::new(random::uniform::<_, f32>(-BOUND, BOUND, &[WIDTH, WIDTH], key)?),
            lora_a: Param::new(None),
            lora_b: Param::new(None),
        })
    }

    /// Applies the layer to `input` `[..., inputs]`.
    pub fn forward(&self, input: &Array) -> Result<Array, Exception> {
        let output = matmul(input, self.weight.t())?;
        match (&self.lora_a.value, &self.lora_b.value) {
            (Some(a), Some(b)) => addmm(output, matmul(input, a)?, b, 1.0, 1.0),
            _ => Ok(output),
        }
    }
}

/// A layer with what it adds to its input.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Block {
    /// The layer.
    #[param]
    pub linear: Linear,
}

impl Block {
    /// Adds to `input` `[..., width]`.
    pub fn forward(&self, input: &Array) -> Result<Array, Exception> {
        let rectified = maximum(self.linear.forward(input)?, Array::from_f32(0.0))?;
        input.add(rectified)
    }
}

/// Predicts the next token from the last one.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Model {
    /// `[vocabulary, width]`; the output layer too.
    #[param]
    pub table: Param<Array>,
    /// First to last.
    #[param]
    pub blocks: Vec<Block>,
}

impl Model {
    /// A model of `blocks` blocks with fresh weights that `seed` decides.
    pub fn new(blocks: usize, seed: u64) -> Result<Self, Exception> {
        Ok(Self {
            table: Param::new(random::normal::<f32>(
                &[VOCABULARY, WIDTH],
                None,
                0.5,
                &key(seed, blocks)?,
            )?),
            blocks: (0..blocks)
                .map(|place| {
                    Ok(Block {
                        linear: Linear::new(&key(seed, place)?)?,
                    })
                })
                .collect::<Result<_, Exception>>()?,
        })
    }

    /// The logits `[rows, vocabulary]` of what follows `tokens` `[rows]`.
    pub fn forward(&self, tokens: &Array) -> Result<Array, Exception> {
        let mut hidden = self.table.take_axis(tokens, 0)?;
        for block in &self.blocks {
            hidden = block.forward(&hidden)?;
        }
        matmul(&hidden, self.table.t())
    }

    /// Freezes everything and gives every layer an adapter that changes nothing yet.
    pub fn attach_adapters(&mut self, seed: u64) -> Result<(), Exception> {
        self.freeze_parameters(true);
        for (place, block) in self.blocks.iter_mut().enumerate() {
            let key = key(seed, place)?;
            block.linear.lora_a = Param::new(Some(random::normal::<f32>(&[WIDTH, RANK], None, 0.1, &key)?));
            block.linear.lora_b = Param::new(Some(zeros::<f32>(&[RANK, WIDTH])?));
        }
        Ok(())
    }

    /// Writes every parameter to `model.safetensors` in `folder`.
    pub fn save(&self, folder: &Path) -> Result<(), Exception> {
        let parameters: BTreeMap<String, Array> = self
            .parameters()
            .flatten()
            .into_iter()
            .map(|(name, array)| (name.to_string(), array.clone()))
            .collect();
        Array::save_safetensors(&parameters, None, folder.join("model.safetensors"))
            .map_err(|error| Exception::custom(error.to_string()))
    }

    /// Reads every parameter back; one that the file lacks, or that the model has no place for, is an error.
    pub fn load(&mut self, folder: &Path) -> Result<(), Exception> {
        let stored = Array::load_safetensors(folder.join("model.safetensors"))
            .map_err(|error| Exception::custom(error.to_string()))?;
        let mut parameters = self.parameters_mut().flatten();
        for (name, array) in stored {
            let place = parameters.remove(name.as_str());
            *place.ok_or_else(|| Exception::custom(format!("no parameter is called `{name}`")))? = array;
        }
        match parameters.keys().min() {
            None => Ok(()),
            Some(name) => Err(Exception::custom(format!("the file has no `{name}`"))),
        }
    }
}

/// The mean cross-entropy of `targets` `[rows]` after `tokens` `[rows]`, in nats, and the gradient of each trainable
/// parameter.
pub fn loss_and_gradients(
    model: &mut Model,
    tokens: &Array,
    targets: &Array,
) -> Result<(Array, FlattenedModuleParam), Exception> {
    let loss = |model: &mut Model, (tokens, targets): (&Array, &Array)| -> Result<Array, Exception> {
        let logits = model.forward(tokens)?;
        let targets = take_along_axis(&logits, targets.reshape(&[-1, 1])?, -1)?;
        subtract(logits.logsumexp_axis(-1, true)?, targets)?.mean(None)
    };
    nn::value_and_grad(loss)(model, (tokens, targets))
}

/// One step of gradient descent.
pub fn step(model: &mut Model, gradients: &FlattenedModuleParam, learning_rate: f32) -> Result<(), Exception> {
    let mut parameters = model.parameters_mut().flatten();
    for (name, gradient) in gradients {
        if let Some(parameter) = parameters.get_mut(name) {
            **parameter = subtract(&**parameter, multiply(gradient, Array::from_f32(learning_rate))?)?;
        }
    }
    Ok(())
}
