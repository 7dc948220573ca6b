use serde::{Deserialize, Serialize};

use super::Listing;

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
    /// The files or the template that name it, sorted; the template is called [`Self::TEMPLATE`].
    pub sources: Vec<String>,
}

impl StopToken {
    /// The source of the token that the chat template puts after an answer.
    pub const TEMPLATE: &str = "chat template";

    /// Whether the chat template puts it after an answer.
    pub fn is_written_by_template(&self) -> bool {
        self.sources.iter().any(|source| source == Self::TEMPLATE)
    }

    /// Whether a file says that it ends an answer.
    pub fn is_declared(&self) -> bool {
        self.sources.iter().any(|source| source != Self::TEMPLATE)
    }
}

/// The output row of a token that ends an answer, against those of other special tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRow {
    /// Token id.
    pub id: u32,
    /// The token as text.
    pub text: String,
    /// Norm of its row of the output layer over the median norm of all rows.
    pub norm_ratio: f64,
    /// The special token outside the stop set whose row is most like it; `None` when there is no other.
    pub nearest: Option<String>,
    /// Cosine of the two rows, -1 to 1; `None` without another, or when a row is zero.
    pub cosine: Option<f64>,
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
    /// Longest context in tokens the configuration allows; `None` when it does not say.
    pub context_length: Option<usize>,
    /// Values that the configuration predicts, quantised weights counted unpacked; `None` when this program lacks the
    /// architecture, so that it predicts nothing and another program computes.
    pub predicted_values: Option<u64>,
    /// Values found in the registered parameter tree, quantised weights counted unpacked.
    pub registered_values: u64,
    /// Tensors that the configuration predicts; `None` as above.
    pub predicted_tensors: Option<usize>,
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
    /// Output rows of the stop tokens, by id; empty when no stop token has one, or when most output rows are zero.
    pub stop_rows: Vec<StopRow>,
    /// Tags that the chat template writes behind an answer, when none of them is a token; empty otherwise.
    pub split_turn_ends: Vec<String>,
    /// Text of the beginning-of-text token; `None` when the tokenizer declares none.
    pub beginning_of_text: Option<String>,
    /// Whether a chat template was found.
    pub has_chat_template: bool,
    /// The element type of most values in the files that are not packed, for example `bfloat16`; for a GGUF file the type
    /// of most values, for example `Q4_K`.
    pub stored_dtype: String,
    /// Whether the embedding serves as the output layer.
    pub tied_output: bool,
    /// Seconds to load.
    pub load_seconds: f64,
}

impl ModelEvidence {
    /// Whether this program lacks the architecture.
    pub fn is_foreign(&self) -> bool {
        self.predicted_values.is_none()
    }

    /// Loss of a uniform guess in nats per token, the natural logarithm of the vocabulary size.
    pub fn uniform_loss(&self) -> f64 {
        (self.vocabulary_size as f64).ln()
    }
}
