use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx_rs::{Array, Dtype};
use thiserror::Error;

use super::configuration::read_object;
use super::write_folder::refuse_existing;
use super::{
    Checkpoint, CheckpointError, ConfigurationError, ModelConfiguration, ModelFiles, ModuleQuantization, PackedMatrix,
    Packing, Precision, StoredTensor, WeightType, WriteFolderError, write_model_folder,
};
use crate::evidence::Listing;

/// Why a model folder could not be packed.
#[derive(Debug, Error)]
pub enum PackFolderError {
    /// MLX has no such packing.
    #[error("weights cannot be packed in mode `{}` with group size {} and {} bits\n  expected: {}", packing.mode.name(), packing.group_size, packing.bits, packing.mode.allowed())]
    UnsupportedPacking {
        /// The packing asked for.
        packing: Packing,
    },
    /// Rows of some matrices are not whole groups.
    #[error("the rows of {} matrices are not whole groups of {group_size}\n  found: {modules}\n  hint: choose a group size that divides their columns", modules.total)]
    BrokenGroups {
        /// Weights that share one scale.
        group_size: i32,
        /// Paths of the modules, with their columns.
        modules: Listing,
    },
    /// The weights are packed already.
    #[error("`{}` is packed already\n  found: packed `{tensor}`\n  expected: plain weights\n  hint: pack the model that it was made from; packing twice loses precision twice", source_folder.display())]
    AlreadyPacked {
        /// The folder.
        source_folder: PathBuf,
        /// The first packed tensor.
        tensor: String,
    },
    /// The configuration is absent, broken or impossible.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// The weights are absent, broken or do not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The packed copy could not be written.
    #[error(transparent)]
    Write(#[from] WriteFolderError),
    /// MLX failed.
    #[error("failed to pack `{tensor}`: {source}")]
    Mlx {
        /// The tensor.
        tensor: String,
        /// What MLX said.
        source: mlx_rs::error::Exception,
    },
}

/// Writes a packed copy of the model folder `source` to the new folder `target`, in the layout of `mlx_lm.convert -q`.
///
/// Embeddings, linear layers, experts and output layer become `weight` `[rows, columns * bits / 32]` in u32, `scales`
/// `[rows, columns / group_size]` and, in mode `affine`, `biases` like them; other tensors stay plain. The weights are first
/// brought to the element type that `config.json` declares (f32 when it declares none), as mlx-lm does. `config.json`
/// keeps its fields and gains `quantization`; other files are copied, but not weights in other formats, hidden files or
/// sub-folders.
///
/// # Errors
/// See [`PackFolderError`]; `target` is not there unless the copy is whole.
pub fn pack_folder(source: &Path, target: &Path, packing: Packing) -> Result<(), PackFolderError> {
    refuse_existing(target)?;
    let quantization = stated(packing)?;
    let configuration_path = source.join("config.json");
    let mut fields = read_object(&configuration_path)?;
    let configuration = ModelConfiguration::from_json(&configuration_path, &fields)?;
    check_groups(&configuration, packing)?;
    let tensors = packed_tensors(source, &configuration, packing)?;
    for key in ["quantization", "quantization_config"] {
        fields.insert(key.to_owned(), quantization.to_json().into());
    }

    let files = ModelFiles::Folder(source.to_owned());
    Ok(write_model_folder(&files, fields, &tensors, target, |_| Ok(()))?)
}

/// The packing as a configuration states it.
///
/// # Errors
/// MLX has no such packing.
pub(super) fn stated(packing: Packing) -> Result<ModuleQuantization, PackFolderError> {
    let mode = packing.mode;
    match (u32::try_from(packing.group_size), u32::try_from(packing.bits)) {
        (Ok(group_size), Ok(bits)) if mode.allows(group_size, bits) => {
            Ok(ModuleQuantization { group_size, bits, mode })
        }
        _ => Err(PackFolderError::UnsupportedPacking { packing }),
    }
}

fn check_groups(configuration: &ModelConfiguration, packing: Packing) -> Result<(), PackFolderError> {
    let modules: Listing = configuration
        .expected_tensors()
        .into_iter()
        .filter_map(|(name, shape)| match shape[..] {
            [_, columns] | [_, _, columns] if !columns.is_multiple_of(packing.group_size as usize) => {
                Some(format!("{} ({columns} columns)", name.trim_end_matches(".weight")))
            }
            _ => None,
        })
        .collect();
    if modules.is_empty() {
        Ok(())
    } else {
        Err(PackFolderError::BrokenGroups {
            group_size: packing.group_size,
            modules,
        })
    }
}

fn packed_tensors(
    source: &Path,
    configuration: &ModelConfiguration,
    packing: Packing,
) -> Result<BTreeMap<String, Array>, PackFolderError> {
    let precision = Precision {
        dtype: configuration.dtype.map_or(Dtype::Float32, WeightType::dtype),
        keep_packed: true,
    };
    let mut checkpoint = Checkpoint::from_folder(source, configuration, precision)?;
    let mut tensors = BTreeMap::new();
    // One tensor at a time: its plain form can be freed before the next is packed.
    while let Some((name, stored)) = checkpoint.tensors.pop_first() {
        let StoredTensor::Plain(array) = stored else {
            return Err(PackFolderError::AlreadyPacked {
                source_folder: source.to_owned(),
                tensor: name,
            });
        };
        let module = name.strip_suffix(".weight").filter(|_| array.ndim() > 1);
        let Some(module) = module else {
            tensors.insert(name, array);
            continue;
        };
        let packed = pack(&array, packing).map_err(|source| PackFolderError::Mlx {
            tensor: name.clone(),
            source,
        })?;
        let parts = packed.into_parts();
        tensors.extend(parts.map(|(part, array)| (format!("{module}.{part}"), array)));
    }
    Ok(tensors)
}

/// [`Packing::pack`], computed.
pub(super) fn pack(array: &Array, packing: Packing) -> mlx_rs::error::Result<PackedMatrix> {
    let packed = packing.pack(array)?;
    mlx_rs::transforms::eval(packed.arrays())?;
    Ok(packed)
}
