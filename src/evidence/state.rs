use super::{Listing, Slot};
use serde::{Deserialize, Serialize};

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
    /// Tensors that came back.
    pub loaded: usize,
    /// Tensors that were to be written or came back changed, or not at all.
    pub lost: Listing,
    /// Largest absolute difference between the reloaded model's logits and the live model's; `None` when not finite.
    pub difference_from_live: Option<f64>,
    /// Largest absolute difference between the live model's logits and the base's; `None` when not finite.
    pub live_from_base: Option<f64>,
}

/// Which state is live, and whether it survives saving.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateEvidence {
    /// Which parameters generation used.
    pub generation: Slot<GenerationBinding>,
    /// What each means of evaluation changed, in the order tried.
    pub evaluations: Slot<Vec<Evaluation>>,
    /// The adapter saved and loaded again.
    pub reload: Slot<ReloadEvidence>,
    /// Seconds for the whole phase.
    pub seconds: f64,
}
