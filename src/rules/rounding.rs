//! Whether an update is large enough to survive rounding.

use crate::evidence::{ParameterEvidence, TensorChange, TrainingEvidence};
use crate::thresholds::epsilon;

/// The highest learning rate of any step.
pub(super) fn peak_learning_rate(training: &TrainingEvidence) -> f64 {
    training.steps.iter().map(|step| step.learning_rate).fold(0.0, f64::max)
}

/// Whether one step of Adam, which moves a value by about the learning rate, shows in a typical value of the tensor.
///
/// A value `w` changes when the step is at least half the distance to the next number, `epsilon * |w| / 2`.
pub(super) fn survives(tensor: &TensorChange, learning_rate: f64, dtype: &str) -> bool {
    let typical_value = tensor.norm_before / (tensor.values.max(1) as f64).sqrt();
    learning_rate > 0.0 && learning_rate + learning_rate >= typical_value * epsilon(dtype)
}

/// Whether the updates were large enough to show in at least one trainable tensor.
///
/// [`ParameterEvidence::changes`] lists every trainable tensor; without an entry nothing speaks for rounding.
pub(super) fn updates_show(parameters: &ParameterEvidence, training: &TrainingEvidence, dtype: &str) -> bool {
    let learning_rate = peak_learning_rate(training);
    parameters.changes.is_empty()
        || parameters
            .changes
            .iter()
            .any(|tensor| survives(tensor, learning_rate, dtype))
}
