//! A model of an architecture that this program lacks: what its files say without a forward pass.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx_rs::Array;
use serde_json::{Map, Value};

use super::configuration::{CheckpointQuantization, ConfigurationError, read_object};
use super::configuration_fields::stated_quantization;
use super::problem::Problem;
use super::{CheckpointError, LoadError, StoredShape, WeightFileError, WeightSet};

/// Names that configurations have for a size, the usual one first.
const LAYERS: &[&str] = &["num_hidden_layers", "n_layer", "n_layers", "num_layers"];
const VOCABULARY: &[&str] = &["vocab_size", "padded_vocab_size"];
const EMBEDDINGS: [&str; 4] = [
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
];
const CONTEXT: &[&str] = &[
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
];

/// What the files of such a model say.
#[derive(Debug, Clone)]
pub struct ForeignModel {
    /// The folder.
    pub folder: PathBuf,
    /// `model_type` of the configuration.
    pub model_type: String,
    /// Blocks; `None` when the configuration does not say.
    pub layers: Option<usize>,
    /// Rows of the embedding table.
    pub vocabulary_size: usize,
    /// Longest context in tokens; `None` as above.
    pub context_length: Option<usize>,
    /// How the checkpoint is packed; `None` when it is not, or in a way that is not MLX's.
    pub quantization: Option<CheckpointQuantization>,
    /// Every tensor as the headers of the files describe it.
    pub tensors: BTreeMap<String, StoredShape>,
    /// Whether MLX wrote the files, so that their tensors have the names of mlx-lm's modules.
    pub has_names_of_mlx_lm: bool,
    weight_files: WeightSet,
}

impl ForeignModel {
    /// Reads the configuration and the headers in `folder`.
    ///
    /// # Errors
    /// The configuration is no JSON object or names no architecture, or a weight file is absent or broken.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        let path = folder.join("config.json");
        let object = read_object(&path)?;
        let model_type = object
            .get("model_type")
            .and_then(Value::as_str)
            .ok_or_else(|| ConfigurationError::UnsupportedArchitecture {
                path: path.clone(),
                found: "no `model_type`".to_owned(),
            })?
            .to_owned();
        let weight_files = WeightSet::of_folder(folder)?;
        let mut tensors = BTreeMap::new();
        let mut has_names_of_mlx_lm = true;
        for file in &weight_files.files {
            tensors.extend(weight_files.stored_shapes(file).map_err(CheckpointError::from)?);
            has_names_of_mlx_lm &= weight_files.is_written_by_mlx(file).map_err(CheckpointError::from)?;
        }
        let vocabulary_size = size(&object, VOCABULARY).or_else(|| embedding_rows(&tensors));
        let vocabulary_size = vocabulary_size.ok_or_else(|| ConfigurationError::Unusable {
            path,
            problems: Problem::new("vocab_size", "no value", "the rows of the embedding table").into(),
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            model_type,
            layers: size(&object, LAYERS),
            vocabulary_size,
            context_length: size(&object, CONTEXT),
            quantization: stated_quantization(&object),
            tensors,
            has_names_of_mlx_lm,
            weight_files,
        })
    }

    /// Every weight with its shape before packing; scales and biases of packed weights belong to their weight.
    pub fn weights(&self) -> BTreeMap<String, Vec<i32>> {
        let unpacked = self.tensors.iter().filter(|(name, _)| !self.is_packing(name));
        unpacked
            .map(|(name, stored)| {
                let mut shape: Vec<i32> = stored.shape.iter().map(|&size| size as i32).collect();
                if let Some((group_size, scales)) = self.packing_of(name)
                    && let (Some(columns), Some(&groups)) = (shape.last_mut(), scales.shape.last())
                {
                    *columns = groups as i32 * group_size;
                }
                (name.clone(), shape)
            })
            .collect()
    }

    /// Values of [`Self::weights`].
    pub fn values(&self) -> u64 {
        let values = |shape: &Vec<i32>| shape.iter().map(|&size| size as u64).product::<u64>();
        self.weights().values().map(values).sum()
    }

    /// The element type of most values that are no packed words.
    pub fn stored_dtype(&self) -> String {
        let mut values: BTreeMap<&str, usize> = BTreeMap::new();
        for stored in self.tensors.values() {
            *values.entry(dtype_name(&stored.dtype)).or_insert(0) += stored.shape.iter().product::<usize>();
        }
        let is_float = |name: &&str| name.contains("float");
        let most = values
            .iter()
            .filter(|(name, _)| is_float(name))
            .max_by_key(|(_, count)| **count);
        most.map_or("none", |(name, _)| name).to_owned()
    }

    /// Shows every tensor to `visit`, one file at a time and without keeping any.
    ///
    /// # Errors
    /// A file cannot be read, or `visit` fails.
    pub fn visit_tensors<E: From<WeightFileError>>(
        &self,
        mut visit: impl FnMut(&mut BTreeMap<String, Array>) -> Result<(), E>,
    ) -> Result<(), E> {
        for file in &self.weight_files.files {
            visit(&mut self.weight_files.load_lazily(file)?)?;
        }
        Ok(())
    }

    fn is_packing(&self, name: &str) -> bool {
        let module = name.strip_suffix(".scales").or_else(|| name.strip_suffix(".biases"));
        module.is_some_and(|module| self.packing_of(&format!("{module}.weight")).is_some())
    }

    /// The group size and the scales of a packed weight.
    fn packing_of(&self, name: &str) -> Option<(i32, &StoredShape)> {
        let module = name.strip_suffix(".weight")?;
        let scales = self.tensors.get(&format!("{module}.scales"))?;
        let packing = self.quantization.as_ref()?.for_module(module)?;
        Some((packing.group_size as i32, scales))
    }
}

/// The rows of the table that is named like an embedding.
fn embedding_rows(tensors: &BTreeMap<String, StoredShape>) -> Option<usize> {
    let is_embedding = |name: &&String| EMBEDDINGS.iter().any(|ending| name.ends_with(ending));
    tensors[tensors.keys().find(is_embedding)?].shape.first().copied()
}

/// The first of these settings that is a whole number above 0, also within the language part of a larger model.
fn size(object: &Map<String, Value>, names: &[&str]) -> Option<usize> {
    let nested = object.get("text_config").and_then(Value::as_object);
    [Some(object), nested].into_iter().flatten().find_map(|object| {
        let found = names.iter().find_map(|name| object.get(*name)?.as_u64())?;
        usize::try_from(found).ok().filter(|&found| found > 0)
    })
}

/// The format's element types as configurations write them.
fn dtype_name(dtype: &str) -> &str {
    match dtype {
        "F64" => "float64",
        "F32" => "float32",
        "F16" => "float16",
        "BF16" => "bfloat16",
        other => other,
    }
}
