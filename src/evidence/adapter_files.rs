use serde::{Deserialize, Serialize};

use super::Listing;

/// A finished adapter as its files hold it, and what became of them on the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterFilesEvidence {
    /// The program in whose format it is: `mlx-lm`, `mlx-examples`, `PEFT`, or `a model folder`.
    pub format: String,
    /// `lora`, `dora` or `full`.
    pub kind: String,
    /// Tensors in the files.
    pub tensors: usize,
    /// Tensors that were applied to the base.
    pub applied: usize,
    /// Tensors that the configuration calls for and the files lack.
    pub missing: Listing,
    /// Tensors that the base has no place for.
    pub unused: Listing,
    /// Tensors of another shape than the base has there, with both shapes.
    pub other_shape: Listing,
    /// What the configuration says wrongly or not at all, one clause each.
    pub configuration_problems: Vec<String>,
    /// What the files hold and could not be applied here, with the reason, one clause each.
    pub set_aside: Listing,
    /// Blocks that the configuration calls for, counted from the last; `None` for all.
    pub configured_blocks: Option<usize>,
    /// Blocks at the base's end that are complete in the files while none before them has a tensor there; `None` when that
    /// is what the configuration calls for, or when there is more or less.
    pub only_last_blocks: Option<usize>,
    /// The base that the configuration names.
    pub trained_on: Option<String>,
    /// The loss of the first rows with the adapter's change multiplied; empty for whole weights and magnitudes.
    pub scaled_losses: Vec<ScaledLoss>,
    /// The learning rate of the training, as stated.
    pub learning_rate: Option<f64>,
    /// The steps of the training, as stated.
    pub steps: Option<usize>,
}

/// The adapter that the training of a finished one went on from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumedAdapter {
    /// The file as the configuration names it.
    pub file: String,
    /// Tensors in it.
    pub tensors: usize,
    /// Of these, tensors that the base has no place for, or one of another shape.
    pub misfits: Listing,
}

/// The loss of the first rows with the adapter's change multiplied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaledLoss {
    /// What the change is multiplied by.
    pub factor: f64,
    /// In nats per supervised token; `None` when it is not finite.
    pub loss: Option<f64>,
}
