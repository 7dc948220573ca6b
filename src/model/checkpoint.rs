use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx_rs::{Array, Dtype};
use thiserror::Error;

use super::stored_names::{expected_beside, translate};
use super::{
    BlockError, GgufError, GgufHeader, ModelConfiguration, ModuleQuantization, PackedForm, PackedMatrix, Packing,
    QuantizationMode, WeightFileError, WeightSet, gguf_packing, gguf_tensor,
};
use crate::evidence::Listing;
use crate::suggestion::closest;

/// The output layer's weight.
const OUTPUT: &str = "lm_head.weight";

/// End of the name of a block's rotary frequencies, which are computed anew.
const ROTARY_FREQUENCIES: &str = ".rotary_emb.inv_freq";

/// In which form the weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Element type of everything that is not packed.
    pub dtype: Dtype,
    /// Whether packed weights stay packed.
    pub keep_packed: bool,
}

/// Why a checkpoint could not be read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// A weight file is broken.
    #[error(transparent)]
    WeightFile(#[from] WeightFileError),
    /// The GGUF file is broken.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tensor of the GGUF file is broken.
    #[error("`{tensor}` cannot be unpacked: {source}")]
    Block {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        source: BlockError,
    },
    /// The folder has no weights.
    #[error("there are no weights in `{}`\n  found: {found}\n  expected: `model.safetensors`, `pytorch_model.bin` or `weights.npz`, or shards with their index\n  hint: fetch the model again, or convert it with `mlx_lm.convert`", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// What it has instead.
        found: Listing,
    },
    /// The index of the shards is unusable.
    #[error("`{}` is not a usable shard index\n  found: {found}\n  expected: an object `weight_map` from tensors to file names\n  hint: fetch this file again", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// Shards that the index names are absent.
    #[error("{} missing from `{}`\n  found: no {missing}\n  expected: {expected}\n  hint: the download was interrupted; fetch the model again", clause(missing.total, "shard", ["is", "are"]), folder.display())]
    MissingShards {
        /// The folder.
        folder: PathBuf,
        /// Their file names.
        missing: Listing,
        /// Which shards should be there.
        expected: String,
    },
    /// Tensors and configuration disagree, all at once.
    #[error("the weights of `{}` do not fit its configuration\n{disagreement}\n  hint: {}", path.display(), disagreement.kind.hint())]
    Disagreement {
        /// The file or folder.
        path: PathBuf,
        /// All that is wrong.
        disagreement: Box<Disagreement>,
    },
    /// Weights are NaN or infinite.
    #[error("{} NaN or infinite values in `{}`\n  found: {tensors}\n  expected: finite weights\n  hint: convert or download the model again; training cannot start from it", clause(tensors.total, "tensor", ["holds", "hold"]), path.display())]
    NotFinite {
        /// The file or folder.
        path: PathBuf,
        /// Their names.
        tensors: Listing,
    },
    /// Weights are finite in their files and not in the element type that they are computed in.
    #[error("{} in {dtype}: `{}`\n  found: {tensors}\n  expected: an element type that holds the values of the files\n  hint: compute in float32 (`--dtype float32`)", clause(tensors.total, "tensor", ["overflows", "overflow"]), path.display())]
    Overflow {
        /// The file or folder.
        path: PathBuf,
        /// Names of the tensors.
        tensors: Listing,
        /// The element type.
        dtype: String,
    },
    /// Modules are packed in another mode than the configuration says.
    #[error("{} in another mode than the configuration says, in `{}`\n  found: {modules}\n  expected: scales in a floating-point type, and biases, for mode `affine`; scales in uint8, and no biases, for the others\n  hint: {}", clause(modules.total, "module", ["is packed", "are packed"]), path.display(), DisagreementKind::Packing.hint())]
    OtherMode {
        /// The folder.
        path: PathBuf,
        /// Paths of the modules, each with its mode and the parts that were found.
        modules: Listing,
    },
    /// MLX failed.
    #[error("failed to prepare the weights: {0}")]
    Mlx(#[from] mlx_rs::error::Exception),
}

/// For example `1 shard is` or `3 shards are`: `verbs` are of one and of many.
fn clause(count: usize, noun: &str, verbs: [&str; 2]) -> String {
    match (count, verbs) {
        (1, [one, _]) => format!("1 {noun} {one}"),
        (_, [_, many]) => format!("{count} {noun}s {many}"),
    }
}

