//! Writes a stored adapter in the format of another program.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlx_rs::Array;
use mlx_rs::ops::{concatenate, multiply, zeros_dtype};
use serde_json::{Value, json};
use thiserror::Error;

use super::attach::path_within_block;
use super::file::{CONFIGURATION, WEIGHTS};
use super::stored::{LORA_A, LORA_B, MAGNITUDE};
use super::{AdapterFileError, AdapterKind, StoredAdapter, peft};
use crate::atomic_write::{UnfinishedFolder, write_file};
use crate::model::save_safetensors;

/// What the paths of embeddings end in.
const TABLES: [&str; 3] = ["embed_tokens", "wte", "wpe"];
/// What the paths of GPT-2's blocks begin with in mlx-lm.
const GPT2_BLOCKS: &str = "model.h.";

/// A format that adapters are converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetFormat {
    /// mlx-lm's.
    MlxLm,
    /// PEFT's.
    Peft,
}

/// Why an adapter could not be converted.
#[derive(Debug, Error)]
pub enum ConvertError {
    /// It holds whole weights, which are no adapter to PEFT.
    #[error(
        "whole weights cannot be written as an adapter of PEFT\n  found: `fine_tune_type` is `full`\n  hint: fuse them into the base, and use the fused model"
    )]
    WholeWeights,
    /// Something in it would be lost.
    #[error("the adapter cannot be converted without loss\n  {}", .0.join("\n  "))]
    Loss(Vec<String>),
    /// The files could not be read or written.
    #[error(transparent)]
    File(#[from] AdapterFileError),
    /// MLX failed.
    #[error("the adapter could not be converted: {}", .0.what())]
    Mlx(#[from] mlx_rs::error::Exception),
}

/// Writes `adapter` to the new or empty `folder` and returns the number of tensors written.
///
/// mlx-lm has one rank and one scale for all modules: smaller ranks are filled up with zeros and other scales go into
/// `lora_b`, which changes nothing about what the adapter does. It adapts the same layers in each of the last blocks of the
/// model's `blocks`; layers that the adapter leaves out there are written as zeros.
///
/// # Errors
/// Something cannot be converted without loss, or the files cannot be written.
pub fn convert(
    adapter: &StoredAdapter,
    target: TargetFormat,
    blocks: Option<usize>,
    folder: &Path,
) -> Result<usize, ConvertError> {
    let incomplete = if adapter.kind == AdapterKind::Full {
        Vec::new()
    } else {
        incomplete(adapter)
    };
    let losses: Vec<String> = adapter
        .problems
        .iter()
        .chain(&adapter.set_aside)
        .cloned()
        .chain(incomplete)
        .chain(foreign_to_peft(adapter, target))
        .collect();
    if !losses.is_empty() {
        return Err(ConvertError::Loss(losses));
    }
    let (tensors, configuration) = match target {
        TargetFormat::MlxLm if adapter.kind == AdapterKind::Full => {
            let configuration = json!({
                "fine_tune_type": "full",
                "lora_parameters": null,
                "model": adapter.training.base,
                "num_layers": adapter.settings.layers.map_or(-1, |layers| layers as i64),
            });
            (adapter.tensors.clone(), configuration)
        }
        TargetFormat::MlxLm => mlx_lm(adapter, blocks)?,
        TargetFormat::Peft if adapter.kind == AdapterKind::Full => return Err(ConvertError::WholeWeights),
        TargetFormat::Peft => peft_format(adapter)?,
    };
    let weights = match target {
        TargetFormat::MlxLm => WEIGHTS,
        TargetFormat::Peft => peft::WEIGHTS,
    };
    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| AdapterFileError::Io { path, source }
    };
    let unfinished = UnfinishedFolder::for_target(folder).map_err(io_error(folder))?;
    save_safetensors(&tensors, None, &unfinished.path().join(weights)).map_err(AdapterFileError::from)?;
    let path = unfinished.path().join(CONFIGURATION);
    write_file(&path, format!("{configuration:#}\n").as_bytes()).map_err(io_error(&path))?;
    unfinished.finish().map_err(io_error(folder))?;
    Ok(tensors.len())
}

