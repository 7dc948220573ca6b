use mlx_rs::module::{ModuleParameters, Param};
use mlx_rs::ops::zeros;
use mlx_rs::{Array, random};
use thiserror::Error;

use super::{LoraSettings, Places};
use crate::model::{Adaptable, CausalModel, LowRankSettings, adapter_shapes};
use crate::suggestion::closest;

/// Why adapters could not be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// A key names no linear layer of the model.
    #[error(
        "no linear layer matches `{key}`\n  found: layers named {found}\n  expected: a path within a block such as \
         `self_attn.q_proj`, or a path of the whole model\n  hint: {hint}"
    )]
    UnknownKey {
        /// The key as given.
        key: String,
        /// The names a key can have.
        found: String,
        /// What to do.
        hint: String,
    },
    /// More blocks are asked for than the model has.
    #[error(
        "cannot adapt the last {requested} blocks\n  found: a model of {available} blocks\n  hint: adapt {available} blocks at most, or leave the number out for all"
    )]
    TooManyLayers {
        /// Blocks asked for.
        requested: usize,
        /// Blocks in the model.
        available: usize,
    },
    /// A rank beyond what any adapted layer can use.
    #[error(
        "the adapters' rank is too large for this model\n  found: {rank}\n  expected: at most {largest}, the widest side of the adapted layers\n  hint: ranks of 4 to 64 are usual"
    )]
    RankTooLarge {
        /// The rank asked for.
        rank: usize,
        /// The largest side of an adapted layer.
        largest: usize,
    },
    /// A rank of zero.
    #[error("the adapters' rank is 0\n  expected: at least 1\n  hint: 8 is usual")]
    ZeroRank,
    /// MLX failed.
    #[error("failed to make the adapters: {}", .0.what())]
    Mlx(#[from] mlx_rs::error::Exception),
}

/// Paths of the linear layers that `settings` select, in the model's order.
pub fn target_modules(model: &CausalModel, settings: &LoraSettings) -> Result<Vec<String>, AttachError> {
    target_places(&Places::of(model), settings)
}

/// As [`target_modules`], of a model of which only the places are known.
pub fn target_places(places: &Places, settings: &LoraSettings) -> Result<Vec<String>, AttachError> {
    let blocks = places.blocks;
    let adapted = settings.layers.unwrap_or(blocks);
    if adapted > blocks {
        return Err(AttachError::TooManyLayers {
            requested: adapted,
            available: blocks,
        });
    }
    let first_block = blocks - adapted;
    let paths: Vec<&String> = places.linears.iter().map(|(path, _)| path).collect();
    let in_scope: Vec<(&String, Option<&str>)> = paths
        .iter()
        .map(|&path| (path, places.within_block(path)))
        .filter(|(_, within)| within.is_none_or(|(block, _)| block >= first_block))
        .map(|(path, within)| (path, within.map(|(_, relative)| relative)))
        .collect();
    let mut unmatched: Vec<&String> = settings.keys.iter().collect();
    let mut targets = Vec::new();
    for (path, relative) in in_scope {
        let matching = |key: &&String| key.as_str() == path || Some(key.as_str()) == relative;
        let selected = if settings.keys.is_empty() {
            relative.is_some()
        } else {
            settings.keys.iter().any(|key| matching(&key))
        };
        if selected {
            targets.push(path.clone());
        }
        unmatched.retain(|key| !matching(key));
    }
    match unmatched.first() {
        None => Ok(targets),
        Some(key) => Err(unknown_key(key, places)),
    }
}

fn unknown_key(key: &str, places: &Places) -> AttachError {
    let mut names: Vec<&str> = places
        .linears
        .iter()
        .map(|(path, _)| {
            places
                .within_block(path)
                .map_or(path.as_str(), |(_, relative)| relative)
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    AttachError::UnknownKey {
        key: key.to_owned(),
        found: names.join(", "),
        hint: named_alike(key, &names).map_or_else(
            || "leave the keys out to adapt every linear layer".to_owned(),
            |name| format!("did you mean `{name}`?"),
        ),
    }
}

/// The name that ends in `key`, as `self_attn.q_proj` does in `q_proj`, or the one most like it.
fn named_alike<'names>(key: &str, names: &[&'names str]) -> Option<&'names str> {
    let ending = format!(".{key}");
    names
        .iter()
        .copied()
        .find(|name| name.ends_with(&ending))
        .or_else(|| closest(key, names.iter().copied()))
}

