//! The configuration of a model: what `config.json` says, checked as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mlx_float_packing::FloatMode;
use mlx_rs::Dtype;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::Packing;
use super::architectures::{Architecture, ExpectedTensor};
use super::json_fields::{JsonFields, describe};
use super::problem::{Problem, Problems};
use crate::suggestion::closest;

// Far above any published model; a larger number is a damaged or hostile file.
pub(super) const MAX_WIDTH: u64 = 1 << 20;
pub(super) const MAX_LAYERS: u64 = 1 << 12;
pub(super) const MAX_HEADS: u64 = 1 << 14;
pub(super) const MAX_VOCABULARY: u64 = 1 << 24;
pub(super) const MAX_CONTEXT: u64 = 1 << 32;

/// Group sizes and bits of MLX's `affine` quantisation.
const AFFINE_GROUP_SIZES: [u32; 3] = [32, 64, 128];
const AFFINE_BITS: [u32; 6] = [2, 3, 4, 5, 6, 8];
/// Those of `affine` where a file or a command gives none.
const AFFINE_DEFAULTS: (u32, u32) = (64, 4);

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigurationError {
    /// The file could not be read.
    #[error("configuration `{}` cannot be read\n  found: {source}\n  expected: a JSON object with the model's settings\n  hint: copy the config.json of the model this one was made from", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not a JSON object.
    #[error("configuration `{}` is not a JSON object\n  found: {found}\n  expected: one object with the model's settings\n  hint: fetch this file again", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// What was found, with line and column when it is a syntax error.
        found: String,
    },
    /// The architecture is not one that is read.
    #[error("configuration `{}` names an unsupported architecture\n  found: {found}\n  expected: {supported}\n  hint: {hint}", path.display(), supported = readable_in(path).join(", "), hint = unsupported_hint(path, found))]
    UnsupportedArchitecture {
        /// The file.
        path: PathBuf,
        /// The `model_type` or `general.architecture` found.
        found: String,
    },
    /// Values are missing, impossible or ask for something that is not done.
    #[error("configuration `{}` cannot be used\n{problems}\n  hint: compare it with the config.json of the model this one was made from", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Every value that is wrong.
        problems: Problems,
    },
}

/// How rotary embeddings are stretched to a longer context.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions are divided by `factor`.
    Linear {
        /// At least 1 in practice; positive.
        factor: f64,
    },
    /// Long wavelengths are multiplied by `factor`, short ones kept, those between interpolated.
    Llama3 {
        /// Factor on the longest wavelengths.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are stretched in full.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of the model before it was stretched, in tokens.
        original_max_position_embeddings: usize,
    },
    /// Each wavelength is multiplied by a factor of its own, and the rotated values by one that grows with the context.
    LongRope {
        /// Factors that transformers uses up to the original context, one per pair of rotated values. As in mlx-lm, the
        /// long ones serve every length here; see [`ModelConfiguration::notes`].
        short_factor: Vec<f64>,
        /// Factors beyond the original context.
        long_factor: Vec<f64>,
        /// Context of the model before it was stretched, in tokens.
        original_max_position_embeddings: usize,
    },
}

/// A mixture of experts in the place of every feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// Experts of a layer.
    pub num_local_experts: usize,
    /// Experts that each token takes; at most as many as there are.
    pub num_experts_per_tok: usize,
}

/// Element type of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// IEEE single precision.
    Float32,
    /// IEEE half precision.
    Float16,
    /// The upper half of a single.
    Bfloat16,
}

impl WeightType {
    /// The name in `torch_dtype`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        }
    }

    /// MLX's name for it.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::Float32,
            Self::Float16 => Dtype::Float16,
            Self::Bfloat16 => Dtype::Bfloat16,
        }
    }
}

/// MLX's ways of packing weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuantizationMode {
    /// Integers with a scale and a bias per group.
    Affine,
    /// Microscaling 4-bit floats.
    Mxfp4,
    /// NVIDIA's 4-bit floats.
    Nvfp4,
    /// Microscaling 8-bit floats.
    Mxfp8,
}

impl QuantizationMode {
    pub(super) const ALL: [Self; 4] = [Self::Affine, Self::Mxfp4, Self::Nvfp4, Self::Mxfp8];