/// Modules that PEFT has under another name or in another form than a linear layer's, one clause each.
fn foreign_to_peft(adapter: &StoredAdapter, target: TargetFormat) -> Vec<String> {
    if target != TargetFormat::Peft || adapter.kind == AdapterKind::Full {
        return Vec::new();
    }
    let is_table = |module: &str| TABLES.iter().any(|name| module.ends_with(name));
    let modules = adapter.modules().into_iter();
    modules
        .filter_map(|module| {
            if is_table(module) {
                Some(format!(
                    "`{module}` is an embedding, whose adapters are not written for PEFT"
                ))
            } else if module.starts_with(GPT2_BLOCKS) {
                Some(format!(
                    "`{module}` has another name in transformers, and its matrix is transposed there"
                ))
            } else {
                None
            }
        })
        .collect()
}

/// What keeps the tensors from being whole adapters, one clause each.
fn incomplete(adapter: &StoredAdapter) -> Vec<String> {
    let modules = adapter.modules();
    if modules.is_empty() {
        return vec!["there is no `lora_a` and no `lora_b`".to_owned()];
    }
    let mut found: Vec<String> = adapter
        .tensors
        .keys()
        .filter(|name| {
            name.rsplit_once('.')
                .is_none_or(|(module, _)| !modules.contains(module))
        })
        .map(|name| format!("`{name}` is no tensor of an adapter"))
        .collect();
    for module in modules {
        let shape = |ending: &str| adapter.tensors.get(&format!("{module}.{ending}")).map(Array::shape);
        match (shape(LORA_A), shape(LORA_B)) {
            (Some([_, left]), Some([right, _])) if left == right && *left > 0 => {}
            (None, _) | (_, None) => found.push(format!("`{module}` has one of its two matrices")),
            (Some(left), Some(right)) => {
                found.push(format!(
                    "the matrices of `{module}` do not fit together: {left:?} and {right:?}"
                ));
            }
        }
    }
    found
}

type Converted = (BTreeMap<String, Array>, Value);

fn mlx_lm(adapter: &StoredAdapter, blocks: Option<usize>) -> Result<Converted, ConvertError> {
    let rank = adapter.ranks().last().copied().unwrap_or(adapter.settings.rank as i32);
    // With a common scale of zero no ratio could say another one.
    let scale = if adapter.settings.scale == 0.0 {
        1.0
    } else {
        adapter.settings.scale
    };
    let mut tensors = BTreeMap::new();
    for (name, tensor) in &adapter.tensors {
        let (module, ending) = name.rsplit_once('.').unwrap_or((name, ""));
        let tensor = match ending {
            LORA_A => filled_up(tensor, 1, rank)?,
            LORA_B => {
                let ratio = adapter.scale(module) / scale;
                let scaled = multiply(tensor, Array::from_f32(ratio).as_dtype(tensor.dtype())?)?;
                filled_up(&scaled, 0, rank)?
            }
            _ => tensor.clone(),
        };
        tensors.insert(name.clone(), tensor);
    }
    let layers = fill_blocks(&mut tensors, blocks)?;
    let keys: BTreeSet<&str> = tensors
        .keys()
        .filter_map(|name| name.rsplit_once('.'))
        .map(|(module, _)| path_within_block(module).map_or(module, |(_, _, relative)| relative))
        .collect();
    let configuration = json!({
        "fine_tune_type": if adapter.kind == AdapterKind::Dora { "dora" } else { "lora" },
        "lora_parameters": {
            "dropout": adapter.settings.dropout,
            "keys": keys,
            "rank": rank,
            "scale": scale,
        },
        "model": adapter.training.base,
        "num_layers": layers.map_or(-1, |layers| layers as i64),
    });
    Ok((tensors, configuration))
}

