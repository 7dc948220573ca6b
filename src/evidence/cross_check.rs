use serde::{Deserialize, Serialize};

/// Where the other backend's weights came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrossCheckWeights {
    /// It read the model's folder itself, so that reading the files is compared too.
    ModelFolder,
    /// It was given the weights as they are held here, since it cannot read them packed or in a GGUF file.
    HandedOver,
}

/// Gradients of adapters with random values, computed by both backends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradientDifference {
    /// Tensors that were compared.
    pub tensors: usize,
    /// Distance of the two gradients of a tensor over the norm of the larger one, where that is largest; `None` when some
    /// gradient is not finite.
    pub largest: Option<f64>,
    /// The tensor.
    pub worst: String,
    /// The same over all gradients together.
    pub together: Option<f64>,
}

/// The same rows, through the same weights, computed by another backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossCheckEvidence {
    /// The other backend: `torch`.
    pub backend: String,
    /// Its versions, for example `torch 2.15.0, transformers 5.23.0, python 3.11.7`.
    pub versions: String,
    /// The device that it computed on.
    pub device: String,
    /// Where its weights came from.
    pub weights: CrossCheckWeights,
    /// Rows of the first batch, whose loss and gradients were compared.
    pub rows: usize,
    /// Tokens in them.
    pub tokens: usize,
    /// Positions at which all logits were compared.
    pub positions: usize,
    /// Largest absolute difference between two logits; `None` when one is not finite.
    pub logit_difference: Option<f64>,
    /// Largest absolute logit here; `None` when one is not finite.
    pub largest_logit: Option<f64>,
    /// Mean loss per supervised token here, in nats; `None` when it is not finite.
    pub loss_here: Option<f64>,
    /// The same there.
    pub loss_there: Option<f64>,
    /// The gradients.
    pub gradients: GradientDifference,
    /// Seconds that it took, both backends and the start of the other together.
    pub seconds: f64,
}
