//! A base that this program cannot compute with, and an adapter on it, as far as their files tell.

use std::collections::BTreeSet;
use std::time::Instant;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};
use thiserror::Error;

use super::update_size::module_update;
use crate::adapter::{Application, Places, StoredAdapter};
use crate::evidence::{AdapterEvidence, Listing, ModuleUpdate, ParameterEvidence};
use crate::model::{ForeignModel, Linear, PackedForm, PackedMatrix, Packing, WeightFileError};
use crate::readback::{is_finite, largest_magnitude};

/// Why the files could not be read.
#[derive(Debug, Error)]
pub enum ForeignBaseError {
    /// A weight file is broken.
    #[error(transparent)]
    File(#[from] WeightFileError),
    /// MLX failed.
    #[error("the weights could not be examined: {0}")]
    Mlx(#[from] Exception),
}

/// What one pass over the weights of a base showed.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseReading {
    /// Tensors that hold a NaN or an infinity.
    pub non_finite: Vec<String>,
    /// How much the adapter changes each of its layers, sorted by path; layers of experts are left out.
    pub updates: Vec<ModuleUpdate>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Reads every tensor of `base` once, and compares the layers that `adapter` was applied to with its change.
pub fn read(
    base: &ForeignModel,
    adapter: Option<(&StoredAdapter, &Application)>,
) -> Result<BaseReading, ForeignBaseError> {
    let started = Instant::now();
    let attached = adapter.map_or_else(BTreeSet::new, |(_, application)| attached_modules(application));
    let mut non_finite = Vec::new();
    let mut updates = Vec::new();
    base.visit_tensors(|tensors| -> Result<(), ForeignBaseError> {
        let names: Vec<String> = tensors.keys().cloned().collect();
        for name in names {
            // Scales and biases come before their weight by name, and are kept for it.
            let is_packing = name.ends_with(".scales") || name.ends_with(".biases");
            let tensor = if is_packing {
                tensors.get(&name).cloned()
            } else {
                tensors.remove(&name)
            };
            let Some(tensor) = tensor else {
                continue;
            };
            if !is_finite(&tensor)? {
                non_finite.push(name.clone());
            }
            let Some(module) = name.strip_suffix(".weight") else {
                continue;
            };
            let parts = [".scales", ".biases"].map(|part| tensors.remove(&format!("{module}{part}")));
            if let Some((adapter, _)) = adapter.filter(|_| attached.contains(module))
                && let Some((mut linear, packing)) = layer(base, module, tensor, parts)
            {
                adapter.attach(module, &mut linear)?;
                updates.extend(module_update(module.to_owned(), &linear, packing)?);
            }
        }
        Ok(())
    })?;
    updates.sort_by(|left, right| left.module.cmp(&right.module));
    non_finite.sort_unstable();
    Ok(BaseReading {
        non_finite,
        updates,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A layer of its tensors; `None` when it is no plain matrix and none that MLX packed as the configuration says.
fn layer(
    base: &ForeignModel,
    module: &str,
    weight: Array,
    parts: [Option<Array>; 2],
) -> Option<(Linear, Option<Packing>)> {
    if weight.ndim() != 2 {
        return None;
    }
    match parts {
        [Some(scales), biases] => {
            let packing = base.quantization.as_ref()?.for_module(module)?.packing();
            let fits = packing.fits(&weight, &scales, biases.as_ref());
            let matrix = PackedMatrix {
                weight,
                scales,
                biases,
                form: PackedForm {
                    packing,
                    dtype: Dtype::Float32,
                },
            };
            fits.then(|| (Linear::packed(matrix, None), Some(packing)))
        }
        [None, None] => Some((Linear::new(weight, None), None)),
        _ => None,
    }
}

/// The low-rank adapter as the parameters of the adapted base would show it; nothing of the base changed.
///
/// # Errors
/// MLX failed.
pub fn parameters(
    base: &ForeignModel,
    reading: &BaseReading,
    adapter: &StoredAdapter,
    application: &Application,
    places: &Places,
) -> Result<ParameterEvidence, Exception> {
    let started = Instant::now();
    let weights = base.weights();
    let stored = |name: &String| adapter.tensors.get(name);
    let applied: Vec<(&String, &Array)> = application
        .applied
        .iter()
        .filter_map(|name| Some((name, stored(name)?)))
        .collect();
    let mut non_finite: Vec<String> = Vec::new();
    let (mut nonzero_a, mut nonzero_b) = (0, 0);
    for &(name, tensor) in &applied {
        if !is_finite(tensor)? {
            non_finite.push(name.clone());
        }
        let is_nonzero = usize::from(largest_magnitude(tensor)? != 0.0);
        if name.ends_with(".lora_a") {
            nonzero_a += is_nonzero;
        } else if name.ends_with(".lora_b") {
            nonzero_b += is_nonzero;
        }
    }
    let attached = attached_modules(application);
    let adapter_values: u64 = applied.iter().map(|(_, tensor)| tensor.size() as u64).sum();
    let blocks: BTreeSet<usize> = attached
        .iter()
        .filter_map(|module| places.within_block(module).map(|(block, _)| block))
        .collect();
    let scales: BTreeSet<u32> = attached.iter().map(|module| adapter.scale(module).to_bits()).collect();
    let mut scales: Vec<f64> = scales.into_iter().map(|bits| f64::from(f32::from_bits(bits))).collect();
    scales.sort_by(f64::total_cmp);
    Ok(ParameterEvidence {
        tensors: weights.len() + applied.len(),
        values: base.values() + adapter_values,
        trainable_tensors: applied.len(),
        trainable_values: adapter_values,
        changed: 0,
        unchanged: weights.len(),
        changed_trainable: 0,
        unchanged_trainable: nothing(),
        changed_base: nothing(),
        appeared_or_vanished: application.applied.iter().cloned().collect(),
        non_finite: reading.non_finite.iter().cloned().chain(non_finite).collect(),
        groups: Vec::new(),
        changes: Vec::new(),
        adapter: Some(AdapterEvidence {
            expected: application.expected.iter().cloned().collect(),
            nonzero_a,
            nonzero_b,
            tensors: applied.iter().map(|(name, _)| (*name).clone()).collect(),
            ranks: adapter.ranks().into_iter().map(|rank| rank as usize).collect(),
            scales,
            dropouts: (!attached.is_empty())
                .then(|| f64::from(adapter.settings.dropout))
                .into_iter()
                .collect(),
            blocks: places.blocks,
            linear_layers: places
                .linears
                .iter()
                .filter(|(path, _)| places.within_block(path).is_some())
                .count(),
            adapted_blocks: blocks.len(),
            updates: reading.updates.clone(),
            attached: attached.into_iter().map(str::to_owned).collect(),
            identity_difference: None,
        }),
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn attached_modules(application: &Application) -> BTreeSet<&str> {
    application
        .applied
        .iter()
        .filter_map(|name| name.strip_suffix(".lora_b"))
        .collect()
}

fn nothing() -> Listing {
    std::iter::empty::<String>().collect()
}
