//! A finished adapter's files against the base.

use std::path::Path;

use mlx_rs::error::Result;

use crate::adapter::{AdapterFormat, Application, Places, StoredAdapter, resumed_file};
use crate::data::Batch;
use crate::evidence::{AdapterFilesEvidence, ResumedAdapter, ScaledLoss, Slot};
use crate::model::CausalModel;
use crate::train::{Lanes, mean_loss};

/// What the change of an adapter is multiplied by: the steps between 1 and mlx-lm's default scale of 20, and beyond.
pub const FACTORS: [f32; 3] = [3.0, 10.0, 30.0];

/// What `adapter` holds and what became of it; the losses of its multiples are measured apart.
pub fn measure(adapter: &StoredAdapter, application: &Application) -> AdapterFilesEvidence {
    let mut configuration_problems = [adapter.problems.as_slice(), &application.problems].concat();
    configuration_problems.sort_unstable();
    AdapterFilesEvidence {
        format: match adapter.format {
            AdapterFormat::MlxLm => "mlx-lm",
            AdapterFormat::MlxNpz => "mlx-examples",
            AdapterFormat::Peft => "PEFT",
            AdapterFormat::WholeModel => "a model folder",
        }
        .to_owned(),
        kind: adapter.kind.name().to_owned(),
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
        scaled_losses: Vec::new(),
        learning_rate: adapter.training.learning_rate,
        steps: adapter.training.steps,
    }
}

/// The adapter that the training of the one in `folder` went on from, on a base with these places.
pub fn resumed(folder: &Path, places: &Places) -> Slot<ResumedAdapter> {
    let Some(file) = resumed_file(folder) else {
        return Slot::skipped("training did not go on from an earlier adapter");
    };
    let path = Path::new(&file);
    if !path.exists() {
        return Slot::skipped(format!("`{file}` is not here"));
    }
    match StoredAdapter::of_tensors(path) {
        Ok(adapter) => {
            let application = adapter.application_to(places);
            Slot::Ran(ResumedAdapter {
                file,
                tensors: adapter.tensors.len(),
                misfits: application.unused.into_iter().chain(application.other_shape).collect(),
            })
        }
        Err(error) => Slot::crashed(error),
    }
}

/// The loss of `rows` with the change of the adapters of `adapted` multiplied.
///
/// Empty without adapters, and with DoRA's magnitudes, which do not grow with the scale.
pub fn scaled_losses(adapted: &CausalModel, rows: &Batch, lanes: &Lanes) -> Result<Vec<ScaledLoss>> {
    let layers = adapted.adaptable();
    let is_plain = layers.iter().all(|(_, layer)| !layer.has_output_factors());
    if !is_plain || layers.iter().all(|(_, layer)| layer.low_rank().is_none()) {
        return Ok(Vec::new());
    }
    FACTORS
        .into_iter()
        .map(|factor| {
            let mut multiplied = adapted.clone();
            for (_, layer) in multiplied.adaptable_mut() {
                if let Some(low_rank) = layer.low_rank_mut() {
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
