//! The fields of a `config.json` that families have in common.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::architectures::Architecture;
use super::configuration::{
    CheckpointQuantization, MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH, ModelConfiguration,
    ModuleQuantization, QuantizationMode, RopeScaling, WeightType,
};
use super::json_fields::{JsonFields, describe};
use crate::suggestion::closest;

/// `original_max_position_embeddings` where no file says it, in transformers and mlx-lm.
const DEFAULT_ORIGINAL_CONTEXT: usize = 4096;

/// What a family takes for fields that are absent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    /// `max_position_embeddings`, the default of transformers' configuration class.
    pub(super) context: usize,
    /// `rope_theta`; `None` where it must be given.
    pub(super) rope_theta: Option<f64>,
    /// `tie_word_embeddings`; `None` where it must be given.
    pub(super) tied: Option<bool>,
    /// Whether `rope_scaling` may be "longrope".
    pub(super) long_rope: bool,
}

/// The fields of a decoder with rotary positions as far as they could be read.
#[derive(Debug)]
pub(super) struct CommonFields {
    hidden_size: Option<usize>,
    pub(super) num_hidden_layers: Option<usize>,
    intermediate_size: Option<usize>,
    num_attention_heads: Option<usize>,
    pub(super) num_key_value_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    rms_norm_eps: Option<f64>,
    vocab_size: Option<usize>,
    max_position_embeddings: usize,
    rope_traditional: bool,
    pub(super) rope_theta: Option<f64>,
    pub(super) rope_scaling: Option<RopeScaling>,
    tie_word_embeddings: Option<bool>,
    general: GeneralFields,
}

/// The fields that say nothing about the computation's form.
#[derive(Debug)]
pub(super) struct GeneralFields {
    pub(super) eos_token_ids: Vec<u32>,
    pub(super) bos_token_id: Option<u32>,
    pub(super) dtype: Option<WeightType>,
    pub(super) quantization: Option<CheckpointQuantization>,
}

impl GeneralFields {
    pub(super) fn read(fields: &mut JsonFields) -> Self {
        Self {
            eos_token_ids: fields.token_ids("eos_token_id"),
            bos_token_id: fields.token_ids("bos_token_id").first().copied(),
            dtype: read_dtype(fields),
            quantization: read_quantization(fields),
        }
    }
}

impl CommonFields {
    /// Reads every field, so that all problems are collected.
    pub(super) fn read(defaults: &Defaults, fields: &mut JsonFields) -> Self {
        let (rope_theta, rope_scaling) = read_rope(defaults, fields);
        Self {
            hidden_size: fields.required_size("hidden_size", MAX_WIDTH),
            num_hidden_layers: fields.required_size("num_hidden_layers", MAX_LAYERS),
            intermediate_size: fields.required_size("intermediate_size", MAX_WIDTH),
            num_attention_heads: fields.required_size("num_attention_heads", MAX_HEADS),
            num_key_value_heads: fields.size("num_key_value_heads", MAX_HEADS),
            head_dim: fields.size("head_dim", MAX_WIDTH),
            rms_norm_eps: fields.required_positive("rms_norm_eps"),
            vocab_size: fields.required_size("vocab_size", MAX_VOCABULARY),
            max_position_embeddings: fields
                .size("max_position_embeddings", MAX_CONTEXT)
                .unwrap_or(defaults.context),
            rope_traditional: fields.boolean("rope_traditional").unwrap_or(false),
            rope_theta,
            rope_scaling,
            tie_word_embeddings: match defaults.tied {
                Some(tied) => Some(fields.boolean("tie_word_embeddings").unwrap_or(tied)),
                None => fields.required_boolean("tie_word_embeddings"),
            },
            general: GeneralFields::read(fields),
        }
    }

    /// A configuration without biases, windows and experts; `None` when a field is missing or wrong.
    pub(super) fn configuration(
        self,
        architecture: Architecture,
        fields: &mut JsonFields,
    ) -> Option<ModelConfiguration> {
        let (hidden_size, num_attention_heads) = (self.hidden_size?, self.num_attention_heads?);
        let head_dim = match self.head_dim {
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
            num_hidden_layers: self.num_hidden_layers?,
            intermediate_size: self.intermediate_size?,
            num_attention_heads,
            num_key_value_heads: self.num_key_value_heads.unwrap_or(num_attention_heads),
            head_dim,
            rms_norm_eps: self.rms_norm_eps?,
            vocab_size: self.vocab_size?,
            rope_theta: self.rope_theta?,
            rope_local_base_freq: None,
            partial_rotary_factor: 1.0,
            rope_traditional: self.rope_traditional,
            rope_scaling: self.rope_scaling?,
            tie_word_embeddings: self.tie_word_embeddings?,
            max_position_embeddings: self.max_position_embeddings,
            attention_bias: false,
            mlp_bias: false,
            sliding_window: None,
            sliding_layers: Vec::new(),
            query_pre_attn_scalar: None,
            experts: None,
            eos_token_ids: self.general.eos_token_ids,
            bos_token_id: self.general.bos_token_id,
            dtype: self.general.dtype,
            quantization: self.general.quantization,
        })
    }
}

