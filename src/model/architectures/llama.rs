//! `llama`, and what mistral, qwen2, qwen3 and mixtral have of it.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::macros::ModuleParameters;
use serde_json::{Map, Value, json};

use super::expected_tensor::TensorList;
use super::family::{Family, GgufFamily, fields, no_other_forms, nothing_set_aside, unscaled};
use super::{Architecture, ExpectedTensor};
use crate::model::block::block_parts;
use crate::model::configuration_fields::{
    CommonFields, Defaults, refuse_other_activation, refuse_other_layers, refuse_other_rotation,
};
use crate::model::json_fields::JsonFields;
use crate::model::tensor_source::TensorSource;
use crate::model::{
    Activation, Attention, AttentionContext, Block, BuildError, DecoderNames, FeedForward, Heads, KeyValueStore,
    Linear, ModelConfiguration, Norm, NormKind,
};

pub(super) static FAMILY: Family = Family {
    model_type: "llama",
    class_name: "LlamaForCausalLM",
    gguf: Some(GgufFamily {
        name: "llama",
        biases: |has| (has("blk.0.attn_q.bias"), has("blk.0.ffn_gate.bias")),
    }),
    names: DecoderNames::USUAL,
    norm: NormKind::RootMeanSquare,
    embedding_scale: unscaled,
    has_window_in_mlx_lm: false,
    read,
    write: |configuration| {
        let mut object = write_common(configuration);
        object.insert("attention_bias".to_owned(), configuration.attention_bias.into());
        object.insert("mlp_bias".to_owned(), configuration.mlp_bias.into());
        object
    },
    tensors: |configuration| tensors(configuration, configuration.attention_bias, false),
    stored_forms: no_other_forms,
    set_aside: nothing_set_aside,
    block,
};

fn read(architecture: Architecture, fields: &mut JsonFields) -> Option<ModelConfiguration> {
    refuse_other_computations(fields);
    let defaults = Defaults {
        context: 2048,
        rope_theta: Some(10_000.0),
        tied: Some(true),
        long_rope: false,
    };
    let common = CommonFields::read(&defaults, fields);
    let attention_bias = fields.boolean("attention_bias").unwrap_or(false);
    let mlp_bias = fields.boolean("mlp_bias").unwrap_or(false);
    Some(ModelConfiguration {
        attention_bias,
        mlp_bias,
        ..common.configuration(architecture, fields)?
    })
}

/// Settings of other models that would change the computation without changing any tensor.
pub(super) fn refuse_other_computations(fields: &mut JsonFields) {
    refuse_other_activation(fields, "hidden_act", &["silu", "swish"]);
    refuse_other_rotation(fields);
    refuse_other_layers(fields);
}

/// The fields that llama and its relatives write.
pub(super) fn write_common(configuration: &ModelConfiguration) -> Map<String, Value> {
    let mut object = fields(json!({
        "hidden_act": "silu",
        "hidden_size": configuration.hidden_size,
        "num_hidden_layers": configuration.num_hidden_layers,
        "intermediate_size": configuration.intermediate_size,
        "num_attention_heads": configuration.num_attention_heads,
        "num_key_value_heads": configuration.num_key_value_heads,
        "head_dim": configuration.head_dim,
        "rms_norm_eps": configuration.rms_norm_eps,
        "vocab_size": configuration.vocab_size,
        "rope_theta": configuration.rope_theta,
        "rope_traditional": configuration.rope_traditional,
        "rope_scaling": configuration.rope_scaling_json(),
        "tie_word_embeddings": configuration.tie_word_embeddings,
        "max_position_embeddings": configuration.max_position_embeddings,
    }));
    if let Some(window) = configuration.sliding_window {
        object.insert("sliding_window".to_owned(), window.into());
    }
    object
}

/// The tensors of a llama whose output projection and head norms are as said.
pub(super) fn tensors(configuration: &ModelConfiguration, output_bias: bool, head_norms: bool) -> Vec<ExpectedTensor> {
    let (hidden, inner) = (configuration.hidden_size, configuration.intermediate_size);
    around_blocks(configuration, |list, path| {
        attention_tensors(list, path, configuration, output_bias);
        let mut linear = |module: &str, shape: [usize; 2], residual: bool| {
            let path = format!("{path}.{module}");
            if residual {
                list.residual_matrix(&path, &shape);
            } else {
                list.matrix(&path, &shape);
            }
            if configuration.mlp_bias {
                list.bias(&path, shape[0]);
            }
        };
        linear("mlp.gate_proj", [inner, hidden], false);
        linear("mlp.up_proj", [inner, hidden], false);
        linear("mlp.down_proj", [hidden, inner], true);
        block_norms(list, path, hidden);
        if head_norms {
            list.norm(&format!("{path}.self_attn.q_norm"), configuration.head_dim);
            list.norm(&format!("{path}.self_attn.k_norm"), configuration.head_dim);
        }
    })
}

