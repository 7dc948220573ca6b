//! `gpt2` (Radford et al. 2019), `DialoGPT` among others: learned positions, layer norms with biases, and an output
//! layer that is always the embedding. transformers keeps the matrices with rows and columns exchanged (`Conv1D`).

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::macros::ModuleParameters;
use serde_json::{Map, Value, json};

use super::expected_tensor::TensorList;
use super::family::{Family, fields as object_of, unscaled};
use super::{Architecture, ExpectedTensor, StoredForm};
use crate::model::block::block_parts;
use crate::model::configuration::{MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH};
use crate::model::configuration_fields::{GeneralFields, refuse_other_activation, refuse_switches};
use crate::model::json_fields::JsonFields;
use crate::model::tensor_source::TensorSource;
use crate::model::{
    Activation, AttentionContext, Block, BuildError, DecoderNames, Heads, KeyValueStore, Linear, ModelConfiguration,
    Norm, NormKind, RopeScaling,
};

pub(super) static FAMILY: Family = Family {
    model_type: "gpt2",
    class_name: "GPT2LMHeadModel",
    gguf: None,
    names: DecoderNames {
        embedding: "wte",
        positions: Some("wpe"),
        blocks: "h",
        norm: "ln_f",
    },
    norm: NormKind::Layer,
    embedding_scale: unscaled,
    has_window_in_mlx_lm: false,
    read,
    write,
    tensors,
    stored_forms,
    set_aside,
    block,
};

/// transformers' default, also mlx-lm's in every published file.
const DEFAULT_EPSILON: f64 = 1e-5;
/// What files of transformers begin names with: those of the whole model, and those of the bare decoder.
const PREFIXES: [&str; 2] = ["transformer.", ""];
/// Modules that are a `Conv1D` in transformers.
const CONVOLUTIONS: [&str; 4] = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];
/// Buffers that older files hold beside the weights.
const BUFFERS: [(&str, &str); 2] = [
    (
        "attn.bias",
        "the causal mask, which older files of transformers hold as a buffer",
    ),
    (
        "attn.masked_bias",
        "the value of masked attention, which older files of transformers hold as a buffer",
    ),
];

fn read(architecture: Architecture, fields: &mut JsonFields) -> Option<ModelConfiguration> {
    refuse_other_activation(fields, "activation_function", &["gelu_new", "gelu_pytorch_tanh"]);
    refuse_switches(
        fields,
        &["scale_attn_by_inverse_layer_idx", "add_cross_attention"],
        "gpt2",
    );
    for key in ["scale_attn_weights", "tie_word_embeddings"] {
        if fields.boolean(key) == Some(false) {
            fields.problem(key, "false", "true for gpt2");
        }
    }
    let width = fields.required_size("n_embd", MAX_WIDTH);
    let layers = fields.required_size("n_layer", MAX_LAYERS);
    let heads = fields.required_size("n_head", MAX_HEADS);
    let positions = fields.required_size("n_positions", MAX_CONTEXT);
    let vocab_size = fields.required_size("vocab_size", MAX_VOCABULARY);
    let inner = fields.size("n_inner", MAX_WIDTH);
    let epsilon = fields.positive("layer_norm_epsilon").unwrap_or(DEFAULT_EPSILON);
    let general = GeneralFields::read(fields);
    let (width, heads) = (width?, heads?);
    if !width.is_multiple_of(heads) {
        fields.problem("n_embd", width.to_string(), format!("a multiple of n_head, {heads}"));
        return None;
    }
    Some(ModelConfiguration {
        architecture,
        hidden_size: width,
        num_hidden_layers: layers?,
        intermediate_size: inner.unwrap_or(4 * width),
        num_attention_heads: heads,
        num_key_value_heads: heads,
        head_dim: width / heads,
        rms_norm_eps: epsilon,
        vocab_size: vocab_size?,
        rope_theta: 1.0,
        rope_local_base_freq: None,
        partial_rotary_factor: 1.0,
        rope_traditional: false,
        rope_scaling: RopeScaling::None,
        tie_word_embeddings: true,
        max_position_embeddings: positions?,
        attention_bias: true,
        mlp_bias: true,
        sliding_window: None,
        sliding_layers: Vec::new(),
        query_pre_attn_scalar: None,
        experts: None,
        eos_token_ids: general.eos_token_ids,
        bos_token_id: general.bos_token_id,
        dtype: general.dtype,
        quantization: general.quantization,
    })
}

fn write(configuration: &ModelConfiguration) -> Map<String, Value> {
    object_of(json!({
        "activation_function": "gelu_new",
        "n_embd": configuration.hidden_size,
        "n_layer": configuration.num_hidden_layers,
        "n_head": configuration.num_attention_heads,
        "n_inner": configuration.intermediate_size,
        "n_positions": configuration.max_position_embeddings,
        "n_ctx": configuration.max_position_embeddings,
        "layer_norm_epsilon": configuration.rms_norm_eps,
        "vocab_size": configuration.vocab_size,
        "tie_word_embeddings": true,
    }))
}