/// What tensors and configuration disagree about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisagreementKind {
    /// Only whether the output layer is the embedding.
    TiedOutput,
    /// How modules are packed, or whether they are.
    Packing,
    /// Anything else.
    Tensors,
}

impl DisagreementKind {
    fn hint(self) -> &'static str {
        match self {
            Self::TiedOutput => {
                "make `tie_word_embeddings` in config.json say whether the files hold `lm_head.weight`, or convert the \
                 model again"
            }
            Self::Packing => {
                "make `quantization` in config.json say how the files are packed, or convert the model again with \
                 `mlx_lm.convert -q`"
            }
            Self::Tensors => "use the config.json that belongs to these weights, or fetch the model again",
        }
    }
}

/// Every way in which tensors and configuration differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// What it is about.
    pub kind: DisagreementKind,
    /// Expected tensors that are absent.
    pub missing: Listing,
    /// Tensors that the configuration knows nothing of, with the expected name that is nearest.
    pub unexpected: Listing,
    /// Tensors of another shape, with both shapes.
    pub misshapen: Listing,
}

impl std::fmt::Display for Disagreement {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: Vec<String> = [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("wrong shape", &self.misshapen),
        ]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("  {what} ({}): {names}", names.total))
        .collect();
        formatter.write_str(&lines.join("\n"))
    }
}

/// A tensor as it is held in memory.
#[derive(Debug, Clone)]
pub enum StoredTensor {
    /// One value per element.
    Plain(Array),
    /// MLX's packing.
    Packed(PackedMatrix),
}

impl StoredTensor {
    /// Shape before packing.
    pub fn shape(&self) -> Vec<usize> {
        let plain = |array: &Array| array.shape().iter().map(|&size| size as usize).collect();
        match self {
            Self::Plain(array) => plain(array),
            Self::Packed(matrix) => {
                let mut shape: Vec<usize> = plain(&matrix.weight);
                if let Some(columns) = shape.last_mut() {
                    *columns = matrix.form.packing.unpacked_columns(*columns as i32) as usize;
                }
                shape
            }
        }
    }

    fn with_precision(self, precision: Precision) -> Result<Self, mlx_rs::error::Exception> {
        match self {
            Self::Plain(array) => Ok(Self::Plain(array.as_dtype(precision.dtype)?)),
            Self::Packed(matrix) => {
                let matrix = matrix.as_dtype(precision.dtype)?;
                if precision.keep_packed {
                    Ok(Self::Packed(matrix))
                } else {
                    matrix.plain().map(Self::Plain)
                }
            }
        }
    }

    fn arrays(&self) -> Vec<&Array> {
        match self {
            Self::Plain(array) => vec![array],
            Self::Packed(matrix) => matrix.arrays(),
        }
    }
}

/// The tensors of a model under their names in mlx-lm's module tree, checked against its configuration.
#[derive(Debug)]
pub struct Checkpoint {
    /// Every tensor that the configuration expects, and no other.
    pub tensors: BTreeMap<String, StoredTensor>,
    /// How each packed module was packed in the file, also when it is held in plain form.
    pub packings: BTreeMap<String, Packing>,
    /// The element type of most plain values in the files, scales of packed ones among them; for a GGUF file the type of
    /// most values.
    pub stored_dtype: String,
    /// Tensors of the files that are no weights of the model, each with the reason why it is left out.
    pub set_aside: BTreeMap<String, &'static str>,
    /// Factors on the rotary wavelengths, `[head_dim / 2]`, where a GGUF file gives them as a tensor.
    pub wavelength_factors: Option<Vec<f32>>,
}