/// Refuses an activation that is not among `known`, the usual name first.
pub(super) fn refuse_other_activation(fields: &mut JsonFields, key: &str, known: &[&str]) {
    if let Some(activation) = fields.text(key)
        && !known.contains(&activation)
    {
        let expected = known.first().copied().unwrap_or_default();
        fields.problem(key, format!("`{activation}`"), format!("`{expected}`"));
    }
}

/// Refuses what would turn only a part of each head, or other pairs of it.
pub(super) fn refuse_other_rotation(fields: &mut JsonFields) {
    if let Some(share) = fields.positive("partial_rotary_factor")
        && share != 1.0
    {
        fields.problem("partial_rotary_factor", share.to_string(), "1");
    }
    if fields.boolean("rope_interleaved") == Some(true) {
        fields.problem("rope_interleaved", "true", "false");
    }
}

/// Refuses layers that do not attend to everything before them.
pub(super) fn refuse_other_layers(fields: &mut JsonFields) {
    for (index, layer_type) in fields.texts("layer_types").into_iter().enumerate() {
        if layer_type != "full_attention" {
            let location = format!("layer_types[{index}]");
            fields.problem(&location, format!("`{layer_type}`"), "`full_attention`");
        }
    }
}

/// Refuses switches that are on, of a family that has no such parts.
pub(super) fn refuse_switches(fields: &mut JsonFields, keys: &[&str], family: &str) {
    for key in keys {
        if fields.boolean(key) == Some(true) {
            fields.problem(key, "true", format!("false for {family}"));
        }
    }
}

/// `sliding_window` of a family whose every layer it limits.
pub(super) fn limit_every_layer(configuration: &mut ModelConfiguration, window: Option<usize>) {
    configuration.sliding_window = window;
    configuration.sliding_layers = window.map_or_else(Vec::new, |_| vec![true; configuration.num_hidden_layers]);
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
fn read_rope(defaults: &Defaults, fields: &mut JsonFields) -> (Option<f64>, Option<RopeScaling>) {
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
        theta = defaults.rope_theta;
        if theta.is_none() {
            fields.missing("rope_theta", "a positive number");
        }
    }
    let original = defaults.long_rope.then(|| {
        fields
            .size("original_max_position_embeddings", MAX_CONTEXT)
            .unwrap_or(DEFAULT_ORIGINAL_CONTEXT)
    });
    let read = |fields: &mut JsonFields| read_rope_scaling(fields, original);
    let scaling = match (fields.object("rope_scaling"), parameters) {
        (Some(object), _) => fields.nested("rope_scaling", object, read),
        (None, Some(object)) => fields.nested("rope_parameters", object, read),
        (None, None) => Some(RopeScaling::None),
    };
    (theta, scaling)
}

/// `long_rope` is there where the family knows "longrope": the original context that stands outside the object.
pub(super) fn read_rope_scaling(fields: &mut JsonFields, long_rope: Option<usize>) -> Option<RopeScaling> {
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
        "longrope" | "su" if let Some(original) = long_rope => {
            let short_factor = fields.required_positives("short_factor");
            let long_factor = fields.required_positives("long_factor");
            let own = fields.size("original_max_position_embeddings", MAX_CONTEXT);
            Some(RopeScaling::LongRope {
                short_factor: short_factor?,
                long_factor: long_factor?,
                original_max_position_embeddings: own.unwrap_or(original),
            })
        }
        other => {
            let known = if long_rope.is_some() {
                "`default`, `linear`, `llama3` or `longrope`"
            } else {
                "`default`, `linear` or `llama3`"
            };
            fields.problem("rope_type", format!("`{other}`"), known);
            None
        }
    }
}

/// MLX's packing as the object of a `config.json` states it, of whatever architecture; `None` when it states none that
/// is read.
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
    let default = read_module_packing(fields, false);
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
                let packing = fields.nested(key, object, |nested| read_module_packing(nested, true));
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

/// The packing of most modules, or of one that is an exception.
///
/// As in mlx-lm an exception without a mode is packed in mode `affine`, whatever the others are, and what else it leaves
/// out is the default of its mode.
fn read_module_packing(fields: &mut JsonFields, is_exception: bool) -> Option<ModuleQuantization> {
    let mode = match fields.text("mode") {
        None => QuantizationMode::Affine,
        Some(name) => {
            let Some(mode) = QuantizationMode::ALL.into_iter().find(|known| known.name() == name) else {
                let names = QuantizationMode::ALL.map(QuantizationMode::name);
                let found = match closest(name, names) {
                    Some(near) => format!("`{name}` (did you mean `{near}`?)"),
                    None => format!("`{name}`"),
                };
                fields.problem("mode", found, names.join(", "));
                return None;
            };
            mode
        }
    };
    if is_exception && fields.boolean("global_scale") == Some(true) {
        fields.problem("global_scale", "true", "false: a scale of the whole tensor is not read");
        return None;
    }
    let mut whole = |key: &str, default: u32| {
        if is_exception {
            let given = fields.size(key, u64::from(u32::MAX));
            Some(given.map_or(default, |value| value as u32))
        } else {
            fields.required_size(key, u64::from(u32::MAX)).map(|value| value as u32)
        }
    };
    let (group_size, bits) = mode.defaults();
    let (group_size, bits) = (whole("group_size", group_size), whole("bits", bits));
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
