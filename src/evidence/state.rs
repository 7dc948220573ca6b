use serde::{Deserialize, Serialize};

use super::{Listing, Slot};

/// Ways of forcing MLX's lazy work to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvaluationMeans {
    /// Evaluate the parameters.
    Parameters,
    /// Evaluate the optimizer's state.
    OptimizerState,
    /// Evaluate both.
    Both,
    /// Wait for the device.
    Synchronize,
}

/// What one means of evaluation changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// The means that was tried.
    pub means: EvaluationMeans,
    /// Parameters whose values differ after it.
    pub changed: Listing,
}

/// Which parameters generation really used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationBinding {
    /// Parameters that the generator holds.
    pub parameters: usize,
    /// Parameters of the generator that are the very objects that training left.
    pub same_object: usize,
    /// Parameters whose object and values both differ from what training left.
    pub stale: Listing,
    /// Largest absolute difference between the generator's logits and the trained model's; `None` when not finite.
    pub difference_from_trained: Option<f64>,
    /// Largest absolute difference between the generator's logits and the base's; `None` when not finite.
    pub difference_from_base: Option<f64>,
    /// Largest absolute difference between the trained model's logits and the base's; `None` when not finite.
    pub trained_from_base: Option<f64>,
}

/// The adapter (or the weights) saved and loaded again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadEvidence {
    /// Tensors written.
    pub saved: usize,
    /// Tensors found in the file that was written; `None` when there is none or it cannot be read.
    pub stored: Option<usize>,
    /// Why loading refused what was saved, on one line; `None` when it was loaded.
    pub refused: Option<String>,
    /// The other program whose adapter format was written, for example `PEFT`; `None` when it is mlx-lm's.
    pub other_format: Option<String>,
    /// Tensors that came back: into the reloaded model, or when loading was refused into the file.
    pub loaded: usize,
    /// Tensors that were to be written or came back changed, or not at all.
    pub lost: Listing,
    /// What the configuration that was written says, or what was loaded by it, otherwise than the adapters that are live,
    /// one clause each, sorted; empty when there is nothing, or when the format is another one.
    pub configuration_problems: Vec<String>,
    /// Parameters of the base onto which the adapter was loaded that differ from the base that was trained on.
    pub other_base: Listing,
    /// Largest absolute difference between the reloaded model's logits and the live model's; `None` when not finite, or
    /// when loading was refused.
    pub difference_from_live: Option<f64>,
    /// Largest absolute difference between the live model's logits and the base's; `None` when not finite.
    pub live_from_base: Option<f64>,
}

/// The adapters fused into the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FuseEvidence {
    /// Layers that were fused.
    pub fused: usize,
    /// Bits that the weights were packed to again; `None` when they stayed plain.
    pub bits: Option<u32>,
    /// Share of the adapters' change that the fused weights hold: its projection onto that change, over all layers;
    /// `None` when there is no change or it is not finite.
    pub kept: Option<f64>,
    /// Largest absolute difference between the fused model's logits and the live model's; `None` when not finite.
    pub difference_from_live: Option<f64>,
    /// Mean divergence per position from the live model to the fused one, in nats; `None` when not finite.
    pub divergence_from_live: Option<f64>,
}

/// How far models are apart, as the mean over positions of the Kullback-Leibler divergence; on the compared row at 32
/// positions at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DivergenceEvidence {
    /// From the live model to the base, in nats on a training row; `None` when not finite.
    pub live_from_base: Option<f64>,
    /// From the live model to the reloaded one, in nats; `None` when not finite or nothing was reloaded.
    pub live_from_reloaded: Option<f64>,
    /// From the live model to the base, in nats, on answers of the base to prompts that are not of the training data;
    /// `None` when there is none or it is not finite.
    pub held_out: Option<f64>,
    /// Rise of the loss of those answers by training, in nats per token; `None` as above.
    pub held_out_rise: Option<f64>,
}

/// Which state is live, and whether it survives saving.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateEvidence {
    /// Which parameters generation used.
    pub generation: Slot<GenerationBinding>,
    /// What each means of evaluation changed, in the order tried.
    pub evaluations: Slot<Vec<Evaluation>>,
    /// Largest absolute difference between the logits of two passes of the generator over the same tokens; `None` when
    /// not finite.
    pub repeat_difference: Slot<Option<f64>>,
    /// The adapter saved and loaded again.
    pub reload: Slot<ReloadEvidence>,
    /// The adapters fused into the weights.
    pub fuse: Slot<FuseEvidence>,
    /// How far the models are apart.
    pub divergence: Slot<DivergenceEvidence>,
    /// Seconds for the whole phase.
    pub seconds: f64,
}
