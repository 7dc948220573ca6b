use serde::{Deserialize, Serialize};

use super::Listing;
use crate::quantile::upper_median;

/// One tensor before against after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorChange {
    /// Path in the parameter tree, for example `model.layers.0.self_attn.q_proj.lora_a`.
    pub name: String,
    /// Number of values.
    pub values: u64,
    /// Values that differ bit for bit.
    pub changed_values: u64,
    /// Euclidean norm before.
    pub norm_before: f64,
    /// Euclidean norm after; `None` when not finite.
    pub norm_after: Option<f64>,
    /// Euclidean norm of the difference; `None` when not finite.
    pub norm_difference: Option<f64>,
}

/// All tensors of one kind, for example every `self_attn.q_proj.weight`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupChange {
    /// The path with block numbers removed.
    pub name: String,
    /// Tensors in the group.
    pub tensors: usize,
    /// Tensors of which at least one value differs.
    pub changed: usize,
    /// Euclidean norm of the group before.
    pub norm_before: f64,
    /// Euclidean norm of the group's difference; `None` when not finite.
    pub norm_difference: Option<f64>,
}

/// How much one adapter changes its layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleUpdate {
    /// Path of the layer.
    pub module: String,
    /// Frobenius norm of `scale * A B` over that of the layer's weight; `None` when not finite or the weight is zero.
    pub relative: Option<f64>,
    /// Root mean square of `scale * A B` over the mean quantisation step of the packed weight; `None` when the files hold
    /// the layer unpacked, or the value is not finite.
    pub quantization_steps: Option<f64>,
}

/// Adapters as found in the parameter tree after training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterEvidence {
    /// Modules that the settings name, from the model's own tree.
    pub expected: Listing,
    /// Modules that carry adapter tensors.
    pub attached: Listing,
    /// Adapter tensors by name.
    pub tensors: Listing,
    /// Modules whose `lora_a` has a value other than zero.
    pub nonzero_a: usize,
    /// Modules whose `lora_b` has a value other than zero.
    pub nonzero_b: usize,
    /// Ranks of the attached adapters, sorted, each once.
    pub ranks: Vec<usize>,
    /// Scales of the attached adapters, sorted, each once.
    pub scales: Vec<f64>,
    /// Dropout probabilities of the attached adapters, sorted, each once.
    pub dropouts: Vec<f64>,
    /// Blocks of the model.
    pub blocks: usize,
    /// Linear layers of all blocks.
    pub linear_layers: usize,
    /// Blocks with at least one adapter.
    pub adapted_blocks: usize,
    /// Every adapted layer, sorted by path.
    pub updates: Vec<ModuleUpdate>,
    /// Largest absolute difference of logits between the base and the freshly attached adapters, before any step.
    pub identity_difference: Option<f64>,
}

impl AdapterEvidence {
    /// Median of [`ModuleUpdate::relative`] over the layers that have one, the upper of two in the middle.
    pub fn median_update(&self) -> Option<f64> {
        upper_median(self.updates.iter().filter_map(|update| update.relative))
    }

    /// Median of [`ModuleUpdate::quantization_steps`] over the layers that have one, the upper of two in the middle.
    pub fn median_quantization_steps(&self) -> Option<f64> {
        upper_median(self.updates.iter().filter_map(|update| update.quantization_steps))
    }
}

impl ParameterEvidence {
    /// Median change of the tensors that changed at all, relative to their norm before, the upper of two in the middle;
    /// `None` when none did.
    pub fn median_change(&self) -> Option<f64> {
        let changed = self
            .changes
            .iter()
            .filter(|change| change.changed_values > 0 && change.norm_before > 0.0);
        upper_median(changed.filter_map(|change| change.norm_difference.map(|norm| norm / change.norm_before)))
    }
}

/// Parameters before training against after.
///
/// Changed means that at least one value of the tensor differs bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterEvidence {
    /// Tensors after training.
    pub tensors: usize,
    /// Values after training, quantised weights counted as packed words.
    pub values: u64,
    /// Tensors declared trainable.
    pub trainable_tensors: usize,
    /// Values declared trainable.
    pub trainable_values: u64,
    /// Tensors that changed.
    pub changed: usize,
    /// Tensors that did not change.
    pub unchanged: usize,
    /// Trainable tensors that changed.
    pub changed_trainable: usize,
    /// Trainable tensors that did not change.
    pub unchanged_trainable: Listing,
    /// Base tensors that changed although adapters were asked for.
    pub changed_base: Listing,
    /// Tensors present on one side only.
    pub appeared_or_vanished: Listing,
    /// Tensors that hold a NaN or an infinity after training.
    pub non_finite: Listing,
    /// By kind of tensor, sorted by name.
    pub groups: Vec<GroupChange>,
    /// Every tensor that was trainable or changed, sorted by name.
    pub changes: Vec<TensorChange>,
    /// The adapters; `None` when all weights were to be trained.
    pub adapter: Option<AdapterEvidence>,
    /// Seconds for the whole phase.
    pub seconds: f64,
}