    /// The name in `mode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Affine => "affine",
            Self::Mxfp4 => "mxfp4",
            Self::Nvfp4 => "nvfp4",
            Self::Mxfp8 => "mxfp8",
        }
    }

    /// The mode among those of floating-point numbers; `None` for `affine`.
    pub(super) fn float(self) -> Option<FloatMode> {
        match self {
            Self::Affine => None,
            Self::Mxfp4 => Some(FloatMode::Mxfp4),
            Self::Nvfp4 => Some(FloatMode::Nvfp4),
            Self::Mxfp8 => Some(FloatMode::Mxfp8),
        }
    }

    /// The one group size and number of bits of a floating-point mode; `None` for `affine`.
    fn fixed(self) -> Option<(u32, u32)> {
        let mode = self.float()?;
        Some((mode.group_size().unsigned_abs(), mode.bits().unsigned_abs()))
    }

    /// Group size and bits where they are not given, as in mlx-lm.
    pub(super) fn defaults(self) -> (u32, u32) {
        self.fixed().unwrap_or(AFFINE_DEFAULTS)
    }

    /// Whether MLX packs `bits` bits in groups of `group_size` in this mode.
    pub(super) fn allows(self, group_size: u32, bits: u32) -> bool {
        match self.fixed() {
            None => AFFINE_GROUP_SIZES.contains(&group_size) && AFFINE_BITS.contains(&bits),
            Some(fixed) => fixed == (group_size, bits),
        }
    }

    /// The group sizes and bits that are allowed, for messages.
    pub(super) fn allowed(self) -> String {
        match self.fixed() {
            None => "32, 64 or 128 and 2, 3, 4, 5, 6 or 8".to_owned(),
            Some((group_size, bits)) => format!("{group_size} and {bits} for mode `{}`", self.name()),
        }
    }
}

/// How the weights of a module are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleQuantization {
    /// Weights that share one scale.
    pub group_size: u32,
    /// Bits per weight.
    pub bits: u32,
    /// Meaning of the bits.
    pub mode: QuantizationMode,
}

impl ModuleQuantization {
    /// The packing as arrays have it.
    pub fn packing(self) -> Packing {
        Packing {
            group_size: self.group_size as i32,
            bits: self.bits as i32,
            mode: self.mode,
        }
    }

    pub(super) fn to_json(self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("group_size".to_owned(), self.group_size.into());
        object.insert("bits".to_owned(), self.bits.into());
        object.insert("mode".to_owned(), self.mode.name().into());
        object
    }
}

/// How a checkpoint is packed: one setting for all modules, and exceptions by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointQuantization {
    /// For every module that has packed weights and no entry of its own.
    pub default: ModuleQuantization,
    /// By module path, for example `model.layers.0.mlp.down_proj`; `None` for a module that is not packed.
    pub overrides: BTreeMap<String, Option<ModuleQuantization>>,
}

impl CheckpointQuantization {
    /// The packing of the module at `path`; `None` when the configuration says that it is not packed.
    pub fn for_module(&self, path: &str) -> Option<ModuleQuantization> {
        self.overrides.get(path).copied().unwrap_or(Some(self.default))
    }

    fn to_json(&self) -> Value {
        let mut object = self.default.to_json();
        for (path, quantization) in &self.overrides {
            let value = quantization.map_or(Value::Bool(false), |quantization| quantization.to_json().into());
            object.insert(path.clone(), value);
        }
        object.into()
    }
}

/// Everything a decoder needs to know before its weights are read. Field names are those of `config.json`, in llama's
/// spelling where families differ.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the file's own switches")]
pub struct ModelConfiguration {
    /// Which family the model belongs to.
    pub architecture: Architecture,
    /// Values per token between blocks.
    pub hidden_size: usize,
    /// Transformer blocks.
    pub num_hidden_layers: usize,
    /// Values per token inside a feed-forward network.
    pub intermediate_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides [`Self::num_attention_heads`].
    pub num_key_value_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Added to the mean square under the root of every norm.
    pub rms_norm_eps: f64,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Base of the rotary wavelengths; without meaning where positions are learned.
    pub rope_theta: f64,
    /// Base of the rotary wavelengths in the layers of [`Self::sliding_layers`]; `None` for [`Self::rope_theta`].
    pub rope_local_base_freq: Option<f64>,
    /// Share of a head's values that rotary embeddings turn, the first ones.
    pub partial_rotary_factor: f64,
    /// Whether rotary embeddings turn neighbouring pairs instead of the halves of a head (mlx-lm's key, false
    /// elsewhere).
    pub rope_traditional: bool,
    /// How the rotary wavelengths are stretched.
    pub rope_scaling: RopeScaling,
    /// Whether the output layer is the embedding table.
    pub tie_word_embeddings: bool,
    /// Longest context in tokens.
    pub max_position_embeddings: usize,
    /// Whether query, key, value and output projections have biases (qwen2: query, key and value only).
    pub attention_bias: bool,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// The attention window that the file declares in use: a token attends to itself and the tokens before it, so many
    /// in all. It limits the layers of [`Self::sliding_layers`]; where there are none, attention is full all the same,
    /// as in mlx-lm, which is exact for sequences no longer than the window. See [`Self::notes`].
    pub sliding_window: Option<usize>,
    /// By layer, whether the window limits its attention; empty when it limits none.
    pub sliding_layers: Vec<bool>,
    /// One over the square of the factor on attention's products; `None` for [`Self::head_dim`].
    pub query_pre_attn_scalar: Option<f64>,
    /// The mixture of experts; `None` for one feed-forward network per layer.
    pub experts: Option<Experts>,
    /// Ids that end an answer, in the order of the file.
    pub eos_token_ids: Vec<u32>,
    /// Id that begins a text.
    pub bos_token_id: Option<u32>,
    /// Declared element type of the weights.
    pub dtype: Option<WeightType>,
    /// How the checkpoint is packed; `None` when it is not.
    pub quantization: Option<CheckpointQuantization>,
}

