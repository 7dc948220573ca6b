//! `gemma3_text`: norms on both sides of attention and feed-forward layer, all with factors of 1 + weight, and a window
//! on the attention of most layers, whose positions have a base of their own.

use mlx_rs::error::Result;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::ops::clip;
use mlx_rs::{Array, Dtype};
use serde_json::{Map, Value, json};

use super::family::{Family, no_other_forms, nothing_set_aside};
use super::llama::{attention, attention_tensors, write_common};
use super::{Architecture, ExpectedTensor};
use crate::model::architectures::expected_tensor::TensorList;
use crate::model::block::block_parts;
use crate::model::configuration::{MAX_CONTEXT, MAX_LAYERS};
use crate::model::configuration_fields::{
    CommonFields, Defaults, read_rope_scaling, refuse_other_activation, refuse_other_rotation, refuse_switches,
};
use crate::model::json_fields::{JsonFields, describe};
use crate::model::tensor_source::TensorSource;
use crate::model::{
    Activation, Attention, AttentionContext, Block, BuildError, DecoderNames, FeedForward, KeyValueStore, Linear,
    ModelConfiguration, Norm, NormKind, RopeScaling,
};

pub(super) static FAMILY: Family = Family {
    model_type: "gemma3_text",
    class_name: "Gemma3ForCausalLM",
    gguf: None,
    names: DecoderNames::USUAL,
    norm: NormKind::RootMeanSquarePlusOne,
    embedding_scale: |configuration| {
        // Rounded to bfloat16 as the published models were trained, and as mlx-lm has it in every element type.
        let root = (configuration.hidden_size as f32).sqrt();
        Some(half::bf16::from_f32(root).to_f32())
    },
    has_window_in_mlx_lm: true,
    read,
    write,
    tensors,
    stored_forms: no_other_forms,
    set_aside: nothing_set_aside,
    block,
};

/// What transformers and mlx-lm agree on where the file is silent.
const DEFAULT_HEAD_DIM: usize = 256;
const DEFAULT_QUERY_SCALAR: f64 = 256.0;
const DEFAULT_PATTERN: usize = 6;
const DEFAULT_LOCAL_BASE: f64 = 10_000.0;

fn read(architecture: Architecture, fields: &mut JsonFields) -> Option<ModelConfiguration> {
    for key in ["hidden_activation", "hidden_act"] {
        refuse_other_activation(fields, key, &["gelu_pytorch_tanh"]);
    }
    refuse_other_rotation(fields);
    refuse_switches(
        fields,
        &["attention_bias", "use_bidirectional_attention"],
        "gemma3_text",
    );
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(cap) = fields.positive(key) {
            fields.problem(key, cap.to_string(), "no value for gemma3_text");
        }
    }
    let defaults = Defaults {
        context: 32768,
        rope_theta: Some(1_000_000.0),
        tied: Some(true),
        long_rope: false,
    };
    let mut common = CommonFields::read(&defaults, fields);
    common.head_dim = common.head_dim.or(Some(DEFAULT_HEAD_DIM));
    if common.num_key_value_heads.is_none() {
        fields.missing(
            "num_key_value_heads",
            "a whole number, for which there is no agreed default",
        );
    }
    let local_base = read_bases(&mut common, fields);
    let sliding_window = fields.required_size("sliding_window", MAX_CONTEXT);
    let sliding_layers = read_layers(common.num_hidden_layers, fields);
    let scalar = fields.positive("query_pre_attn_scalar").unwrap_or(DEFAULT_QUERY_SCALAR);
    common.num_key_value_heads?;
    Some(ModelConfiguration {
        rope_local_base_freq: Some(local_base),
        sliding_window: Some(sliding_window?),
        sliding_layers: sliding_layers?,
        query_pre_attn_scalar: Some(scalar),
        ..common.configuration(architecture, fields)?
    })
}