/// `matrix` with zeros behind it until its side `axis` is `rank` long.
fn filled_up(matrix: &Array, axis: i32, rank: i32) -> Result<Array, ConvertError> {
    let lacking = rank - matrix.dim(axis);
    if lacking == 0 {
        return Ok(matrix.clone());
    }
    let mut shape = matrix.shape().to_vec();
    shape[axis as usize] = lacking;
    Ok(concatenate(&[matrix, &zeros_dtype(&shape, matrix.dtype())?], axis)?)
}

/// Adds zeros for layers that some of the adapted blocks lack; returns how many blocks at the model's end are adapted then.
///
/// Without the number of `blocks` nothing is added, and all blocks are called for: mlx-lm takes what is there.
fn fill_blocks(tensors: &mut BTreeMap<String, Array>, blocks: Option<usize>) -> Result<Option<usize>, ConvertError> {
    let Some(blocks) = blocks else {
        return Ok(None);
    };
    let placed: Vec<(String, usize, String, Array)> = tensors
        .iter()
        .filter_map(|(name, tensor)| {
            let (prefix, block, relative) = path_within_block(name)?;
            Some((prefix.to_owned(), block, relative.to_owned(), tensor.clone()))
        })
        .collect();
    let Some(first) = placed.iter().map(|(_, block, ..)| *block).min() else {
        return Ok(None);
    };
    for (prefix, _, relative, like) in &placed {
        // A magnitude of zero would silence the layer.
        if relative.ends_with(&format!(".{MAGNITUDE}")) {
            continue;
        }
        for block in first..blocks {
            let name = format!("{prefix}{block}.{relative}");
            if let Entry::Vacant(place) = tensors.entry(name) {
                place.insert(zeros_dtype(like.shape(), like.dtype())?);
            }
        }
    }
    Ok(Some(blocks - first.min(blocks)))
}

fn peft_format(adapter: &StoredAdapter) -> Result<Converted, ConvertError> {
    let rank = adapter.settings.rank;
    let mut tensors = BTreeMap::new();
    let mut ranks = BTreeMap::new();
    for (name, tensor) in &adapter.tensors {
        let (module, ending) = name.rsplit_once('.').unwrap_or((name, ""));
        let (ending, tensor) = match ending {
            LORA_A => {
                ranks.insert(module, tensor.dim(-1) as usize);
                ("lora_A.weight", tensor.t().contiguous()?)
            }
            LORA_B => ("lora_B.weight", tensor.t().contiguous()?),
            _ => ("lora_magnitude_vector", tensor.clone()),
        };
        tensors.insert(format!("{}{module}.{ending}", peft::PREFIX), tensor);
    }
    let modules: Vec<&str> = ranks.keys().copied().collect();
    let alpha = |module: &str, rank: usize| f64::from(adapter.scale(module)) * rank as f64;
    let whole_alpha = f64::from(adapter.settings.scale) * rank as f64;
    // PEFT matches patterns at the end of a path; a whole path matches itself alone.
    let escaped = |module: &str| module.replace('.', r"\.");
    let rank_pattern: BTreeMap<String, usize> = ranks
        .iter()
        .filter(|(_, own)| **own != rank)
        .map(|(module, own)| (escaped(module), *own))
        .collect();
    let alpha_pattern: BTreeMap<String, f64> = ranks
        .iter()
        .map(|(module, own)| (*module, alpha(module, *own)))
        .filter(|(_, own)| (own - whole_alpha).abs() > f64::EPSILON * whole_alpha.abs())
        .map(|(module, own)| (escaped(module), own))
        .collect();
    let configuration = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.training.base,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": whole_alpha,
        "lora_dropout": adapter.settings.dropout,
        "bias": "none",
        "fan_in_fan_out": false,
        "use_dora": adapter.kind == AdapterKind::Dora,
        "use_rslora": false,
        "target_modules": modules,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
    });
    Ok((tensors, configuration))
}
