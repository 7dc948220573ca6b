//! Converts models of every format that is read into folders of mlx-lm.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_rs::Array;
use serde_json::{Map, Value};
use thiserror::Error;

use super::configuration::read_object;
use super::pack_folder::{pack, stated};
use super::sample_pass::try_folder;
use super::write_folder::refuse_existing;
use super::{
    CheckpointError, CheckpointQuantization, ConfigurationError, LoadError, MixedBits, ModelConfiguration, ModelFiles,
    PackFolderError, PackedMatrix, Packing, Precision, SamplePass, StoredTensor, WeightSet, WeightType,
    WriteFolderError, write_model_folder,
};
use crate::evidence::Listing;

/// How weights are to be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackingChoice {
    /// Of every module, or of those that the recipe does not single out.
    pub packing: Packing,
    /// A recipe that gives some modules more bits; the bits of [`Self::packing`] are its own then, and its mode `affine`.
    pub recipe: Option<MixedBits>,
}

/// What a conversion changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConversionSettings {
    /// Element type of plain weights, scales and biases [default: what `config.json` declares, else that of most
    /// weights in the files, f32 for a GGUF file].
    pub dtype: Option<WeightType>,
    /// How to pack plain weights; `None` leaves every weight as it is.
    pub packing: Option<PackingChoice>,
    /// Whether packed weights become plain.
    pub dequantize: bool,
}

/// What was converted.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversion {
    /// Tensors in the new folder.
    pub tensors: usize,
    /// Modules that are packed.
    pub packed: usize,
    /// Modules that stay plain because their rows are not whole groups, with their columns.
    pub left_plain: Vec<String>,
    /// Element type of what is plain.
    pub dtype: WeightType,
    /// Bits of the new file for each weight of the model.
    pub bits_per_weight: f64,
    /// What the written model computed.
    pub sample: SamplePass,
}

/// Why a model could not be converted.
#[derive(Debug, Error)]
pub enum ConvertModelError {
    /// The configuration is absent, broken or impossible.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// The weights are absent, broken or do not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The weights cannot be packed so.
    #[error(transparent)]
    Pack(#[from] PackFolderError),
    /// The folder could not be written, or does not compute.
    #[error(transparent)]
    Write(#[from] WriteFolderError),
    /// No module has rows of whole groups.
    #[error(
        "no weight can be packed in groups of {group_size}\n  found: {modules}\n  hint: choose a group size that divides their columns"
    )]
    NothingPacked {
        /// Weights that share one scale.
        group_size: i32,
        /// The modules, with their columns.
        modules: Listing,
    },
}

/// Writes the model `files` to the new folder `target` in the layout of mlx-lm, and tries it with a forward pass.
///
/// Tensors keep their names. Packed weights stay packed as they are, those of a GGUF file where MLX's affine mode holds
/// them exactly, unless `settings` say otherwise; embeddings, linear layers, experts and the output layer can be packed,
/// and other tensors stay plain. `config.json` keeps its fields and says the element type and the packing.
///
/// # Errors
/// See [`ConvertModelError`]; `target` is not there unless it is whole and computes.
pub fn convert_model(
    files: &ModelFiles,
    target: &Path,
    settings: &ConversionSettings,
) -> Result<Conversion, ConvertModelError> {
    refuse_existing(target)?;
    if let Some(choice) = settings.packing {
        stated(choice.packing)?;
    }
    let configuration = files.configuration()?;
    let dtype = match settings.dtype.or(configuration.dtype) {
        Some(dtype) => dtype,
        None => stored_type(files)?,
    };
    let precision = Precision {
        dtype: dtype.dtype(),
        keep_packed: !settings.dequantize,
    };
    let checkpoint = files.checkpoint(&configuration, precision)?;
    let mut packer = Packer {
        choice: settings.packing,
        layers: configuration.num_hidden_layers,
        source: files.path(),
        tensors: BTreeMap::new(),
        packings: BTreeMap::new(),
        left_plain: Vec::new(),
    };
    let mut stored = checkpoint.tensors;
    // One tensor at a time: its plain form can be freed before the next is packed.
    while let Some((name, tensor)) = stored.pop_first() {
        packer.add(name, tensor)?;
    }
    let Packer {
        tensors,
        packings,
        left_plain,
        ..
    } = packer;
    if let (Some(choice), true) = (settings.packing, packings.is_empty()) {
        return Err(ConvertModelError::NothingPacked {
            group_size: choice.packing.group_size,
            modules: left_plain.into_iter().collect(),
        });
    }
    let settings = ConversionSettings {
        dtype: Some(dtype),
        ..*settings
    };
    let fields = folder_settings(files, &configuration, &packings, &settings)?;
    let bytes: usize = tensors.values().map(Array::nbytes).sum();
    let sample = write_model_folder(files, fields, &tensors, target, |folder| {
        try_folder(folder, dtype.dtype())
    })?;
    Ok(Conversion {
        tensors: tensors.len(),
        packed: packings.len(),
        left_plain,
        dtype,
        bits_per_weight: 8.0 * bytes as f64 / configuration.expected_values() as f64,
        sample,
    })
}