/// The base of the limited layers; those of the others go to `common`. transformers 5 keeps them by kind of layer.
fn read_bases(common: &mut CommonFields, fields: &mut JsonFields) -> f64 {
    let mut local = fields.positive("rope_local_base_freq");
    if let Some(object) = fields.object("rope_parameters") {
        fields.nested("rope_parameters", object, |nested| {
            if let Some(full) = nested.object("full_attention") {
                nested.nested("full_attention", full, |full| {
                    common.rope_theta = full.positive("rope_theta").or(common.rope_theta);
                    common.rope_scaling = read_rope_scaling(full, None);
                });
            }
            if let Some(sliding) = nested.object("sliding_attention") {
                nested.nested("sliding_attention", sliding, |sliding| {
                    local = sliding.positive("rope_theta").or(local);
                    if !matches!(read_rope_scaling(sliding, None), None | Some(RopeScaling::None)) {
                        sliding.problem("rope_type", "a stretched context", "`default`");
                    }
                });
            }
        });
    }
    local.unwrap_or(DEFAULT_LOCAL_BASE)
}

/// By layer, whether the window limits it: by `layer_types`, or every layer but each `sliding_window_pattern`-th.
fn read_layers(layers: Option<usize>, fields: &mut JsonFields) -> Option<Vec<bool>> {
    let pattern = fields.size("sliding_window_pattern", MAX_LAYERS);
    let by_pattern = |pattern: usize| (1..=layers.unwrap_or(0)).map(move |layer| !layer.is_multiple_of(pattern));
    let types = fields.texts("layer_types");
    if types.is_empty() {
        return Some(by_pattern(pattern.unwrap_or(DEFAULT_PATTERN)).collect());
    }
    let mut sliding = Vec::with_capacity(types.len());
    for (index, kind) in types.iter().enumerate() {
        match *kind {
            "sliding_attention" => sliding.push(true),
            "full_attention" => sliding.push(false),
            other => {
                let location = format!("layer_types[{index}]");
                fields.problem(
                    &location,
                    format!("`{other}`"),
                    "`sliding_attention` or `full_attention`",
                );
            }
        }
    }
    let layers = layers?;
    if types.len() != layers {
        fields.problem(
            "layer_types",
            format!("{} layers", types.len()),
            format!("num_hidden_layers, {layers}"),
        );
        return None;
    }
    if sliding.len() != layers {
        return None;
    }
    if let Some(pattern) = pattern
        && !by_pattern(pattern).eq(sliding.iter().copied())
    {
        let found = describe(&pattern.into());
        fields.problem("sliding_window_pattern", found, "the pattern of layer_types");
        return None;
    }
    Some(sliding)
}

fn write(configuration: &ModelConfiguration) -> Map<String, Value> {
    let mut object = write_common(configuration);
    object.shift_remove("hidden_act");
    let kinds = configuration.sliding_layers.iter();
    let kinds: Vec<&str> = kinds
        .map(|&sliding| if sliding { "sliding_attention" } else { "full_attention" })
        .collect();
    // mlx-lm knows patterns only. Where no layer is full, none is reached within the model.
    let pattern = configuration
        .sliding_layers
        .iter()
        .position(|&sliding| !sliding)
        .unwrap_or(configuration.sliding_layers.len());
    let own = json!({
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_local_base_freq": configuration.rope_local_base_freq,
        "query_pre_attn_scalar": configuration.query_pre_attn_scalar,
        "layer_types": kinds,
        "sliding_window_pattern": pattern + 1,
    });
    object.extend(super::family::fields(own));
    object
}

