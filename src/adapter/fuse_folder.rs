//! Writes a model with its adapter fused into it, as `mlx_lm.fuse` does.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_rs::Array;
use mlx_rs::module::ModuleParameters;
use thiserror::Error;

use super::file::{NOT_FINITE_HINT, not_finite};
use super::{Application, StoredAdapter, fuse};
use crate::evidence::Listing;
use crate::model::{
    CausalModel, ConversionSettings, ConvertModelError, LoadError, ModelFiles, Precision, SamplePass, SamplePassError,
    WeightType, WriteFolderError, folder_settings, sample_pass, try_folder, write_model_folder,
};

/// Endings of what belongs to an adapter, and is gone once it is fused.
const ADAPTER_PARTS: [&str; 2] = [".lora_a", ".lora_b"];

/// Why an adapter could not be fused into a folder.
#[derive(Debug, Error)]
pub enum FuseFolderError {
    /// The base could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Base and adapter do not fit, all at once.
    #[error("the adapter does not fit the model\n  {}\n  hint: use the base model it was trained on", .0.join("\n  "))]
    Mismatch(Vec<String>),
    /// Training the adapter went wrong.
    #[error(
        "the adapter holds numbers that are not finite\n  found: {0}\n  expected: finite numbers in every tensor\n  hint: {NOT_FINITE_HINT}"
    )]
    NotFinite(Listing),
    /// The settings of the base cannot be written.
    #[error(transparent)]
    Settings(#[from] ConvertModelError),
    /// The model does not compute.
    #[error(transparent)]
    SamplePass(#[from] SamplePassError),
    /// The folder could not be written, or does not compute.
    #[error(transparent)]
    Write(#[from] WriteFolderError),
    /// MLX failed.
    #[error("the adapter could not be fused: {}", .0.what())]
    Mlx(#[from] mlx_rs::error::Exception),
}

/// What was fused.
#[derive(Debug, Clone, PartialEq)]
pub struct FusedFolder {
    /// Tensors in the new folder.
    pub tensors: usize,
    /// Layers that an adapter was fused into; 0 for an adapter of whole weights.
    pub fused: usize,
    /// Whether the new weights are packed.
    pub is_packed: bool,
    /// How far the sample pass moved by the adapter.
    pub adapter_effect: f32,
    /// How far the logits of the new folder are from those of the base with its adapter. Rounding, and in packed
    /// weights what lies below a quantisation step.
    pub fuse_error: f32,
}

/// Fuses `adapter` into the model `files` and writes the result to the new folder `target`, packed as the base is
/// unless `dequantize`.
///
/// # Errors
/// Something of the adapter does not fit, or the folder cannot be written; `target` is not there unless it is whole and
/// computes.
pub fn fuse_into_folder(
    files: &ModelFiles,
    adapter: &StoredAdapter,
    target: &Path,
    dequantize: bool,
) -> Result<FusedFolder, FuseFolderError> {
    let not_finite = not_finite(&adapter.tensors)?;
    if !not_finite.is_empty() {
        return Err(FuseFolderError::NotFinite(not_finite));
    }
    let configuration = files.configuration().map_err(LoadError::from)?;
    let dtype = configuration.dtype.unwrap_or(WeightType::Float32);
    let precision = Precision {
        dtype: dtype.dtype(),
        keep_packed: !dequantize,
    };
    let vocabulary = configuration.vocab_size;
    let settings = ConversionSettings {
        dtype: Some(dtype),
        packing: None,
        dequantize,
    };
    let mut loaded = files.load(configuration, precision)?;
    let before = sample_pass(&loaded.model, vocabulary, files.path())?;
    check(adapter, &adapter.apply(&mut loaded.model)?)?;
    let beside = sample_pass(&loaded.model, vocabulary, files.path())?;
    let fused = fuse(&mut loaded.model)?;
    let is_packed = loaded.model.is_packed();
    let tensors = tensors(&loaded.model);
    // Whole weights of an adapter take the place of packed ones.
    let mut packings = loaded.packings;
    packings.retain(|module, _| tensors.contains_key(&format!("{module}.scales")));
    let fields = folder_settings(files, &loaded.configuration, &packings, &settings)?;
    let written: SamplePass = write_model_folder(files, fields, &tensors, target, |folder| {
        try_folder(folder, dtype.dtype())
    })?;
    Ok(FusedFolder {
        tensors: tensors.len(),
        fused,
        is_packed,
        adapter_effect: beside.largest_difference(&before),
        fuse_error: written.largest_difference(&beside),
    })
}

/// Everything of the adapter must have found its place.
fn check(adapter: &StoredAdapter, application: &Application) -> Result<(), FuseFolderError> {
    let problems = adapter.faults(application);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(FuseFolderError::Mismatch(problems))
    }
}

/// The tensors of a model without adapters.
fn tensors(model: &CausalModel) -> BTreeMap<String, Array> {
    let parameters = model.parameters().flatten();
    parameters
        .into_iter()
        .map(|(name, array)| (name.to_string(), array.clone()))
        .filter(|(name, _)| !ADAPTER_PARTS.iter().any(|part| name.ends_with(part)))
        .collect()
}