impl Checkpoint {
    /// Reads a folder in Hugging Face's or mlx-lm's layout.
    ///
    /// An output layer that repeats the embedding it is tied to is left out, as by mlx-lm.
    pub fn from_folder(
        folder: &Path,
        configuration: &ModelConfiguration,
        precision: Precision,
    ) -> Result<Self, CheckpointError> {
        let mut loaded = BTreeMap::new();
        let weights = WeightSet::of_folder(folder)?;
        for file in &weights.files {
            loaded.extend(weights.load(file)?);
        }
        // Older exports keep the rotary frequencies, which follow from the configuration; mlx-lm drops them too.
        loaded.retain(|name, _| !name.ends_with(ROTARY_FREQUENCIES));
        let set_aside = translate(&mut loaded, configuration)?;
        let plain = loaded.values().filter(|array| !is_integer(array.dtype()));
        let stored_dtype = commonest(plain.map(|array| (dtype_name(array.dtype()), array.size())));
        let (mut stored, mut packings) = group_packed(folder, loaded, configuration)?;
        let embedding = format!("{}.weight", configuration.architecture.names().embedding_path());
        if configuration.tie_word_embeddings && repeats(&stored, &embedding)? {
            stored.remove(OUTPUT);
            packings.remove("lm_head");
        }
        Self {
            tensors: stored,
            packings,
            stored_dtype,
            set_aside,
            wavelength_factors: None,
        }
        .checked(folder, configuration, precision)
    }

    /// Reads a GGUF file.
    pub fn from_gguf(
        header: &GgufHeader,
        configuration: &ModelConfiguration,
        precision: Precision,
    ) -> Result<Self, CheckpointError> {
        let mut tensors = BTreeMap::new();
        let mut packings = BTreeMap::new();
        let order = RowOrder::of(header, configuration);
        for (name, tensor) in header.hugging_face_tensors()? {
            let stored = order.apply(&name, gguf_tensor::stored(header, tensor, precision)?)?;
            if let (Some(packing), Some(module)) =
                (gguf_packing::packing(tensor.tensor_type), name.strip_suffix(".weight"))
            {
                packings.insert(module.to_owned(), packing);
            }
            tensors.insert(name, stored);
        }
        let wavelength_factors = match header.tensor(super::ROPE_FREQUENCIES) {
            Some(tensor) => Some(gguf_tensor::values(header, tensor)?),
            None => None,
        };
        let types = header.tensors.iter();
        Self {
            tensors,
            packings,
            stored_dtype: commonest(types.map(|tensor| (tensor.tensor_type.name().to_owned(), tensor.values()))),
            set_aside: BTreeMap::new(),
            wavelength_factors,
        }
        .checked(&header.path, configuration, precision)
    }

    /// Compares names and shapes with the configuration, converts, and looks for values that are not finite.
    fn checked(
        mut self,
        path: &Path,
        configuration: &ModelConfiguration,
        precision: Precision,
    ) -> Result<Self, CheckpointError> {
        let disagreement = disagreement(&self.tensors, configuration);
        if disagreement.missing.total + disagreement.unexpected.total + disagreement.misshapen.total > 0 {
            return Err(CheckpointError::Disagreement {
                path: path.to_owned(),
                disagreement: Box::new(disagreement),
            });
        }
        // One tensor at a time: the file's form of it can be freed before the next is converted.
        let mut tensors = BTreeMap::new();
        let (mut not_finite, mut overflown) = (Vec::new(), Vec::new());
        while let Some((name, stored)) = self.tensors.pop_first() {
            let converted = stored.clone().with_precision(precision)?;
            mlx_rs::transforms::eval(converted.arrays())?;
            if !is_finite(&converted)? {
                let list = if is_finite(&stored)? {
                    &mut overflown
                } else {
                    &mut not_finite
                };
                list.push(name.clone());
            }
            tensors.insert(name, converted);
        }
        if !not_finite.is_empty() {
            return Err(CheckpointError::NotFinite {
                path: path.to_owned(),
                tensors: not_finite.into_iter().collect(),
            });
        }
        if !overflown.is_empty() {
            return Err(CheckpointError::Overflow {
                path: path.to_owned(),
                tensors: overflown.into_iter().collect(),
                dtype: dtype_name(precision.dtype),
            });
        }
        Ok(Self { tensors, ..self })
    }
}