fn tensors(configuration: &ModelConfiguration) -> Vec<ExpectedTensor> {
    let (hidden, inner) = (configuration.hidden_size, configuration.intermediate_size);
    let table = [configuration.vocab_size, hidden];
    let mut list = TensorList::default();
    list.matrix("model.embed_tokens", &table);
    for layer in 0..configuration.num_hidden_layers {
        let path = format!("model.layers.{layer}");
        attention_tensors(&mut list, &path, configuration, false);
        list.norm_less_one(&format!("{path}.self_attn.q_norm"), configuration.head_dim);
        list.norm_less_one(&format!("{path}.self_attn.k_norm"), configuration.head_dim);
        list.matrix(&format!("{path}.mlp.gate_proj"), &[inner, hidden]);
        list.matrix(&format!("{path}.mlp.up_proj"), &[inner, hidden]);
        list.residual_matrix(&format!("{path}.mlp.down_proj"), &[hidden, inner]);
        for norm in [
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ] {
            list.norm_less_one(&format!("{path}.{norm}"), hidden);
        }
    }
    list.norm_less_one("model.norm", hidden);
    if !configuration.tie_word_embeddings {
        list.matrix("lm_head", &table);
    }
    list.finish()
}

#[derive(Debug, Clone, ModuleParameters)]
struct Gemma3Block {
    #[param]
    self_attn: Attention,
    #[param]
    mlp: FeedForward,
    #[param]
    input_layernorm: Norm,
    #[param]
    post_attention_layernorm: Norm,
    #[param]
    pre_feedforward_layernorm: Norm,
    #[param]
    post_feedforward_layernorm: Norm,
}

fn block(
    source: &mut TensorSource,
    index: usize,
    path: &str,
    configuration: &ModelConfiguration,
) -> std::result::Result<Box<dyn Block>, BuildError> {
    Ok(Box::new(Gemma3Block {
        self_attn: attention(source, index, path, configuration)?,
        mlp: FeedForward {
            gate_proj: source.linear(&format!("{path}.mlp.gate_proj"))?,
            up_proj: source.linear(&format!("{path}.mlp.up_proj"))?,
            down_proj: source.linear(&format!("{path}.mlp.down_proj"))?,
            activation: Activation::GeluTanh,
        },
        input_layernorm: source.norm(&format!("{path}.input_layernorm"))?,
        post_attention_layernorm: source.norm(&format!("{path}.post_attention_layernorm"))?,
        pre_feedforward_layernorm: source.norm(&format!("{path}.pre_feedforward_layernorm"))?,
        post_feedforward_layernorm: source.norm(&format!("{path}.post_feedforward_layernorm"))?,
    }))
}

/// The sum, held within what float16 can express, as mlx-lm does: the residual stream of this family outgrows it.
fn residual(stream: &Array, change: &Array) -> Result<Array> {
    if stream.dtype() != Dtype::Float16 {
        return stream.add(change);
    }
    let bound = half::f16::MAX.to_f32();
    let sum = stream.as_dtype(Dtype::Float32)?.add(change.as_dtype(Dtype::Float32)?)?;
    clip(sum, (-bound, bound))?.as_dtype(Dtype::Float16)
}

impl Block for Gemma3Block {
    fn forward(
        &self,
        input: &Array,
        context: &AttentionContext,
        stores: &mut [&mut dyn KeyValueStore],
    ) -> Result<Array> {
        let normed = self.input_layernorm.forward(input)?;
        let attended = self.self_attn.forward(&normed, context, stores)?;
        let middle = residual(input, &self.post_attention_layernorm.forward(&attended)?)?;
        let fed = self.mlp.forward(&self.pre_feedforward_layernorm.forward(&middle)?)?;
        residual(&middle, &self.post_feedforward_layernorm.forward(&fed)?)
    }

    block_parts! {
        attention: self_attn,
        linears: [
            self_attn.q_proj,
            self_attn.k_proj,
            self_attn.v_proj,
            self_attn.o_proj,
            mlp.gate_proj,
            mlp.up_proj,
            mlp.down_proj,
        ],
        norms: [input_layernorm, post_attention_layernorm, pre_feedforward_layernorm, post_feedforward_layernorm],
    }
}
