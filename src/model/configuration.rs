//! The configuration of a model: what `config.json` says, checked as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mlx_rs::Dtype;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::json_fields::{JsonFields, describe};
use super::problem::{Problem, Problems};

// Far above any published model; a larger number is a damaged or hostile file.
pub(super) const MAX_WIDTH: u64 = 1 << 20;
pub(super) const MAX_LAYERS: u64 = 1 << 12;
pub(super) const MAX_HEADS: u64 = 1 << 14;
pub(super) const MAX_VOCABULARY: u64 = 1 << 24;
pub(super) const MAX_CONTEXT: u64 = 1 << 32;

/// Group sizes and bits of MLX's `affine` quantisation.
const AFFINE_GROUP_SIZES: [u32; 3] = [32, 64, 128];
const AFFINE_BITS: [u32; 6] = [2, 3, 4, 5, 6, 8];

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
    #[error("configuration `{}` names an unsupported architecture\n  found: {found}\n  expected: {supported}\n  hint: use a model of one of these architectures", path.display(), supported = Architecture::names())]
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

/// The supported families of models, named as in `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// `llama`.
    Llama,
    /// `mistral`: llama without biases.
    Mistral,
    /// `qwen2`: llama with biases on query, key and value.
    Qwen2,
    /// `qwen3`: llama with a norm on every query and key head.
    Qwen3,
}

impl Architecture {
    /// Every supported architecture.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// The name in `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The name in `architectures`.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    fn from_model_type(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.model_type() == name)
    }

    pub(super) fn names() -> String {
        Self::ALL.map(Self::model_type).join(", ")
    }

    /// Context in tokens when the configuration names none (the defaults of transformers' configuration classes).
    fn default_context(self) -> usize {
        match self {
            Self::Llama => 2048,
            Self::Mistral => 4096 * 32,
            Self::Qwen2 | Self::Qwen3 => 32768,
        }
    }
}