/// The element type of most weights in the files, as their headers say; f32 holds all that GGUF's blocks unpack to.
fn stored_type(files: &ModelFiles) -> Result<WeightType, ConvertModelError> {
    let ModelFiles::Folder(folder) = files else {
        return Ok(WeightType::Float32);
    };
    let weights = WeightSet::of_folder(folder)?;
    // In the order of the types below.
    let mut values = [0_usize; 3];
    for file in &weights.files {
        for stored in weights
            .stored_shapes(file)
            .map_err(CheckpointError::from)?
            .into_values()
        {
            let place = ["BF16", "F16", "F32"].iter().position(|name| stored.dtype == *name);
            if let Some(place) = place {
                values[place] += stored.shape.iter().product::<usize>();
            }
        }
    }
    let types = [WeightType::Bfloat16, WeightType::Float16, WeightType::Float32];
    // Of equal numbers the last counts, so that f32 is also the answer where there are none.
    let most = types.into_iter().zip(values).max_by_key(|(_, values)| *values);
    Ok(most.map_or(WeightType::Float32, |(dtype, _)| dtype))
}

/// Collects the tensors of the new folder.
struct Packer<'run> {
    choice: Option<PackingChoice>,
    layers: usize,
    source: &'run Path,
    tensors: BTreeMap<String, Array>,
    packings: BTreeMap<String, Packing>,
    left_plain: Vec<String>,
}

impl Packer<'_> {
    fn add(&mut self, name: String, tensor: StoredTensor) -> Result<(), ConvertModelError> {
        let array = match tensor {
            StoredTensor::Packed(_) if self.choice.is_some() => {
                return Err(PackFolderError::AlreadyPacked {
                    source_folder: self.source.to_owned(),
                    tensor: name,
                }
                .into());
            }
            StoredTensor::Packed(matrix) => {
                self.add_packed(&name, matrix);
                return Ok(());
            }
            StoredTensor::Plain(array) => array,
        };
        let module = name.strip_suffix(".weight").filter(|_| matches!(array.ndim(), 2 | 3));
        let (Some(module), Some(choice)) = (module, self.choice) else {
            self.tensors.insert(name, array);
            return Ok(());
        };
        let group_size = choice.packing.group_size;
        if array.dim(-1) % group_size != 0 {
            self.left_plain.push(format!("{module} ({} columns)", array.dim(-1)));
            self.tensors.insert(name, array);
            return Ok(());
        }
        let packing = match choice.recipe {
            Some(recipe) => recipe.packing(module, self.layers, group_size),
            None => choice.packing,
        };
        let packed = pack(&array, packing).map_err(|source| PackFolderError::Mlx {
            tensor: name.clone(),
            source,
        })?;
        self.add_packed(&name, packed);
        Ok(())
    }

    fn add_packed(&mut self, name: &str, matrix: PackedMatrix) {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        self.packings.insert(module.to_owned(), matrix.form.packing);
        let parts = matrix.into_parts();
        self.tensors
            .extend(parts.map(|(part, array)| (format!("{module}.{part}"), array)));
    }
}

/// How the modules are packed, as a configuration says it: `default` or the commonest packing, and the exceptions.
fn quantization(
    packings: &BTreeMap<String, Packing>,
    default: Option<Packing>,
) -> Result<Option<CheckpointQuantization>, PackFolderError> {
    let mut counts: BTreeMap<Packing, usize> = BTreeMap::new();
    for packing in packings.values() {
        *counts.entry(*packing).or_insert(0) += 1;
    }
    let commonest = counts
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .map(|(packing, _)| packing);
    let Some(default) = default.or(commonest).filter(|_| !packings.is_empty()) else {
        return Ok(None);
    };
    let exceptions = packings.iter().filter(|(_, packing)| **packing != default);
    Ok(Some(CheckpointQuantization {
        default: stated(default)?,
        overrides: exceptions
            .map(|(module, packing)| Ok((module.clone(), Some(stated(*packing)?))))
            .collect::<Result<_, PackFolderError>>()?,
    }))
}

/// The object of the `config.json` of a folder made of `files`: that of the source where it has one, with the element
/// type of `settings` and with `packings` by module.
///
/// # Errors
/// The source's settings cannot be read again, or cannot be stated.
pub fn folder_settings(
    files: &ModelFiles,
    configuration: &ModelConfiguration,
    packings: &BTreeMap<String, Packing>,
    settings: &ConversionSettings,
) -> Result<Map<String, Value>, ConvertModelError> {
    let packings = if settings.dequantize {
        &BTreeMap::new()
    } else {
        packings
    };
    let configuration = ModelConfiguration {
        dtype: settings.dtype.or(configuration.dtype),
        quantization: quantization(packings, settings.packing.map(|choice| choice.packing))?,
        ..configuration.clone()
    };
    let written = match configuration.to_json() {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    let ModelFiles::Folder(folder) = files else {
        return Ok(written);
    };
    let mut fields = read_object(&folder.join("config.json"))?;
    let is_newer = fields.contains_key("dtype") && !fields.contains_key("torch_dtype");
    let key = if is_newer { "dtype" } else { "torch_dtype" };
    if let Some(dtype) = configuration.dtype {
        fields.insert(key.to_owned(), dtype.name().into());
    }
    for key in ["quantization", "quantization_config"] {
        match written.get(key) {
            Some(value) => fields.insert(key.to_owned(), value.clone()),
            None => fields.remove(key),
        };
    }
    Ok(fields)
}
