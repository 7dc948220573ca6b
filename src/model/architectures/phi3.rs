//! `phi3`: llama with one matrix for query, key and value, and one for gate and up, which may turn only a part of a
//! head.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::macros::ModuleParameters;
use serde_json::{Map, Value};

use super::family::{Family, no_other_forms, nothing_set_aside, unscaled};
use super::llama::{around_blocks, block_norms, write_common};
use super::{Architecture, ExpectedTensor};
use crate::model::block::block_parts;
use crate::model::configuration::MAX_CONTEXT;
use crate::model::configuration_fields::{
    CommonFields, Defaults, limit_every_layer, refuse_other_activation, refuse_other_layers, refuse_switches,
};
use crate::model::json_fields::JsonFields;
use crate::model::tensor_source::TensorSource;
use crate::model::{
    Activation, AttentionContext, Block, BuildError, DecoderNames, Heads, KeyValueStore, Linear, ModelConfiguration,
    Norm, NormKind, RopeScaling, RotaryEmbedding,
};

pub(super) static FAMILY: Family = Family {
    model_type: "phi3",
    class_name: "Phi3ForCausalLM",
    gguf: None,
    names: DecoderNames::USUAL,
    norm: NormKind::RootMeanSquare,
    embedding_scale: unscaled,
    has_window_in_mlx_lm: false,
    read,
    write,
    tensors,
    stored_forms: no_other_forms,
    set_aside: nothing_set_aside,
    block,
};

fn read(architecture: Architecture, fields: &mut JsonFields) -> Option<ModelConfiguration> {
    refuse_other_activation(fields, "hidden_act", &["silu", "swish"]);
    refuse_other_layers(fields);
    let defaults = Defaults {
        context: 4096,
        rope_theta: Some(10_000.0),
        tied: Some(false),
        long_rope: true,
    };
    let common = CommonFields::read(&defaults, fields);
    refuse_switches(fields, &["attention_bias", "mlp_bias", "rope_interleaved"], "phi3");
    let window = fields.size("sliding_window", MAX_CONTEXT);
    let share = read_share(fields);
    let mut configuration = common.configuration(architecture, fields)?;
    configuration.partial_rotary_factor = share?;
    limit_every_layer(&mut configuration, window);
    Some(configuration)
}

/// `partial_rotary_factor`, which transformers 5 keeps in `rope_parameters`.
fn read_share(fields: &mut JsonFields) -> Option<f64> {
    let mut share = fields.positive("partial_rotary_factor");
    if let Some(object) = fields.object("rope_parameters") {
        let inner = fields.nested("rope_parameters", object, |nested| {
            nested.positive("partial_rotary_factor")
        });
        share = share.or(inner);
    }
    let share = share.unwrap_or(1.0);
    if share > 1.0 {
        fields.problem("partial_rotary_factor", share.to_string(), "at most 1");
        return None;
    }
    Some(share)
}

fn write(configuration: &ModelConfiguration) -> Map<String, Value> {
    let mut object = write_common(configuration);
    object.insert(
        "partial_rotary_factor".to_owned(),
        configuration.partial_rotary_factor.into(),
    );
    if let RopeScaling::LongRope {
        original_max_position_embeddings,
        ..
    } = configuration.rope_scaling
    {
        object.insert(
            "original_max_position_embeddings".to_owned(),
            original_max_position_embeddings.into(),
        );
    }
    object
}

fn tensors(configuration: &ModelConfiguration) -> Vec<ExpectedTensor> {
    let (hidden, inner) = (configuration.hidden_size, configuration.intermediate_size);
    let queries = configuration.num_attention_heads * configuration.head_dim;
    let keys = configuration.num_key_value_heads * configuration.head_dim;
    around_blocks(configuration, |list, path| {
        list.matrix(&format!("{path}.self_attn.qkv_proj"), &[queries + 2 * keys, hidden]);
        list.residual_matrix(&format!("{path}.self_attn.o_proj"), &[hidden, queries]);
        list.matrix(&format!("{path}.mlp.gate_up_proj"), &[2 * inner, hidden]);
        list.residual_matrix(&format!("{path}.mlp.down_proj"), &[hidden, inner]);
        block_norms(list, path, hidden);
    })
}

#[derive(Debug, Clone, ModuleParameters)]
struct Phi3Attention {
    #[param]
    qkv_proj: Linear,
    #[param]
    o_proj: Linear,
    heads: Heads,
    rotary: RotaryEmbedding,
}

impl Phi3Attention {
    fn forward(
        &self,
        input: &Array,
        context: &AttentionContext,
        stores: &mut [&mut dyn KeyValueStore],
    ) -> Result<Array> {
        let heads = &self.heads;
        let queries = heads.queries * heads.dimensions;
        let keys = heads.keys * heads.dimensions;
        let parts = self
            .qkv_proj
            .forward(input)?
            .split_at_indices(&[queries, queries + keys], -1)?;
        let queries = heads.split(&parts[0], heads.queries)?;
        let keys = heads.split(&parts[1], heads.keys)?;
        let values = heads.split(&parts[2], heads.keys)?;
        let merged = heads.attend(&[queries, keys, values], Some(&self.rotary), context, stores)?;
        self.o_proj.forward(&merged)
    }
}

#[derive(Debug, Clone, ModuleParameters)]
struct Phi3FeedForward {
    #[param]
    gate_up_proj: Linear,
    #[param]
    down_proj: Linear,
}

impl Phi3FeedForward {
    fn forward(&self, input: &Array) -> Result<Array> {
        let parts = self.gate_up_proj.forward(input)?.split_equal(2, -1)?;
        let inner = Activation::Silu.gate(parts[0].clone(), &parts[1])?;
        self.down_proj.forward(&inner)
    }
}

#[derive(Debug, Clone, ModuleParameters)]
struct Phi3Block {
    #[param]
    self_attn: Phi3Attention,
    #[param]
    mlp: Phi3FeedForward,
    #[param]
    input_layernorm: Norm,
    #[param]
    post_attention_layernorm: Norm,
}

fn block(
    source: &mut TensorSource,
    index: usize,
    path: &str,
    configuration: &ModelConfiguration,
) -> std::result::Result<Box<dyn Block>, BuildError> {
    Ok(Box::new(Phi3Block {
        self_attn: Phi3Attention {
            qkv_proj: source.linear(&format!("{path}.self_attn.qkv_proj"))?,
            o_proj: source.linear(&format!("{path}.self_attn.o_proj"))?,
            heads: Heads::of(configuration, index),
            rotary: source.rotary(configuration, index),
        },
        mlp: Phi3FeedForward {
            gate_up_proj: source.linear(&format!("{path}.mlp.gate_up_proj"))?,
            down_proj: source.linear(&format!("{path}.mlp.down_proj"))?,
        },
        input_layernorm: source.norm(&format!("{path}.input_layernorm"))?,
        post_attention_layernorm: source.norm(&format!("{path}.post_attention_layernorm"))?,
    }))
}

impl Block for Phi3Block {
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
            self_attn.qkv_proj,
            self_attn.o_proj,
            mlp.gate_up_proj,
            mlp.down_proj,
        ],
        norms: [input_layernorm, post_attention_layernorm],
    }
}
