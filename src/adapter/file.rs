use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::module::{ModuleParameters, Param};
use serde_json::{Value, json};
use thiserror::Error;

use super::{LoraSettings, attached_modules};
use crate::atomic_write::{replace_file, write_file};
use crate::evidence::Listing;
use crate::model::{
    CausalModel, LoadError, LowRankSettings, WeightFileError, adapter_shapes, load_safetensors, save_safetensors,
};
use crate::readback::is_finite;

/// mlx-lm's name for the adapter's tensors.
pub(super) const WEIGHTS: &str = "adapters.safetensors";
/// mlx-lm's name for the adapter's settings.
pub(super) const CONFIGURATION: &str = "adapter_config.json";

/// What mends an adapter of numbers that are not finite.
pub(super) const NOT_FINITE_HINT: &str =
    "no base makes it usable: train it again, `diagnose train` stops at such a number";

/// Why an adapter folder could not be written or read.
#[derive(Debug, Error)]
pub enum AdapterFileError {
    /// A file could not be read or written.
    #[error("cannot use `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The settings are not what mlx-lm writes.
    #[error("the adapter settings in `{}` are not usable\n  found: {found}\n  expected: {expected}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: String,
    },
    /// Tensors and model do not fit, all at once.
    #[error("the adapter in `{}` does not fit the model\n  {}\n  hint: use the base model it was trained on", path.display(), problems.join("\n  "))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// One line per tensor.
        problems: Vec<String>,
    },
    /// The tensors could not be read.
    #[error(transparent)]
    Weights(#[from] WeightFileError),
    /// The weights are a pickle.
    #[error("the adapter in `{}` is stored as a pickle, which can run code while it is read\n  hint: load it with PEFT where you trust it, and save it with `safe_serialization=True`", path.display())]
    Pickled {
        /// The file.
        path: PathBuf,
    },
    /// The adapter is one of PEFT's that is no LoRA.
    #[error("the adapter in `{}` is no LoRA\n  found: `peft_type` {found}\n  expected: \"LORA\"\n  hint: merge it into its base with PEFT, and judge the merged model", folder.display())]
    OtherKind {
        /// The folder.
        folder: PathBuf,
        /// What it is, as JSON.
        found: Value,
    },
    /// The folder holds no adapter.
    #[error("there is no adapter in `{}`\n  found: {found}\n  expected: `adapters.safetensors` (mlx-lm), `adapter_model.safetensors` (PEFT) or `adapters.npz` (mlx-examples)\n  hint: a folder of whole weights is no adapter: `diagnose --trained DIR` judges it, and `--model DIR` loads it", folder.display())]
    NoAdapter {
        /// The folder.
        folder: PathBuf,
        /// What stands there instead.
        found: String,
    },
    /// The model of whole weights could not be loaded.
    #[error(transparent)]
    WholeModel(#[from] LoadError),
    /// MLX failed.
    #[error("the adapter's tensors could not be read: {}", .0.what())]
    Mlx(#[from] mlx_rs::error::Exception),
    /// Training went wrong.
    #[error("the adapter in `{}` holds numbers that are not finite\n  found: {found}\n  expected: finite numbers in every tensor\n  hint: {NOT_FINITE_HINT}", folder.display())]
    NotFinite {
        /// The folder.
        folder: PathBuf,
        /// The tensors.
        found: Listing,
    },
    /// The model carries no adapter.
    #[error("there is no adapter to save\n  found: no layer with adapter tensors")]
    NothingToSave,
}

/// Saves the adapters of `model` in `folder` as mlx-lm does.
///
/// `adapters.safetensors` holds `<path>.lora_a` and `<path>.lora_b` in the shapes of [`adapter_shapes`], with DoRA also
/// `<path>.m` `[outputs]`;
/// `adapter_config.json` holds what mlx-lm reads back, with the adapted layers spelt out. Both are written under a
/// temporary name and renamed, the tensors first.
pub fn save_adapter(
    model: &CausalModel,
    settings: &LoraSettings,
    model_name: &str,
    folder: &Path,
) -> Result<usize, AdapterFileError> {
    let modules = attached_modules(model);
    if modules.is_empty() {
        return Err(AdapterFileError::NothingToSave);
    }
    let mut tensors = BTreeMap::new();
    for (path, layer) in model.adaptable() {
        let [lora_a, lora_b] = layer.matrices();
        if let (Some(lora_a), Some(lora_b)) = (&lora_a.value, &lora_b.value) {
            tensors.insert(format!("{path}.lora_a"), lora_a.clone());
            tensors.insert(format!("{path}.lora_b"), lora_b.clone());
            if let Some(magnitudes) = layer.magnitudes() {
                tensors.insert(format!("{path}.m"), magnitudes.clone());
            }
        }
    }
    std::fs::create_dir_all(folder).map_err(|source| AdapterFileError::Io {
        path: folder.to_owned(),
        source,
    })?;
    replace_file(&folder.join(WEIGHTS), |temporary| {
        save_safetensors(&tensors, None, temporary)
    })?;
    let path = folder.join(CONFIGURATION);
    let text = format!("{:#}\n", configuration(model, settings, &modules, model_name));
    write_file(&path, text.as_bytes()).map_err(|source| AdapterFileError::Io { path, source })?;
    Ok(tensors.len())
}

fn configuration(model: &CausalModel, settings: &LoraSettings, modules: &[String], model_name: &str) -> Value {
    let prefix = model.block_prefix();
    let mut keys: Vec<&str> = modules
        .iter()
        .map(
            |path| match path.strip_prefix(&prefix).and_then(|rest| rest.split_once('.')) {
                Some((_, relative)) => relative,
                None => path,
            },
        )
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let has_magnitudes = model.adaptable().iter().any(|(_, layer)| layer.magnitudes().is_some());
    json!({
        "fine_tune_type": if has_magnitudes { "dora" } else { "lora" },
        "lora_parameters": {
            "dropout": settings.dropout,
            "keys": keys,
            "rank": settings.rank,
            "scale": settings.scale,
        },
        "model": model_name,
        "num_layers": settings.layers.map_or(-1, |layers| layers as i64),
    })
}

/// Loads an mlx-lm LoRA or DoRA folder onto `model`, whose own adapters it replaces and whose base it freezes.
///
/// Strict: every adapter tensor that the settings call for must be in the file, with the right shape, and no other.
pub fn load_adapter(model: &mut CausalModel, folder: &Path) -> Result<LoraSettings, AdapterFileError> {
    let (settings, has_magnitudes) = read_configuration(folder)?;
    let path = folder.join(WEIGHTS);
    let mut tensors = stored_tensors(folder)?;
    let not_finite = not_finite(&tensors)?;
    if !not_finite.is_empty() {
        return Err(AdapterFileError::NotFinite {
            folder: folder.to_owned(),
            found: not_finite,
        });
    }
    let targets = super::target_modules(model, &settings).map_err(|error| AdapterFileError::Mismatch {
        path: path.clone(),
        problems: vec![error.to_string()],
    })?;
    let mut problems = Vec::new();
    model.freeze_parameters(true);
    for (module, layer) in model.adaptable_mut() {
        layer.remove_adapter();
        if !targets.contains(&module) {
            continue;
        }
        let place = layer.place();
        let [shape_a, shape_b] = adapter_shapes(&place, settings.rank as i32);
        let mut take = |name: String, shape: Vec<i32>| -> Option<Array> {
            match tensors.remove(&name) {
                None => problems.push(format!("missing: {name} {shape:?}")),
                Some(tensor) if tensor.shape() != shape => {
                    problems.push(format!(
                        "shape of {name}: found {:?}, expected {shape:?}",
                        tensor.shape()
                    ));
                }
                Some(tensor) => return Some(tensor),
            }
            None
        };
        // Only linear layers have magnitudes; of another layer they stay unexpected.
        if let Some(linear) = layer.as_linear_mut().filter(|_| has_magnitudes) {
            linear.m = Param::new(take(format!("{module}.m"), vec![place[0]]));
        }
        let [lora_a, lora_b] = layer.matrices_mut();
        *lora_a = Param::new(take(format!("{module}.lora_a"), shape_a));
        *lora_b = Param::new(take(format!("{module}.lora_b"), shape_b));
        *layer.low_rank_mut() = Some(LowRankSettings {
            scale: settings.scale,
            dropout: settings.dropout,
            training: false,
        });
    }
    problems.extend(tensors.keys().map(|name| format!("unexpected: {name}")));
    if problems.is_empty() {
        Ok(settings)
    } else {
        Err(AdapterFileError::Mismatch { path, problems })
    }
}

/// The tensors that hold a number that is not finite.
pub(super) fn not_finite(tensors: &BTreeMap<String, Array>) -> Result<Listing, Exception> {
    let mut names = Vec::new();
    for (name, tensor) in tensors {
        if !is_finite(tensor)? {
            names.push(name.as_str());
        }
    }
    Ok(names.into_iter().collect())
}

/// The tensors in an mlx-lm adapter folder, by name.
pub fn stored_tensors(folder: &Path) -> Result<BTreeMap<String, Array>, WeightFileError> {
    load_safetensors(&folder.join(WEIGHTS))
}

/// The configuration in an adapter folder, as it stands there.
pub fn stored_configuration(folder: &Path) -> Result<Value, AdapterFileError> {
    let path = folder.join(CONFIGURATION);
    let text = std::fs::read_to_string(&path).map_err(|source| AdapterFileError::Io {
        path: path.clone(),
        source,
    })?;
    let unusable = |found: String| AdapterFileError::Configuration {
        path: path.clone(),
        found,
        expected: "a JSON object as mlx-lm and PEFT write it".to_owned(),
    };
    let value: Value = serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    if !value.is_object() {
        return Err(unusable(match value {
            Value::Array(_) => "a list".to_owned(),
            other => other.to_string(),
        }));
    }
    Ok(value)
}

/// The settings in an mlx-lm folder, and whether DoRA's magnitudes belong to it.
fn read_configuration(folder: &Path) -> Result<(LoraSettings, bool), AdapterFileError> {
    let value = stored_configuration(folder)?;
    let unusable = |found: String, expected: &str| AdapterFileError::Configuration {
        path: folder.join(CONFIGURATION),
        found,
        expected: expected.to_owned(),
    };
    let has_magnitudes = match value.get("fine_tune_type").and_then(Value::as_str) {
        None | Some("lora") => false,
        Some("dora") => true,
        Some(other) => {
            return Err(unusable(format!("fine_tune_type `{other}`"), "`lora` or `dora`"));
        }
    };
    let parameters = value.get("lora_parameters").unwrap_or(&Value::Null);
    let number = |name: &str| {
        parameters.get(name).and_then(Value::as_f64).ok_or_else(|| {
            unusable(
                format!("no number `{name}` in `lora_parameters`"),
                "rank, scale and dropout",
            )
        })
    };
    let rank = number("rank")?;
    let layers = value.get("num_layers").and_then(Value::as_i64);
    let keys = match parameters.get("keys") {
        None | Some(Value::Null) => Vec::new(),
        Some(keys) => serde_json::from_value(keys.clone())
            .map_err(|error| unusable(format!("`keys`: {error}"), "a list of paths"))?,
    };
    if rank < 1.0 || rank.fract() != 0.0 {
        return Err(unusable(format!("rank {rank}"), "a whole number of at least 1"));
    }
    let settings = LoraSettings {
        rank: rank as usize,
        scale: number("scale")? as f32,
        dropout: number("dropout")? as f32,
        layers: layers
            .and_then(|layers| usize::try_from(layers).ok())
            .filter(|layers| *layers > 0),
        keys,
    };
    Ok((settings, has_magnitudes))
}