impl ModelConfiguration {
    /// Reads and checks the `config.json` at `path`.
    ///
    /// # Errors
    /// See [`ConfigurationError`]; every wrong value is listed at once.
    pub fn read(path: &Path) -> Result<Self, ConfigurationError> {
        Self::from_json(path, &read_object(path)?)
    }

    /// Checks the object of a `config.json`; `path` is named in errors.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_json(path: &Path, object: &Map<String, Value>) -> Result<Self, ConfigurationError> {
        let architecture = match object.get("model_type") {
            Some(Value::String(name)) => Architecture::named(name).ok_or_else(|| match object.get("text_config") {
                Some(Value::Object(_)) => format!("`{name}`, {MULTIMODAL}"),
                _ => format!("`{name}`"),
            }),
            Some(other) => Err(describe(other)),
            None => Err("no `model_type`".to_owned()),
        };
        let architecture = architecture.map_err(|found| ConfigurationError::UnsupportedArchitecture {
            path: path.to_owned(),
            found,
        })?;
        let mut fields = JsonFields::new(object);
        let configuration = architecture.read(&mut fields);
        match configuration {
            Some(configuration) if fields.problems.is_empty() => {
                let mut problems = Problems::default();
                configuration.check(&mut problems);
                if problems.is_empty() {
                    Ok(configuration)
                } else {
                    Err(ConfigurationError::Unusable {
                        path: path.to_owned(),
                        problems,
                    })
                }
            }
            _ => Err(ConfigurationError::Unusable {
                path: path.to_owned(),
                problems: fields.problems,
            }),
        }
    }

    /// Adds what is wrong about the values taken together.
    pub(super) fn check(&self, problems: &mut Problems) {
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            problems.push(Problem::new(
                "num_key_value_heads",
                self.num_key_value_heads.to_string(),
                format!("a divisor of num_attention_heads, {}", self.num_attention_heads),
            ));
        }
        if self.architecture.is_rotary() {
            self.check_rotation(problems);
        }
        if let Some(experts) = self.experts
            && experts.num_experts_per_tok > experts.num_local_experts
        {
            problems.push(Problem::new(
                "num_experts_per_tok",
                experts.num_experts_per_tok.to_string(),
                format!("at most num_local_experts, {}", experts.num_local_experts),
            ));
        }
        let Some(quantization) = self.quantization.as_ref().filter(|packed| !packed.overrides.is_empty()) else {
            return;
        };
        let modules = self.module_paths();
        for path in quantization.overrides.keys() {
            if !modules.contains(path) {
                problems.push(Problem::new(
                    format!("quantization.{path}"),
                    "settings for a module that the model does not have",
                    "the path of an embedding or a linear layer",
                ));
            }
        }
    }

    fn check_rotation(&self, problems: &mut Problems) {
        let rotated = self.rotary_dimensions();
        if !rotated.is_multiple_of(2) || rotated == 0 {
            let (key, found) = if rotated == self.head_dim {
                ("head_dim", self.head_dim.to_string())
            } else {
                let share = self.partial_rotary_factor;
                ("partial_rotary_factor", format!("{share} of {} values", self.head_dim))
            };
            problems.push(Problem::new(
                key,
                found,
                "an even number, since rotary embeddings turn pairs of values",
            ));
        }
        if let RopeScaling::LongRope {
            short_factor,
            long_factor,
            ..
        } = &self.rope_scaling
        {
            for (key, factors) in [("short_factor", short_factor), ("long_factor", long_factor)] {
                if factors.len() != rotated / 2 {
                    problems.push(Problem::new(
                        format!("rope_scaling.{key}"),
                        format!("{} factors", factors.len()),
                        format!("one for each pair of rotated values, {}", rotated / 2),
                    ));
                }
            }
        }
    }

    /// Values per head that rotary embeddings turn.
    pub fn rotary_dimensions(&self) -> usize {
        (self.head_dim as f64 * self.partial_rotary_factor) as usize
    }

    /// Whether the window limits the attention of layer `index`.
    pub fn is_sliding(&self, index: usize) -> bool {
        self.sliding_layers.get(index).copied().unwrap_or(false)
    }

    /// Tokens that one attends to in layer `index`, itself included; `None` for all before it.
    pub fn window(&self, index: usize) -> Option<i32> {
        // A window beyond what positions can count limits nothing.
        self.sliding_window
            .filter(|_| self.is_sliding(index))
            .and_then(|window| i32::try_from(window).ok())
    }

    /// What the configuration declares and this program or mlx-lm treats differently, one sentence each, without a
    /// final period.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(window) = self.sliding_window {
            if self.sliding_layers.is_empty() {
                notes.push(format!(
                    "the configuration declares an attention window of {window} tokens; attention is full, as in mlx-lm, which is the same for sequences up to {window} tokens"
                ));
            } else if !self.architecture.has_window_in_mlx_lm() {
                notes.push(format!(
                    "attention is limited to the {window} tokens that the configuration declares, as in transformers; mlx-lm's is full, which differs for sequences beyond {window} tokens"
                ));
            }
        }
        if let RopeScaling::LongRope {
            original_max_position_embeddings: original,
            ..
        } = &self.rope_scaling
        {
            notes.push(format!(
                "positions are stretched by the long factors at every length, as in mlx-lm; transformers takes the short ones for sequences up to {original} tokens"
            ));
        }
        notes
    }

    /// Every tensor the model has, under its name in mlx-lm's module tree, with its shape before any packing, in the
    /// order of the computation.
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let tensors = self.tensors().into_iter();
        tensors.map(|tensor| (tensor.name, tensor.shape)).collect()
    }

    /// [`Self::expected_tensors`], each with what it is.
    pub(super) fn tensors(&self) -> Vec<ExpectedTensor> {
        self.architecture.tensors(self)
    }

    /// Number of values of [`Self::expected_tensors`].
    pub fn expected_values(&self) -> u64 {
        self.expected_tensors()
            .iter()
            .map(|(_, shape)| shape.iter().map(|&dimension| dimension as u64).product::<u64>())
            .sum()
    }

    /// The paths of the modules that can be packed: embeddings, linear layers and experts.
    fn module_paths(&self) -> BTreeSet<String> {
        let packable = self.tensors().into_iter().filter(|tensor| tensor.role.is_matrix());
        packable
            .filter_map(|tensor| tensor.name.strip_suffix(".weight").map(str::to_owned))
            .collect()
    }

    /// The configuration as the object of a `config.json` that transformers, mlx-lm and [`Self::read`] accept.
    pub fn to_json(&self) -> Value {
        let mut object = json!({
            "model_type": self.architecture.model_type(),
            "architectures": [self.architecture.class_name()],
        });
        for (key, value) in self.architecture.write(self) {
            object[key] = value;
        }
        object["eos_token_id"] = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => (*one).into(),
            several => several.into(),
        };
        object["bos_token_id"] = self.bos_token_id.into();
        if let Some(dtype) = self.dtype {
            object["torch_dtype"] = dtype.name().into();
        }
        if let Some(quantization) = &self.quantization {
            object["quantization"] = quantization.to_json();
            object["quantization_config"] = quantization.to_json();
        }
        object
    }

    pub(super) fn rope_scaling_json(&self) -> Value {
        match &self.rope_scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings,
            } => json!({
                "type": "longrope",
                "rope_type": "longrope",
                "short_factor": short_factor,
                "long_factor": long_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
        }
    }
}