fn tensors(configuration: &ModelConfiguration) -> Vec<ExpectedTensor> {
    let (width, inner) = (configuration.hidden_size, configuration.intermediate_size);
    let mut list = TensorList::default();
    list.matrix("model.wte", &[configuration.vocab_size, width]);
    list.matrix("model.wpe", &[configuration.max_position_embeddings, width]);
    let norm = |list: &mut TensorList, path: &str| {
        list.norm(path, width);
        list.bias(path, width);
    };
    for layer in 0..configuration.num_hidden_layers {
        let path = |module: &str| format!("model.h.{layer}.{module}");
        norm(&mut list, &path("ln_1"));
        list.matrix(&path("attn.c_attn"), &[3 * width, width]);
        list.bias(&path("attn.c_attn"), 3 * width);
        list.residual_matrix(&path("attn.c_proj"), &[width, width]);
        list.bias(&path("attn.c_proj"), width);
        norm(&mut list, &path("ln_2"));
        list.matrix(&path("mlp.c_fc"), &[inner, width]);
        list.bias(&path("mlp.c_fc"), inner);
        list.residual_matrix(&path("mlp.c_proj"), &[width, inner]);
        list.bias(&path("mlp.c_proj"), width);
    }
    norm(&mut list, "model.ln_f");
    list.finish()
}

fn stored_forms(_: &ModelConfiguration, name: &str) -> Vec<StoredForm> {
    let Some(bare) = name.strip_prefix("model.") else {
        return Vec::new();
    };
    let is_convolution = bare
        .strip_suffix(".weight")
        .is_some_and(|module| CONVOLUTIONS.iter().any(|known| module.ends_with(known)));
    PREFIXES
        .iter()
        .map(|prefix| {
            let name = format!("{prefix}{bare}");
            if is_convolution {
                StoredForm::Transposed(name)
            } else {
                StoredForm::Renamed(name)
            }
        })
        .collect()
}

fn set_aside(name: &str) -> Option<&'static str> {
    let within = PREFIXES
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix)?.strip_prefix("h."))?;
    let (block, buffer) = within.split_once('.')?;
    block.parse::<usize>().ok()?;
    BUFFERS
        .iter()
        .find(|(known, _)| *known == buffer)
        .map(|(_, reason)| *reason)
}

#[derive(Debug, Clone, ModuleParameters)]
struct Gpt2Attention {
    #[param]
    c_attn: Linear,
    #[param]
    c_proj: Linear,
    heads: Heads,
}

impl Gpt2Attention {
    fn forward(
        &self,
        input: &Array,
        context: &AttentionContext,
        stores: &mut [&mut dyn KeyValueStore],
    ) -> Result<Array> {
        let heads = &self.heads;
        let parts = self.c_attn.forward(input)?.split_equal(3, -1)?;
        let split = |part: &Array| heads.split(part, heads.queries);
        let parts = [split(&parts[0])?, split(&parts[1])?, split(&parts[2])?];
        self.c_proj.forward(&heads.attend(&parts, None, context, stores)?)
    }
}

#[derive(Debug, Clone, ModuleParameters)]
struct Gpt2FeedForward {
    #[param]
    c_fc: Linear,
    #[param]
    c_proj: Linear,
}

#[derive(Debug, Clone, ModuleParameters)]
struct Gpt2Block {
    #[param]
    attn: Gpt2Attention,
    #[param]
    mlp: Gpt2FeedForward,
    #[param]
    ln_1: Norm,
    #[param]
    ln_2: Norm,
}

fn block(
    source: &mut TensorSource,
    index: usize,
    path: &str,
    configuration: &ModelConfiguration,
) -> std::result::Result<Box<dyn Block>, BuildError> {
    Ok(Box::new(Gpt2Block {
        attn: Gpt2Attention {
            c_attn: source.linear(&format!("{path}.attn.c_attn"))?,
            c_proj: source.linear(&format!("{path}.attn.c_proj"))?,
            heads: Heads::of(configuration, index),
        },
        mlp: Gpt2FeedForward {
            c_fc: source.linear(&format!("{path}.mlp.c_fc"))?,
            c_proj: source.linear(&format!("{path}.mlp.c_proj"))?,
        },
        ln_1: source.norm(&format!("{path}.ln_1"))?,
        ln_2: source.norm(&format!("{path}.ln_2"))?,
    }))
}

impl Block for Gpt2Block {
    fn forward(
        &self,
        input: &Array,
        context: &AttentionContext,
        stores: &mut [&mut dyn KeyValueStore],
    ) -> Result<Array> {
        let attended = self.attn.forward(&self.ln_1.forward(input)?, context, stores)?;
        let middle = input.add(attended)?;
        let inner = Activation::GeluTanh.apply(self.mlp.c_fc.forward(&self.ln_2.forward(&middle)?)?)?;
        middle.add(self.mlp.c_proj.forward(&inner)?)
    }

    block_parts! {
        attention: attn,
        linears: [
            attn.c_attn,
            attn.c_proj,
            mlp.c_fc,
            mlp.c_proj,
        ],
        norms: [ln_1, ln_2],
    }
}
