//! Reads adapter folders of mlx-lm, and the single file of mlx-examples before it.

use std::path::Path;

use serde_json::Value;

use super::file::{stored_configuration, stored_tensors};
use super::{AdapterFileError, AdapterFormat, AdapterKind, StatedTraining, StoredAdapter};
use crate::model::{load_npz, load_safetensors};

/// The file of mlx-examples.
pub(super) const NPZ: &str = "adapters.npz";
/// The scale that mlx-examples used and did not store.
const NPZ_SCALE: f32 = 20.0;

/// Reads an mlx-lm folder.
pub(super) fn read(folder: &Path) -> Result<StoredAdapter, AdapterFileError> {
    let configuration = stored_configuration(folder)?;
    let tensors = stored_tensors(folder)?;
    let mut problems = Vec::new();
    let kind = match configuration.get("fine_tune_type") {
        None | Some(Value::Null) => AdapterKind::Lora,
        Some(Value::String(kind)) if kind == "lora" => AdapterKind::Lora,
        Some(Value::String(kind)) if kind == "dora" => AdapterKind::Dora,
        Some(Value::String(kind)) if kind == "full" => AdapterKind::Full,
        Some(other) => {
            problems.push(format!(
                "`fine_tune_type` is {other}, none of `lora`, `dora` and `full`"
            ));
            AdapterKind::Lora
        }
    };
    let mut adapter = StoredAdapter {
        kind,
        training: training(&configuration),
        problems,
        ..StoredAdapter::new(AdapterFormat::MlxLm, tensors)
    };
    read_layers(&configuration, &mut adapter);
    if kind != AdapterKind::Full {
        read_parameters(&configuration, &mut adapter);
    }
    Ok(adapter)
}

/// The adapter file that the training of the adapter in `folder` went on from, as its configuration names it.
///
/// mlx-lm writes the configuration before it trains, so it tells this even where training failed.
pub fn resumed_file(folder: &Path) -> Option<String> {
    let configuration = stored_configuration(folder).ok()?;
    let file = configuration.get("resume_adapter_file")?.as_str()?;
    Some(file.to_owned())
}

/// `-1` and `0` mean all blocks.
fn read_layers(configuration: &Value, adapter: &mut StoredAdapter) {
    adapter.settings.layers = match configuration.get("num_layers").map(|layers| (layers, layers.as_i64())) {
        Some((_, Some(layers))) => usize::try_from(layers).ok().filter(|layers| *layers > 0),
        Some((other, None)) => {
            adapter
                .problems
                .push(format!("`num_layers` is {other}, no whole number"));
            None
        }
        None => {
            adapter.problems.push("`num_layers` is absent".to_owned());
            None
        }
    };
}

fn read_parameters(configuration: &Value, adapter: &mut StoredAdapter) {
    let ranks = adapter.ranks();
    let Some(parameters) = configuration.get("lora_parameters").and_then(Value::as_object) else {
        adapter.problems.push("`lora_parameters` is absent".to_owned());
        if let Some(&rank) = ranks.first() {
            adapter.settings.rank = rank as usize;
        }
        return;
    };
    let problems = &mut adapter.problems;
    match parameters.get("rank").map(|rank| (rank, rank.as_u64())) {
        Some((_, Some(rank))) if rank > 0 => {
            adapter.settings.rank = rank as usize;
            if let Some(other) = ranks.iter().find(|&&other| other as u64 != rank) {
                problems.push(format!("`rank` is {rank} and the tensors have {other}"));
            }
        }
        Some((other, _)) => problems.push(format!("`rank` is {other}, no whole number above 0")),
        None => problems.push("`rank` is absent".to_owned()),
    }
    match parameters.get("scale").map(|scale| (scale, scale.as_f64())) {
        Some((_, Some(scale))) if (scale as f32).is_finite() => adapter.settings.scale = scale as f32,
        Some((other, _)) => problems.push(format!("`scale` is {other}, no finite number")),
        None => problems.push(match parameters.get("alpha") {
            Some(alpha) => format!("`scale` is absent, and mlx-lm does not read `alpha` ({alpha})"),
            None => "`scale` is absent".to_owned(),
        }),
    }
    match parameters.get("dropout").map(|dropout| (dropout, dropout.as_f64())) {
        Some((_, Some(dropout))) if (0.0..1.0).contains(&dropout) => adapter.settings.dropout = dropout as f32,
        Some((other, _)) => problems.push(format!("`dropout` is {other}, no number from 0 to below 1")),
        None => problems.push("`dropout` is absent".to_owned()),
    }
    match parameters.get("keys") {
        None | Some(Value::Null) => {}
        Some(keys) => match serde_json::from_value(keys.clone()) {
            Ok(keys) => adapter.settings.keys = keys,
            Err(_) => problems.push(format!("`keys` is {keys}, no list of paths")),
        },
    }
}

fn training(configuration: &Value) -> StatedTraining {
    let text = |key: &str| configuration.get(key).and_then(Value::as_str).map(str::to_owned);
    let count = |key: &str| {
        configuration
            .get(key)
            .and_then(Value::as_u64)
            .map(|count| count as usize)
    };
    StatedTraining {
        base: text("model"),
        learning_rate: configuration.get("learning_rate").and_then(Value::as_f64),
        steps: count("iters"),
        batch_size: count("batch_size"),
        mask_prompt: configuration.get("mask_prompt").and_then(Value::as_bool),
        max_sequence_length: count("max_seq_length"),
        seed: configuration.get("seed").and_then(Value::as_u64),
    }
}

/// Reads a single file of tensors in mlx-lm's names, without any settings.
pub(super) fn read_tensors(path: &Path) -> Result<StoredAdapter, AdapterFileError> {
    Ok(StoredAdapter::new(AdapterFormat::MlxNpz, load_safetensors(path)?))
}

/// Reads the single file of mlx-examples: no settings, so the scale is the one that it always used.
pub(super) fn read_npz(folder: &Path) -> Result<StoredAdapter, AdapterFileError> {
    let tensors = load_npz(&folder.join(NPZ))?;
    let mut adapter = StoredAdapter::new(AdapterFormat::MlxNpz, tensors);
    adapter.settings.scale = NPZ_SCALE;
    if let Some(rank) = adapter.ranks().first().copied() {
        adapter.settings.rank = rank as usize;
    }
    Ok(adapter)
}
