//! Which files a model's folder needs, and which of them it lacks.

use std::path::Path;

use super::{CheckpointError, WeightSet};

/// The settings of a model.
pub(super) const CONFIGURATION: &str = "config.json";
/// The tokenizer.
pub(super) const TOKENIZER: &str = "tokenizer.json";
/// The weights where nothing shows in which format they should be.
const WEIGHTS: &str = "model.safetensors";

/// What a model needs and `folder` does not hold; empty when it is whole.
pub(super) fn missing_files(folder: &Path) -> Vec<String> {
    let mut missing: Vec<String> = [CONFIGURATION, TOKENIZER]
        .into_iter()
        .filter(|name| !folder.join(name).is_file())
        .map(str::to_owned)
        .collect();
    match WeightSet::of_folder(folder) {
        Ok(_) => {}
        Err(CheckpointError::MissingShards { missing: shards, .. }) => {
            let unnamed = shards.total - shards.first.len();
            missing.extend(shards.first);
            if unnamed > 0 {
                missing.push(format!("{unnamed} more shards"));
            }
        }
        Err(CheckpointError::Index { path, .. }) => {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            missing.push(format!("a whole {}", name.unwrap_or_default()));
        }
        Err(_) => missing.push(WEIGHTS.to_owned()),
    }
    missing
}
