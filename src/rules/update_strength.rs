//! How strong the updates are that the settings ask for.

use crate::evidence::{FineTuneKind, RunSettings};
use crate::thresholds::{ADAPTER_LEARNING_RATE, DEFAULT_SCALE};

/// Learning rate times scale, over what usual recipes go up to; all weights have no scale.
///
/// Adam moves a value by about the learning rate whatever the gradient, so this product decides how far a step goes.
pub(super) fn update_strength(settings: &RunSettings) -> f64 {
    let rate = settings.learning_rate / ADAPTER_LEARNING_RATE;
    match settings.fine_tune {
        FineTuneKind::Lora => rate * settings.scale / DEFAULT_SCALE,
        FineTuneKind::Full => rate,
    }
}
