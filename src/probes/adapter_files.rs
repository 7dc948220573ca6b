//! A finished adapter's files against the base.

use std::path::Path;

use mlx_rs::error::Result;

use crate::adapter::{AdapterFormat, AdapterKind, Application, StoredAdapter};
use crate::data::Batch;
use crate::evidence::{AdapterFilesEvidence, Listing, ResumedAdapter, ScaledLoss, Slot};
use crate::model::{CausalModel, load_safetensors};
use crate::train::{Lanes, mean_loss};

/// What the change of an adapter is multiplied by: the steps between 1 and mlx-lm's default scale of 20, and beyond.
const FACTORS: [f32; 3] = [3.0, 10.0, 30.0];

/// What `adapter` holds and what became of it; the losses of its multiples are measured apart.
pub fn measure(adapter: &StoredAdapter, application: &Application) -> AdapterFilesEvidence {
    let mut configuration_problems = [adapter.problems.as_slice(), &application.problems].concat();
    configuration_problems.sort_unstable();
    AdapterFilesEvidence {
        format: match adapter.format {
            AdapterFormat::MlxLm => "mlx-lm",
            AdapterFormat::MlxNpz => "mlx-examples",
            AdapterFormat::Peft => "PEFT",
        }
        .to_owned(),
        kind: match adapter.kind {
            AdapterKind::Lora => "lora",
            AdapterKind::Dora => "dora",
            AdapterKind::Full => "full",
        }
        .to_owned(),
        tensors: adapter.tensors.len() + adapter.set_aside.len(),
        applied: application.applied.len(),
        missing: application.missing.iter().cloned().collect(),
        unused: application.unused.iter().cloned().collect(),
        other_shape: application.other_shape.iter().cloned().collect(),
        configuration_problems,
        set_aside: adapter.set_aside.iter().cloned().collect(),
        configured_blocks: adapter.settings.layers,
        only_last_blocks: application.only_last_blocks,
        trained_on: adapter.training.base.clone(),
        resumed_from: adapter.training.resumed_from.clone(),
        resumed: match &adapter.training.resumed_from {
            Some(path) => resumed(Path::new(path), adapter),
            None => Slot::skipped("training did not go on from an earlier adapter"),
        },
        scaled_losses: Vec::new(),
        learning_rate: adapter.training.learning_rate,
        steps: adapter.training.steps,
    }
}

/// The file that training went on from, when it is still there.
fn resumed(path: &Path, adapter: &StoredAdapter) -> Slot<ResumedAdapter> {
    if !path.exists() {
        return Slot::skipped(format!("`{}` is not here", path.display()));
    }
    let tensors = match load_safetensors(path) {
        Ok(tensors) => tensors,
        Err(error) => return Slot::crashed(error),
    };
    let is_other = |name: &str, shape: &[i32]| adapter.tensors.get(name).is_none_or(|own| own.shape() != shape);
    let other: Listing = tensors
        .iter()
        .filter(|(name, tensor)| is_other(name, tensor.shape()))
        .map(|(name, _)| name.clone())
        .collect();
    Slot::Ran(ResumedAdapter {
        tensors: tensors.len(),
        other,
    })
}

/// The loss of `rows` with the change of the adapters of `adapted` multiplied.
///
/// Empty without adapters, and with DoRA's magnitudes, which do not grow with the scale.
pub fn scaled_losses(adapted: &CausalModel, rows: &Batch, lanes: &Lanes) -> Result<Vec<ScaledLoss>> {
    let linears = adapted.linears();
    let is_plain = linears.iter().all(|(_, linear)| linear.output_factors.is_none());
    if !is_plain || linears.iter().all(|(_, linear)| linear.low_rank.is_none()) {
        return Ok(Vec::new());
    }
    FACTORS
        .into_iter()
        .map(|factor| {
            let mut multiplied = adapted.clone();
            for (_, linear) in multiplied.linears_mut() {
                if let Some(low_rank) = &mut linear.low_rank {
                    low_rank.scale *= factor;
                }
            }
            let loss = mean_loss(&multiplied, rows, lanes)?;
            Ok(ScaledLoss {
                factor: f64::from(factor),
                loss: loss.is_finite().then_some(loss),
            })
        })
        .collect()
}