/// What comes before the block number, the number and the rest of a path such as `model.layers.3.self_attn.q_proj`;
/// `None` outside the blocks.
pub(super) fn path_within_block(path: &str) -> Option<(&str, usize, &str)> {
    let below = path.strip_prefix("model.")?;
    let (_, rest) = below.split_once('.')?;
    let (number, relative) = rest.split_once('.')?;
    Some((&path[..path.len() - rest.len()], number.parse().ok()?, relative))
}

/// Freezes `model` and adds an adapter to every layer that `settings` select.
///
/// `lora_a` `[inputs, rank]` is uniform within `1 / sqrt(inputs)`, `lora_b` `[rank, outputs]` is zero, both in f32 as
/// mlx-lm has them, so the fresh adapter leaves the model's answers as they were. Experts have one of each, see
/// [`adapter_shapes`]; the inputs of an embedding are its tokens.
///
/// Returns the paths of the adapted layers.
pub fn attach(model: &mut CausalModel, settings: &LoraSettings, seed: u64) -> Result<Vec<String>, AttachError> {
    let targets = target_modules(model, settings)?;
    check_rank(model, settings, &targets)?;
    model.freeze_parameters(true);
    let mut key = random::key(seed)?;
    for (path, layer) in model.adaptable_mut() {
        if targets.contains(&path) {
            let (next, this) = random::split(&key, 2)?;
            attach_one(layer, settings, &this)?;
            key = next;
        }
    }
    Ok(targets)
}

/// Has DoRA's magnitudes trained in every layer that carries an adapter; returns the number of layers.
///
/// At first they are those of the base, so that the model answers as it did.
pub fn attach_magnitudes(model: &mut CausalModel) -> Result<usize, AttachError> {
    let mut layers = 0;
    for (_, linear) in model.linears_mut() {
        if linear.low_rank.is_some() {
            // Those of an adapter that is gone on from stay.
            if linear.m.value.is_none() {
                linear.attach_magnitudes()?;
            }
            layers += 1;
        }
    }
    Ok(layers)
}

/// A rank that no layer can use would only exhaust memory.
pub fn check_rank(model: &CausalModel, settings: &LoraSettings, targets: &[String]) -> Result<(), AttachError> {
    if settings.rank == 0 {
        return Err(AttachError::ZeroRank);
    }
    let adapted = model.adaptable().into_iter().filter(|(path, _)| targets.contains(path));
    // The number of experts is no side of their matrices.
    let sides = adapted.flat_map(|(_, layer)| layer.place().into_iter().rev().take(2).map(|side| side as usize));
    match sides.max() {
        Some(largest) if settings.rank > largest => Err(AttachError::RankTooLarge {
            rank: settings.rank,
            largest,
        }),
        _ => Ok(()),
    }
}

/// Everything that keeps adapters with `settings` from `model`; empty where [`attach`] would succeed.
pub fn attach_faults(model: &CausalModel, settings: &LoraSettings) -> Vec<AttachError> {
    let mut settings = settings.clone();
    let mut faults = Vec::new();
    let targets = loop {
        match target_modules(model, &settings) {
            Ok(targets) => break targets,
            // What is wrong is left out, and what remains is looked at.
            Err(fault) => {
                match &fault {
                    AttachError::TooManyLayers { .. } => settings.layers = None,
                    AttachError::UnknownKey { key, .. } => settings.keys.retain(|given| given != key),
                    AttachError::RankTooLarge { .. } | AttachError::ZeroRank | AttachError::Mlx(_) => {
                        return vec![fault];
                    }
                }
                faults.push(fault);
            }
        }
    };
    faults.extend(check_rank(model, &settings, &targets).err());
    faults
}

fn attach_one(layer: &mut dyn Adaptable, settings: &LoraSettings, key: &Array) -> Result<(), AttachError> {
    let place = layer.place();
    let inputs = place.last().copied().unwrap_or(1);
    let bound = (inputs as f32).powf(-0.5);
    let [shape_a, shape_b] = adapter_shapes(&place, settings.rank as i32);
    let [lora_a, lora_b] = layer.matrices_mut();
    *lora_a = Param::new(Some(random::uniform::<_, f32>(-bound, bound, &shape_a, key)?));
    *lora_b = Param::new(Some(zeros::<f32>(&shape_b)?));
    *layer.low_rank_mut() = Some(LowRankSettings {
        scale: settings.scale,
        dropout: settings.dropout,
        training: false,
    });
    Ok(())
}

/// Paths of the layers that carry both adapter tensors, in the model's order.
pub fn attached_modules(model: &CausalModel) -> Vec<String> {
    let layers = model.adaptable().into_iter();
    layers
        .filter(|(_, layer)| layer.is_adapted())
        .map(|(path, _)| path)
        .collect()
}