/// How rotary embeddings are stretched to a longer context.
#[derive(Debug, Clone, Copy, PartialEq)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    const ALL: [Self; 4] = [Self::Affine, Self::Mxfp4, Self::Nvfp4, Self::Mxfp8];

    /// The name in `mode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Affine => "affine",
            Self::Mxfp4 => "mxfp4",
            Self::Nvfp4 => "nvfp4",
            Self::Mxfp8 => "mxfp8",
        }
    }

    /// The one group size and number of bits of a floating-point mode; `None` for `affine`.
    fn fixed(self) -> Option<(u32, u32)> {
        match self {
            Self::Affine => None,
            Self::Mxfp4 => Some((32, 4)),
            Self::Nvfp4 => Some((16, 4)),
            Self::Mxfp8 => Some((32, 8)),
        }
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
            Some((group_size, bits)) => format!("{group_size} and {bits} for {}", self.name()),
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

/// Everything a decoder needs to know before its weights are read. Field names are those of `config.json`.
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
    /// Values per head; even.
    pub head_dim: usize,
    /// Added to the mean square under the root of every norm.
    pub rms_norm_eps: f64,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
    /// Whether rotary embeddings turn neighbouring pairs instead of the halves of a head (mlx-lm's key, false elsewhere).
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
    /// The attention window that the file declares in use. As in mlx-lm, attention is full all the same, which is exact
    /// for sequences no longer than the window; see [`Self::notes`].
    pub sliding_window: Option<usize>,
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
            Some(Value::String(name)) => Architecture::from_model_type(name).ok_or_else(|| format!("`{name}`")),
            Some(other) => Err(describe(other)),
            None => Err("no `model_type`".to_owned()),
        };
        let architecture = architecture.map_err(|found| ConfigurationError::UnsupportedArchitecture {
            path: path.to_owned(),
            found,
        })?;
        let mut fields = JsonFields::new(object);
        let configuration = read_fields(architecture, &mut fields);
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
        if !self.head_dim.is_multiple_of(2) {
            problems.push(Problem::new(
                "head_dim",
                self.head_dim.to_string(),
                "an even number, since rotary embeddings turn pairs of values",
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

    /// What the configuration declares and this program treats differently, one sentence each, without a final period.
    pub fn notes(&self) -> Vec<String> {
        self.sliding_window
            .iter()
            .map(|window| {
                format!(
                    "the configuration declares an attention window of {window} tokens; attention is full, as in mlx-lm, which is the same for sequences up to {window} tokens"
                )
            })
            .collect()
    }

    /// Every tensor the model has, under its Hugging Face name, with its shape before any packing, in the order of the
    /// computation.
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let queries = self.num_attention_heads * self.head_dim;
        let keys = self.num_key_value_heads * self.head_dim;
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let output_bias = self.attention_bias && self.architecture != Architecture::Qwen2;
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden])];
        for layer in 0..self.num_hidden_layers {
            let mut linear = |module: &str, rows: usize, columns: usize, bias: bool| {
                tensors.push((format!("model.layers.{layer}.{module}.weight"), vec![rows, columns]));
                if bias {
                    tensors.push((format!("model.layers.{layer}.{module}.bias"), vec![rows]));
                }
            };
            linear("self_attn.q_proj", queries, hidden, self.attention_bias);
            linear("self_attn.k_proj", keys, hidden, self.attention_bias);
            linear("self_attn.v_proj", keys, hidden, self.attention_bias);
            linear("self_attn.o_proj", hidden, queries, output_bias);
            linear("mlp.gate_proj", inner, hidden, self.mlp_bias);
            linear("mlp.up_proj", inner, hidden, self.mlp_bias);
            linear("mlp.down_proj", hidden, inner, self.mlp_bias);
            let mut norm = |module: &str, size: usize| {
                tensors.push((format!("model.layers.{layer}.{module}.weight"), vec![size]));
            };
            norm("input_layernorm", hidden);
            norm("post_attention_layernorm", hidden);
            if self.architecture == Architecture::Qwen3 {
                norm("self_attn.q_norm", self.head_dim);
                norm("self_attn.k_norm", self.head_dim);
            }
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tie_word_embeddings {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        tensors
    }

    /// Number of values of [`Self::expected_tensors`].
    pub fn expected_values(&self) -> u64 {
        self.expected_tensors()
            .iter()
            .map(|(_, shape)| shape.iter().map(|&dimension| dimension as u64).product::<u64>())
            .sum()
    }

    /// The paths of the modules that can be packed: embeddings and linear layers.
    fn module_paths(&self) -> BTreeSet<String> {
        self.expected_tensors()
            .into_iter()
            .filter(|(_, shape)| shape.len() == 2)
            .filter_map(|(name, _)| name.strip_suffix(".weight").map(str::to_owned))
            .collect()
    }

    /// The configuration as the object of a `config.json` that transformers, mlx-lm and [`Self::read`] accept.
    pub fn to_json(&self) -> Value {
        let mut object = json!({
            "model_type": self.architecture.model_type(),
            "architectures": [self.architecture.class_name()],
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.rms_norm_eps,
            "vocab_size": self.vocab_size,
            "rope_theta": self.rope_theta,
            "rope_traditional": self.rope_traditional,
            "rope_scaling": self.rope_scaling_json(),
            "tie_word_embeddings": self.tie_word_embeddings,
            "max_position_embeddings": self.max_position_embeddings,
            "eos_token_id": match self.eos_token_ids.as_slice() {
                [] => Value::Null,
                [one] => (*one).into(),
                several => several.into(),
            },
            "bos_token_id": self.bos_token_id,
        });
        let mut insert = |key: &str, value: Value| object[key] = value;
        if matches!(self.architecture, Architecture::Llama | Architecture::Qwen3) {
            insert("attention_bias", self.attention_bias.into());
        }
        if self.architecture == Architecture::Llama {
            insert("mlp_bias", self.mlp_bias.into());
        }
        if let Some(window) = self.sliding_window {
            insert("sliding_window", window.into());
            if matches!(self.architecture, Architecture::Qwen2 | Architecture::Qwen3) {
                insert("use_sliding_window", true.into());
            }
        }
        if let Some(dtype) = self.dtype {
            insert("torch_dtype", dtype.name().into());
        }
        if let Some(quantization) = &self.quantization {
            insert("quantization", quantization.to_json());
            insert("quantization_config", quantization.to_json());
        }
        object
    }

    fn rope_scaling_json(&self) -> Value {
        match self.rope_scaling {
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
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.model_type())
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

/// Reads every field, so that all problems are collected; `None` when a required one is missing or wrong.
fn read_fields(architecture: Architecture, fields: &mut JsonFields) -> Option<ModelConfiguration> {
    refuse_other_computations(fields);
    let hidden_size = fields.required_size("hidden_size", MAX_WIDTH);
    let num_hidden_layers = fields.required_size("num_hidden_layers", MAX_LAYERS);
    let intermediate_size = fields.required_size("intermediate_size", MAX_WIDTH);
    let num_attention_heads = fields.required_size("num_attention_heads", MAX_HEADS);
    let num_key_value_heads = fields.size("num_key_value_heads", MAX_HEADS);
    let head_dim = fields.size("head_dim", MAX_WIDTH);
    let rms_norm_eps = fields.required_positive("rms_norm_eps");
    let vocab_size = fields.required_size("vocab_size", MAX_VOCABULARY);
    let max_position_embeddings = fields.size("max_position_embeddings", MAX_CONTEXT);
    let rope_traditional = fields.boolean("rope_traditional").unwrap_or(false);
    let (rope_theta, rope_scaling) = read_rope(architecture, fields);
    // mlx-lm's defaults: tied, but for qwen3, which must say.
    let tie_word_embeddings = match architecture {
        Architecture::Qwen3 => fields.required_boolean("tie_word_embeddings"),
        _ => Some(fields.boolean("tie_word_embeddings").unwrap_or(true)),
    };
    let (attention_bias, mlp_bias) = read_biases(architecture, fields);
    let sliding_window = read_sliding_window(architecture, fields);
    let eos_token_ids = fields.token_ids("eos_token_id");
    let bos_token_id = fields.token_ids("bos_token_id").first().copied();
    let dtype = read_dtype(fields);
    let quantization = read_quantization(fields);

    let (hidden_size, num_attention_heads) = (hidden_size?, num_attention_heads?);
    let head_dim = match head_dim {
        Some(given) => given,
        None if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
        None => {
            fields.problem(
                "hidden_size",
                hidden_size.to_string(),
                format!("a multiple of num_attention_heads, {num_attention_heads}, or a head_dim"),
            );
            return None;
        }
    };
    Some(ModelConfiguration {
        architecture,
        hidden_size,
        num_hidden_layers: num_hidden_layers?,
        intermediate_size: intermediate_size?,
        num_attention_heads,
        num_key_value_heads: num_key_value_heads.unwrap_or(num_attention_heads),
        head_dim,
        rms_norm_eps: rms_norm_eps?,
        vocab_size: vocab_size?,
        rope_theta: rope_theta?,
        rope_traditional,
        rope_scaling: rope_scaling?,
        tie_word_embeddings: tie_word_embeddings?,
        max_position_embeddings: max_position_embeddings.unwrap_or(architecture.default_context()),
        attention_bias,
        mlp_bias,
        sliding_window,
        eos_token_ids,
        bos_token_id,
        dtype,
        quantization,
    })
}

/// Settings of other models that would change the computation without changing any tensor.
fn refuse_other_computations(fields: &mut JsonFields) {
    if let Some(activation) = fields.text("hidden_act")
        && !matches!(activation, "silu" | "swish")
    {
        fields.problem("hidden_act", format!("`{activation}`"), "`silu`");
    }
    if let Some(share) = fields.positive("partial_rotary_factor")
        && share != 1.0
    {
        fields.problem("partial_rotary_factor", share.to_string(), "1");
    }
    if fields.boolean("rope_interleaved") == Some(true) {
        fields.problem("rope_interleaved", "true", "false");
    }
    for (index, layer_type) in fields.texts("layer_types").into_iter().enumerate() {
        if layer_type != "full_attention" {
            let location = format!("layer_types[{index}]");
            fields.problem(&location, format!("`{layer_type}`"), "`full_attention`");
        }
    }
}

fn read_biases(architecture: Architecture, fields: &mut JsonFields) -> (bool, bool) {
    let attention = fields.boolean("attention_bias");
    let feed_forward = fields.boolean("mlp_bias");
    match architecture {
        Architecture::Llama => (attention.unwrap_or(false), feed_forward.unwrap_or(false)),
        Architecture::Qwen2 => (true, false),
        // Both read as llama with no biases, or none at all, by mlx-lm; a file that asks for them is not served by that.
        Architecture::Mistral | Architecture::Qwen3 => {
            for (key, value) in [("attention_bias", attention), ("mlp_bias", feed_forward)] {
                if value == Some(true) {
                    fields.problem(key, "true", format!("false for {architecture}"));
                }
            }
            (false, false)
        }
    }
}

fn read_sliding_window(architecture: Architecture, fields: &mut JsonFields) -> Option<usize> {
    let window = fields.size("sliding_window", MAX_CONTEXT);
    let in_use = match architecture {
        Architecture::Llama => false,
        Architecture::Mistral => true,
        Architecture::Qwen2 | Architecture::Qwen3 => fields.boolean("use_sliding_window").unwrap_or(false),
    };
    window.filter(|_| in_use)
}

fn read_dtype(fields: &mut JsonFields) -> Option<WeightType> {
    let (key, name) = ["torch_dtype", "dtype"]
        .into_iter()
        .find_map(|key| fields.text(key).map(|name| (key, name)))?;
    match name {
        "float32" => Some(WeightType::Float32),
        "float16" => Some(WeightType::Float16),
        "bfloat16" => Some(WeightType::Bfloat16),
        other => {
            fields.problem(key, format!("`{other}`"), "`float32`, `float16` or `bfloat16`");
            None
        }
    }
}

/// `rope_theta` and `rope_scaling`, or the `rope_parameters` object that transformers 5 puts both in.
fn read_rope(architecture: Architecture, fields: &mut JsonFields) -> (Option<f64>, Option<RopeScaling>) {
    let mut theta = fields.positive("rope_theta");
    let parameters = fields.object("rope_parameters");
    if let Some(object) = parameters {
        let nested = fields.nested("rope_parameters", object, |nested| nested.positive("rope_theta"));
        match (theta, nested) {
            (Some(outer), Some(inner)) if outer != inner => fields.problem(
                "rope_parameters.rope_theta",
                inner.to_string(),
                format!("rope_theta, {outer}"),
            ),
            (None, Some(inner)) => theta = Some(inner),
            _ => {}
        }
    }
    if theta.is_none() {
        theta = match architecture {
            Architecture::Llama | Architecture::Mistral => Some(10_000.0),
            Architecture::Qwen2 => Some(1_000_000.0),
            Architecture::Qwen3 => {
                fields.missing("rope_theta", "a positive number");
                None
            }
        };
    }
    let scaling = match (fields.object("rope_scaling"), parameters) {
        (Some(object), _) => fields.nested("rope_scaling", object, read_rope_scaling),
        (None, Some(object)) => fields.nested("rope_parameters", object, read_rope_scaling),
        (None, None) => Some(RopeScaling::None),
    };
    (theta, scaling)
}

fn read_rope_scaling(fields: &mut JsonFields) -> Option<RopeScaling> {
    let kind = fields
        .text("type")
        .or_else(|| fields.text("rope_type"))
        .unwrap_or("default");
    match kind {
        "default" => Some(RopeScaling::None),
        "linear" => Some(RopeScaling::Linear {
            factor: fields.required_positive("factor")?,
        }),
        "llama3" => {
            let factor = fields.required_positive("factor");
            // mlx-lm's defaults.
            let low_freq_factor = fields.positive("low_freq_factor").unwrap_or(1.0);
            let high_freq_factor = fields.positive("high_freq_factor").unwrap_or(4.0);
            let original = fields
                .size("original_max_position_embeddings", MAX_CONTEXT)
                .unwrap_or(8192);
            if high_freq_factor <= low_freq_factor {
                fields.problem(
                    "high_freq_factor",
                    high_freq_factor.to_string(),
                    format!("more than low_freq_factor, {low_freq_factor}"),
                );
            }
            Some(RopeScaling::Llama3 {
                factor: factor?,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original,
            })
        }
        other => {
            fields.problem("rope_type", format!("`{other}`"), "`default`, `linear` or `llama3`");
            None
        }
    }
}

/// MLX's packing as the object of a `config.json` states it, of whatever architecture; `None` when it states none that is
/// read.
pub(super) fn stated_quantization(object: &Map<String, Value>) -> Option<CheckpointQuantization> {
    read_quantization(&mut JsonFields::new(object))
}

fn read_quantization(fields: &mut JsonFields) -> Option<CheckpointQuantization> {
    if let Some(object) = fields.object("quantization") {
        return fields.nested("quantization", object, read_packing);
    }
    let object = fields.object("quantization_config")?;
    fields.nested("quantization_config", object, |nested| {
        if let Some(method) = nested.text("quant_method") {
            nested.problem(
                "quant_method",
                format!("`{method}`"),
                "MLX's own packing, `quantization`",
            );
            return None;
        }
        read_packing(nested)
    })
}

fn read_packing(fields: &mut JsonFields) -> Option<CheckpointQuantization> {
    let default = read_module_packing(fields, None);
    let mut overrides = BTreeMap::new();
    for (key, value) in fields.entries() {
        if matches!(key, "group_size" | "bits" | "mode") {
            continue;
        }
        match value {
            Value::Bool(false) => {
                overrides.insert(key.to_owned(), None);
            }
            Value::Object(object) => {
                let packing = fields.nested(key, object, |nested| read_module_packing(nested, default));
                overrides.insert(key.to_owned(), packing);
            }
            Value::Bool(true) => {
                overrides.insert(key.to_owned(), default);
            }
            other => fields.problem(
                key,
                describe(other),
                "false, true or an object with group_size and bits",
            ),
        }
    }
    Some(CheckpointQuantization {
        default: default?,
        overrides,
    })
}

/// One module's packing; what it leaves out is taken from `fallback`.
fn read_module_packing(fields: &mut JsonFields, fallback: Option<ModuleQuantization>) -> Option<ModuleQuantization> {
    let mode = match fields.text("mode") {
        None => fallback.map_or(QuantizationMode::Affine, |fallback| fallback.mode),
        Some(name) => {
            let Some(mode) = QuantizationMode::ALL.into_iter().find(|known| known.name() == name) else {
                let known = QuantizationMode::ALL.map(QuantizationMode::name).join(", ");
                fields.problem("mode", format!("`{name}`"), known);
                return None;
            };
            mode
        }
    };
    let mut whole = |key: &str, fallback: Option<u32>| match fallback {
        Some(fallback) => Some(
            fields
                .size(key, u64::from(u32::MAX))
                .map_or(fallback, |value| value as u32),
        ),
        None => fields.required_size(key, u64::from(u32::MAX)).map(|value| value as u32),
    };
    let group_size = whole("group_size", fallback.map(|fallback| fallback.group_size));
    let bits = whole("bits", fallback.map(|fallback| fallback.bits));
    let (group_size, bits) = (group_size?, bits?);
    if !mode.allows(group_size, bits) {
        fields.problem(
            "group_size and bits",
            format!("{group_size} and {bits}"),
            mode.allowed(),
        );
        return None;
    }
    Some(ModuleQuantization { group_size, bits, mode })
}
