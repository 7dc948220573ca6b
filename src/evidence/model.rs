use super::Listing;
use serde::{Deserialize, Serialize};

/// How the checkpoint's weights are packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantization {
    /// Bits per weight.
    pub bits: u32,
    /// Weights that share one scale.
    pub group_size: u32,
    /// `affine`, or another of MLX's modes.
    pub mode: String,
}

/// One member of the stop set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopToken {
    /// Token id.
    pub id: u32,
    /// The token as text, for example `<|im_end|>`.
    pub text: String,
    /// The files or the template that name it, sorted.
    pub sources: Vec<String>,
}

/// The model as loaded, before anything was changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEvidence {
    /// `model_type` of the configuration.
    pub architecture: String,
    /// Number of transformer blocks the configuration names.
    pub layers: usize,
    /// Rows of the embedding table.
    pub vocabulary_size: usize,
    /// Longest context in tokens the configuration allows.
    pub context_length: usize,
    /// Values that the configuration predicts, quantised weights counted unpacked.
    pub predicted_values: u64,
    /// Values found in the registered parameter tree, quantised weights counted unpacked.
    pub registered_values: u64,
    /// Tensors that the configuration predicts.
    pub predicted_tensors: usize,
    /// Tensors found in the registered parameter tree.
    pub registered_tensors: usize,
    /// Predicted tensors that the parameter tree does not hold.
    pub unregistered: Listing,
    /// How the checkpoint is packed; `None` when it is not.
    pub quantization: Option<Quantization>,
    /// Tensors of the base that hold a NaN or an infinity.
    pub non_finite: Listing,
    /// Every id that ends an answer.
    pub stop_tokens: Vec<StopToken>,
    /// Whether a chat template was found.
    pub has_chat_template: bool,
    /// Seconds to load.
    pub load_seconds: f64,
}