/// What follows the name of an architecture whose text model is one part of several.
const MULTIMODAL: &str = "whose text model is one of several parts (`text_config`)";

/// The names of the architectures that are read from a file of this name.
fn readable_in(path: &Path) -> Vec<&'static str> {
    if path.extension().is_some_and(|extension| extension == "gguf") {
        Architecture::all().filter_map(Architecture::gguf_name).collect()
    } else {
        Architecture::all().map(Architecture::model_type).collect()
    }
}

fn unsupported_hint(path: &Path, found: &str) -> String {
    if found.ends_with(MULTIMODAL) {
        return "use the text model alone: a folder whose config.json has that part's fields at the top".to_owned();
    }
    match closest(found.trim_matches('`'), readable_in(path)) {
        Some(name) => format!("did you mean `{name}`? Otherwise use a model of one of these architectures"),
        None => "use a model of one of these architectures".to_owned(),
    }
}

/// The object of the `config.json` at `path`, unchecked.
pub(super) fn read_object(path: &Path) -> Result<Map<String, Value>, ConfigurationError> {
    let bytes = fs::read(path).map_err(|source| ConfigurationError::Read {
        path: path.to_owned(),
        source,
    })?;
    let not_json = |found: String| ConfigurationError::NotJson {
        path: path.to_owned(),
        found,
    };
    match serde_json::from_slice(&bytes).map_err(|error| not_json(error.to_string()))? {
        Value::Object(object) => Ok(object),
        other => Err(not_json(describe(&other))),
    }
}