/// Whether the files hold an output layer that is the embedding once more, as some exports of tied models do.
fn repeats(tensors: &BTreeMap<String, StoredTensor>, embedding: &str) -> Result<bool, mlx_rs::error::Exception> {
    let (Some(output), Some(embedding)) = (tensors.get(OUTPUT), tensors.get(embedding)) else {
        return Ok(false);
    };
    let (output, embedding) = (output.arrays(), embedding.arrays());
    if output.len() != embedding.len() {
        return Ok(false);
    }
    for (left, right) in output.into_iter().zip(embedding) {
        if left.dtype() != right.dtype() || !left.eq_values(right)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The name that most values have, the first in alphabetical order where two are as common.
fn commonest(counts: impl Iterator<Item = (String, usize)>) -> String {
    let mut values: BTreeMap<String, usize> = BTreeMap::new();
    for (name, count) in counts {
        *values.entry(name).or_insert(0) += count;
    }
    let most = values.iter().max_by_key(|(name, count)| (**count, Reverse(*name)));
    most.map_or_else(|| "none".to_owned(), |(name, _)| name.clone())
}

/// The name of an element type as configurations write it.
fn dtype_name(dtype: Dtype) -> String {
    format!("{dtype:?}").to_lowercase()
}

/// Words of packed weights are integers: they hold values of no element type.
fn is_integer(dtype: Dtype) -> bool {
    !matches!(
        dtype,
        Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float64
    )
}

fn is_finite(stored: &StoredTensor) -> Result<bool, mlx_rs::error::Exception> {
    if let StoredTensor::Packed(matrix) = stored
        && matrix.has_code_of_nan()?
    {
        return Ok(false);
    }
    for array in stored.arrays() {
        if !crate::readback::is_finite(array)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Checks that every weight file of a folder is there and whole, by its header.
pub fn check_shards(folder: &Path) -> Result<(), CheckpointError> {
    Ok(WeightSet::of_folder(folder)?.check_whole()?)
}

type Grouped = (BTreeMap<String, StoredTensor>, BTreeMap<String, Packing>);

/// Joins `<module>.weight`, `.scales` and, where the mode has them, `.biases` into one packed tensor.
fn group_packed(
    folder: &Path,
    mut loaded: BTreeMap<String, Array>,
    configuration: &ModelConfiguration,
) -> Result<Grouped, CheckpointError> {
    let packed_modules: Vec<String> = loaded
        .keys()
        .filter_map(|name| name.strip_suffix(".scales"))
        .filter(|module| loaded.contains_key(&format!("{module}.weight")))
        .map(str::to_owned)
        .collect();
    let mut stored = BTreeMap::new();
    let mut packings = BTreeMap::new();
    let mut in_other_modes = Vec::new();
    for module in packed_modules {
        let Some(quantization) = quantization_of(configuration, &module) else {
            continue;
        };
        let packing = quantization.packing();
        let mut take = |part: &str| loaded.remove(&format!("{module}.{part}"));
        let name = format!("{module}.weight");
        match (take("weight"), take("scales"), take("biases")) {
            (Some(weight), Some(scales), biases) if packing.fits(&weight, &scales, biases.as_ref()) => {
                packings.insert(module, packing);
                let dtype = if is_integer(scales.dtype()) {
                    Dtype::Bfloat16
                } else {
                    scales.dtype()
                };
                stored.insert(
                    name,
                    StoredTensor::Packed(PackedMatrix {
                        weight,
                        scales,
                        biases,
                        form: PackedForm { packing, dtype },
                    }),
                );
            }
            (Some(_), Some(scales), biases) if is_in_other_mode(packing, &scales, biases.as_ref()) => {
                in_other_modes.push(format!(
                    "{module} (mode `{}`, scales in {} and {})",
                    packing.mode.name(),
                    dtype_name(scales.dtype()),
                    if biases.is_some() { "biases" } else { "no biases" }
                ));
            }
            // Parts that do not belong together are left for the check to report by name and shape.
            (weight, scales, biases) => {
                for (part, array) in [("weight", weight), ("scales", scales), ("biases", biases)] {
                    if let Some(array) = array {
                        stored.insert(format!("{module}.{part}"), StoredTensor::Plain(array));
                    }
                }
            }
        }
    }
    if !in_other_modes.is_empty() {
        return Err(CheckpointError::OtherMode {
            path: folder.to_owned(),
            modules: in_other_modes.into_iter().collect(),
        });
    }
    stored.extend(
        loaded
            .into_iter()
            .map(|(name, array)| (name, StoredTensor::Plain(array))),
    );
    Ok((stored, packings))
}

/// Whether the parts are those of a mode on the other side: of `affine`, or of one in floating-point numbers.
fn is_in_other_mode(packing: Packing, scales: &Array, biases: Option<&Array>) -> bool {
    let is_of_affine = packing.mode == QuantizationMode::Affine;
    let has_byte_scales = scales.dtype() == Dtype::Uint8;
    is_of_affine == has_byte_scales || (!is_of_affine && biases.is_some())
}

fn quantization_of(configuration: &ModelConfiguration, module: &str) -> Option<ModuleQuantization> {
    configuration.quantization.as_ref()?.for_module(module)
}

fn disagreement(tensors: &BTreeMap<String, StoredTensor>, configuration: &ModelConfiguration) -> Disagreement {
    let expected = expected_beside(tensors, configuration);
    let missing: Vec<&String> = expected.keys().filter(|name| !tensors.contains_key(*name)).collect();
    Disagreement {
        kind: kind_of_disagreement(tensors, &expected, &missing),
        unexpected: tensors
            .keys()
            .filter(|name| !expected.contains_key(*name))
            .map(|name| match closest(name, missing.iter().map(|name| name.as_str())) {
                Some(near) => format!("{name} (did you mean {near}?)"),
                None => name.clone(),
            })
            .collect(),
        misshapen: tensors
            .iter()
            .filter_map(|(name, stored)| {
                let (found, wanted) = (stored.shape(), expected.get(name)?);
                (found != *wanted).then(|| format!("{name} (found {found:?}, expected {wanted:?})"))
            })
            .collect(),
        missing: missing.into_iter().cloned().collect(),
    }
}

fn is_output(name: &str) -> bool {
    name.starts_with("lm_head.")
}

fn kind_of_disagreement(
    tensors: &BTreeMap<String, StoredTensor>,
    expected: &BTreeMap<String, Vec<usize>>,
    missing: &[&String],
) -> DisagreementKind {
    let is_packing = |name: &str| name.ends_with(".scales") || name.ends_with(".biases");
    let has_scales = |name: &str| {
        name.strip_suffix(".weight")
            .is_some_and(|module| tensors.contains_key(&format!("{module}.scales")))
    };
    let mut unexpected = tensors.keys().filter(|name| !expected.contains_key(*name));
    let misshapen = tensors
        .iter()
        .filter(|(name, stored)| expected.get(*name).is_some_and(|shape| *shape != stored.shape()))
        .any(|(name, _)| !has_scales(name));
    if misshapen {
        DisagreementKind::Tensors
    } else if missing.is_empty() && unexpected.clone().any(|name| is_packing(name)) {
        DisagreementKind::Packing
    } else if unexpected.all(|name| is_output(name)) && missing.iter().all(|name| is_output(name)) {
        DisagreementKind::TiedOutput
    } else {
        DisagreementKind::Tensors
    }
}

/// Undoes llama.cpp's order of the rows of query and key projections.
struct RowOrder {
    queries: Vec<usize>,
    keys: Vec<usize>,
}

impl RowOrder {
    /// The order of the rows in `header`'s file; empty when its architecture is stored as Hugging Face has it.
    fn of(header: &GgufHeader, configuration: &ModelConfiguration) -> Self {
        let permuted = matches!(header.text("general.architecture"), Ok(Some("llama")));
        let order = |heads: usize| {
            if permuted {
                super::rotary_row_order(heads, configuration.head_dim)
            } else {
                Vec::new()
            }
        };
        Self {
            queries: order(configuration.num_attention_heads),
            keys: order(configuration.num_key_value_heads),
        }
    }

    fn apply(&self, name: &str, stored: StoredTensor) -> Result<StoredTensor, CheckpointError> {
        let order = if name.contains(".q_proj.") {
            &self.queries
        } else if name.contains(".k_proj.") {
            &self.keys
        } else {
            return Ok(stored);
        };
        // A tensor of another height is left as it is for the check to report.
        if order.len() != stored.shape().first().copied().unwrap_or(0) {
            return Ok(stored);
        }
        let rows: Vec<i32> = order.iter().map(|&row| row as i32).collect();
        let rows = Array::from_slice(&rows, &[rows.len() as i32]);
        let reorder = |array: &Array| array.take_axis(&rows, 0);
        Ok(match stored {
            StoredTensor::Plain(array) => StoredTensor::Plain(reorder(&array)?),
            StoredTensor::Packed(matrix) => StoredTensor::Packed(matrix.try_map(reorder)?),
        })
    }
}