/// The tensors of embedding, last norm and output layer around those that `block` lists for the path of each block.
pub(super) fn around_blocks(
    configuration: &ModelConfiguration,
    block: impl Fn(&mut TensorList, &str),
) -> Vec<ExpectedTensor> {
    let table = [configuration.vocab_size, configuration.hidden_size];
    let mut list = TensorList::default();
    list.matrix("model.embed_tokens", &table);
    for layer in 0..configuration.num_hidden_layers {
        block(&mut list, &format!("model.layers.{layer}"));
    }
    list.norm("model.norm", configuration.hidden_size);
    if !configuration.tie_word_embeddings {
        list.matrix("lm_head", &table);
    }
    list.finish()
}

/// The projections of attention.
pub(super) fn attention_tensors(
    list: &mut TensorList,
    path: &str,
    configuration: &ModelConfiguration,
    output_bias: bool,
) {
    let hidden = configuration.hidden_size;
    let queries = configuration.num_attention_heads * configuration.head_dim;
    let keys = configuration.num_key_value_heads * configuration.head_dim;
    for (module, rows) in [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)] {
        let path = format!("{path}.self_attn.{module}");
        list.matrix(&path, &[rows, hidden]);
        if configuration.attention_bias {
            list.bias(&path, rows);
        }
    }
    let path = format!("{path}.self_attn.o_proj");
    list.residual_matrix(&path, &[hidden, queries]);
    if output_bias {
        list.bias(&path, hidden);
    }
}

/// The norms before attention and before the feed-forward layer.
pub(super) fn block_norms(list: &mut TensorList, path: &str, hidden: usize) {
    list.norm(&format!("{path}.input_layernorm"), hidden);
    list.norm(&format!("{path}.post_attention_layernorm"), hidden);
}

/// One transformer block with its norms before attention and before the feed-forward layer.
#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct LlamaBlock {
    #[param]
    pub(super) self_attn: Attention,
    #[param]
    pub(super) mlp: FeedForward,
    #[param]
    pub(super) input_layernorm: Norm,
    #[param]
    pub(super) post_attention_layernorm: Norm,
}

pub(super) fn block(
    source: &mut TensorSource,
    index: usize,
    path: &str,
    configuration: &ModelConfiguration,
) -> std::result::Result<Box<dyn Block>, BuildError> {
    Ok(Box::new(LlamaBlock {
        self_attn: attention(source, index, path, configuration)?,
        mlp: FeedForward {
            gate_proj: source.linear(&format!("{path}.mlp.gate_proj"))?,
            up_proj: source.linear(&format!("{path}.mlp.up_proj"))?,
            down_proj: source.linear(&format!("{path}.mlp.down_proj"))?,
            activation: Activation::Silu,
        },
        input_layernorm: source.norm(&format!("{path}.input_layernorm"))?,
        post_attention_layernorm: source.norm(&format!("{path}.post_attention_layernorm"))?,
    }))
}

/// Attention with llama's names; head norms where the files have them.
pub(super) fn attention(
    source: &mut TensorSource,
    index: usize,
    path: &str,
    configuration: &ModelConfiguration,
) -> std::result::Result<Attention, BuildError> {
    Ok(Attention {
        q_proj: source.linear(&format!("{path}.self_attn.q_proj"))?,
        k_proj: source.linear(&format!("{path}.self_attn.k_proj"))?,
        v_proj: source.linear(&format!("{path}.self_attn.v_proj"))?,
        o_proj: source.linear(&format!("{path}.self_attn.o_proj"))?,
        q_norm: source.optional_norm(&format!("{path}.self_attn.q_norm"))?,
        k_norm: source.optional_norm(&format!("{path}.self_attn.k_norm"))?,
        heads: Heads::of(configuration, index),
        rotary: source.rotary(configuration, index),
    })
}

impl Block for LlamaBlock {
    fn forward(
        &self,
        input: &Array,
        context: &AttentionContext,
        stores: &mut [&mut dyn KeyValueStore],
    ) -> Result<Array> {
        let normed = self.input_layernorm.forward(input)?;
        let middle = input.add(self.self_attn.forward(&normed, context, stores)?)?;
        let fed = self.mlp.forward(&self.post_attention_layernorm.forward(&middle)?)?;
        middle.add(fed)
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
        norms: [input_layernorm, post_attention_layernorm],
    }
}
