use std::collections::BTreeMap;
use std::path::Path;

use mlx_rs::Array;
use mlx_rs::module::ModuleParameters;

use super::stored_names::to_hugging_face;
use super::{CausalModel, ModelConfiguration, WeightFileError, save_safetensors};
use crate::atomic_write::write_file;

/// Endings of what belongs to a packed weight, or to an adapter.
const NO_PLAIN_WEIGHTS: [&str; 4] = ["scales", "biases", "lora_a", "lora_b"];

/// Writes the base of `model` to `folder` as other programs read it: plain weights, and a `config.json` without
/// packing.
///
/// Returns the number of tensors written.
///
/// # Errors
/// The files cannot be written, or MLX cannot unpack a weight.
pub fn write_plain_folder(
    model: &CausalModel,
    configuration: &ModelConfiguration,
    folder: &Path,
) -> Result<usize, WeightFileError> {
    let weights = folder.join("model.safetensors");
    let tensors = plain_weights(model)
        .and_then(|tensors| to_hugging_face(tensors, configuration))
        .map_err(|error| WeightFileError::Mlx {
            path: weights.clone(),
            message: error.to_string(),
        })?;
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    save_safetensors(&tensors, Some(&metadata), &weights)?;
    let plain = ModelConfiguration {
        quantization: None,
        ..configuration.clone()
    };
    let path = folder.join("config.json");
    write_file(&path, format!("{:#}\n", plain.to_json()).as_bytes())
        .map_err(|source| WeightFileError::Io { path, source })?;
    Ok(tensors.len())
}

fn plain_weights(model: &CausalModel) -> mlx_rs::error::Result<BTreeMap<String, Array>> {
    let mut tensors: BTreeMap<String, Array> = model
        .parameters()
        .flatten()
        .into_iter()
        .map(|(name, array)| (name.to_string(), array.clone()))
        .filter(|(name, _)| {
            !NO_PLAIN_WEIGHTS
                .iter()
                .any(|ending| name.ends_with(&format!(".{ending}")))
        })
        .collect();
    let names = model.model.names;
    let positions = names.positions.zip(model.model.embed_positions.as_ref());
    let tables = [(names.embedding, &model.model.embed_tokens)]
        .into_iter()
        .chain(positions);
    for (name, table) in tables.filter(|(_, table)| table.packing.is_some()) {
        tensors.insert(format!("model.{name}.weight"), table.plain_weight()?);
    }
    for (path, layer) in model.switch_linears() {
        if layer.packing.is_some() {
            tensors.insert(format!("{path}.weight"), layer.plain_weight()?);
        }
    }
    for (path, linear) in model.linears() {
        if linear.packing.is_some() {
            tensors.insert(format!("{path}.weight"), linear.plain_weight()?);
        }
    }
    Ok(tensors)
}
