//! `mixtral`: llama with a mixture of experts in the place of the feed-forward layer (Jiang et al. 2024, arXiv
//! 2401.04088).

use mlx_rs::error::Result;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::ops::indexing::take_along_axis;
use mlx_rs::ops::{argpartition_axis, argsort, floor_divide, multiply, softmax_axis};
use mlx_rs::{Array, stop_gradient};
use serde_json::{Map, Value};

use super::family::{Family, nothing_set_aside, unscaled};
use super::llama::{around_blocks, attention, attention_tensors, block_norms, refuse_other_computations, write_common};
use super::{Architecture, ExpectedTensor, StoredForm};
use crate::model::block::block_parts;
use crate::model::configuration::MAX_CONTEXT;
use crate::model::configuration_fields::{CommonFields, Defaults, limit_every_layer, refuse_switches};
use crate::model::json_fields::JsonFields;
use crate::model::tensor_source::TensorSource;
use crate::model::{
    Activation, Adaptable, Attention, AttentionContext, Block, BuildError, DecoderNames, ExpertIndices, Experts,
    KeyValueStore, Linear, ModelConfiguration, Norm, NormKind, SwitchLinear,
};

/// Far above any published model; a larger number is a damaged or hostile file.
const MAX_EXPERTS: u64 = 1 << 12;
/// Rows from which it pays to sort them by expert, as in mlx-lm.
const SORTED_ROWS: usize = 64;

pub(super) static FAMILY: Family = Family {
    model_type: "mixtral",
    class_name: "MixtralForCausalLM",
    gguf: None,
    names: DecoderNames::USUAL,
    norm: NormKind::RootMeanSquare,
    embedding_scale: unscaled,
    has_window_in_mlx_lm: false,
    read,
    write,
    tensors,
    stored_forms,
    set_aside: nothing_set_aside,
    block,
};

fn read(architecture: Architecture, fields: &mut JsonFields) -> Option<ModelConfiguration> {
    refuse_other_computations(fields);
    let defaults = Defaults {
        context: 4096 * 32,
        rope_theta: Some(1_000_000.0),
        tied: Some(false),
        long_rope: false,
    };
    let common = CommonFields::read(&defaults, fields);
    refuse_switches(fields, &["attention_bias", "mlp_bias"], "mixtral");
    let window = fields.size("sliding_window", MAX_CONTEXT);
    let num_local_experts = fields.required_size("num_local_experts", MAX_EXPERTS);
    let num_experts_per_tok = fields.required_size("num_experts_per_tok", MAX_EXPERTS);
    let mut configuration = common.configuration(architecture, fields)?;
    configuration.experts = Some(Experts {
        num_local_experts: num_local_experts?,
        num_experts_per_tok: num_experts_per_tok?,
    });
    limit_every_layer(&mut configuration, window);
    Some(configuration)
}

fn write(configuration: &ModelConfiguration) -> Map<String, Value> {
    let mut object = write_common(configuration);
    if let Some(experts) = configuration.experts {
        object.insert("num_local_experts".to_owned(), experts.num_local_experts.into());
        object.insert("num_experts_per_tok".to_owned(), experts.num_experts_per_tok.into());
    }
    object
}

fn expert_count(configuration: &ModelConfiguration) -> usize {
    configuration.experts.map_or(0, |experts| experts.num_local_experts)
}

fn tensors(configuration: &ModelConfiguration) -> Vec<ExpectedTensor> {
    let (hidden, inner) = (configuration.hidden_size, configuration.intermediate_size);
    let experts = expert_count(configuration);
    around_blocks(configuration, |list, path| {
        attention_tensors(list, path, configuration, false);
        let moe = format!("{path}.block_sparse_moe");
        list.matrix(&format!("{moe}.gate"), &[experts, hidden]);
        list.matrix(&format!("{moe}.switch_mlp.gate_proj"), &[experts, inner, hidden]);
        list.matrix(&format!("{moe}.switch_mlp.up_proj"), &[experts, inner, hidden]);
        list.residual_matrix(&format!("{moe}.switch_mlp.down_proj"), &[experts, hidden, inner]);
        block_norms(list, path, hidden);
    })
}

/// One tensor per expert on the hub; transformers 5 has them stacked in memory, gate and up in one.
fn stored_forms(configuration: &ModelConfiguration, name: &str) -> Vec<StoredForm> {
    let Some((block, module)) = name.split_once(".block_sparse_moe.") else {
        return Vec::new();
    };
    let one_per_expert = |matrix: &str| {
        let experts = 0..expert_count(configuration);
        let name = |expert: usize| format!("{block}.block_sparse_moe.experts.{expert}.{matrix}.weight");
        StoredForm::Stacked(experts.map(name).collect())
    };
    let half = |part: usize| StoredForm::Part {
        name: format!("{block}.mlp.experts.gate_up_proj"),
        part,
        parts: 2,
    };
    match module {
        "gate.weight" => vec![
            StoredForm::Renamed(name.to_owned()),
            StoredForm::Renamed(format!("{block}.mlp.gate.weight")),
        ],
        "switch_mlp.gate_proj.weight" => vec![one_per_expert("w1"), half(0)],
        "switch_mlp.up_proj.weight" => vec![one_per_expert("w3"), half(1)],
        "switch_mlp.down_proj.weight" => vec![
            one_per_expert("w2"),
            StoredForm::Renamed(format!("{block}.mlp.experts.down_proj")),
        ],
        _ => Vec::new(),
    }
}

/// The gated feed-forward layer of every expert.
#[derive(Debug, Clone, ModuleParameters)]
#[expect(clippy::struct_field_names, reason = "they are the names of the parameters")]
struct SwitchFeedForward {
    #[param]
    gate_proj: SwitchLinear,
    #[param]
    up_proj: SwitchLinear,
    #[param]
    down_proj: SwitchLinear,
}

impl SwitchFeedForward {
    /// Applies the experts `indices` `[batch, tokens, chosen]` to `input` `[batch, tokens, hidden]`, giving
    /// `[batch, tokens, chosen, hidden]`.
    fn forward(&self, input: &Array, indices: &Array) -> Result<Array> {
        if indices.size() < SORTED_ROWS {
            let rows = input.expand_dims_axes(&[-2, -3])?;
            let experts = ExpertIndices {
                indices: indices.clone(),
                sorted: false,
            };
            return self.each(&rows, &experts)?.squeeze_axes(&[-2]);
        }
        let chosen = indices.dim(-1);
        let flat = indices.reshape(&[-1])?;
        let order = argsort(&flat)?;
        let rows = input
            .reshape(&[-1, 1, input.dim(-1)])?
            .take_axis(floor_divide(&order, Array::from_int(chosen))?, 0)?;
        let experts = ExpertIndices {
            indices: flat.take_axis(&order, 0)?,
            sorted: true,
        };
        let served = self.each(&rows, &experts)?.take_axis(argsort(&order)?, 0)?;
        served.reshape(&[input.dim(0), input.dim(1), chosen, -1])
    }

    fn each(&self, rows: &Array, experts: &ExpertIndices) -> Result<Array> {
        let gates = self.gate_proj.forward(rows, experts)?;
        let inner = Activation::Silu.gate(gates, &self.up_proj.forward(rows, experts)?)?;
        self.down_proj.forward(&inner, experts)
    }
}

#[derive(Debug, Clone, ModuleParameters)]
struct MixtureOfExperts {
    /// `[experts, hidden]`: how well each expert suits a token.
    #[param]
    gate: Linear,
    #[param]
    switch_mlp: SwitchFeedForward,
    /// Experts that each token takes.
    chosen: i32,
}

impl MixtureOfExperts {
    /// What the experts make of `input` `[batch, tokens, hidden]`, and which of them each token was sent to,
    /// `[batch, tokens, chosen]`.
    fn forward(&self, input: &Array) -> Result<(Array, Array)> {
        let gates = self.gate.forward(input)?;
        let order = argpartition_axis(gates.negative()?, self.chosen - 1, -1)?;
        let best = Array::from_iter(0..self.chosen, &[self.chosen]);
        let indices = stop_gradient(order.take_axis(best, -1)?)?;
        let scores = softmax_axis(take_along_axis(&gates, &indices, -1)?, -1, true)?;
        let served = self.switch_mlp.forward(input, &indices)?;
        let output = multiply(served, scores.expand_dims(-1)?)?.sum_axis(-2, false)?;
        Ok((output, indices))
    }
}

#[derive(Debug, Clone, ModuleParameters)]
struct MixtralBlock {
    #[param]
    self_attn: Attention,
    #[param]
    block_sparse_moe: MixtureOfExperts,
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
    let moe = format!("{path}.block_sparse_moe");
    Ok(Box::new(MixtralBlock {
        self_attn: attention(source, index, path, configuration)?,
        block_sparse_moe: MixtureOfExperts {
            gate: source.linear(&format!("{moe}.gate"))?,
            switch_mlp: SwitchFeedForward {
                gate_proj: source.switch_linear(&format!("{moe}.switch_mlp.gate_proj"))?,
                up_proj: source.switch_linear(&format!("{moe}.switch_mlp.up_proj"))?,
                down_proj: source.switch_linear(&format!("{moe}.switch_mlp.down_proj"))?,
            },
            chosen: configuration.experts.map_or(0, |experts| experts.num_experts_per_tok) as i32,
        },
        input_layernorm: source.norm(&format!("{path}.input_layernorm"))?,
        post_attention_layernorm: source.norm(&format!("{path}.post_attention_layernorm"))?,
    }))
}

impl Block for MixtralBlock {
    fn forward(
        &self,
        input: &Array,
        context: &AttentionContext,
        stores: &mut [&mut dyn KeyValueStore],
    ) -> Result<Array> {
        Ok(self.forward_with_experts(input, context, stores)?.0)
    }

    fn forward_with_experts(
        &self,
        input: &Array,
        context: &AttentionContext,
        stores: &mut [&mut dyn KeyValueStore],
    ) -> Result<(Array, Option<Array>)> {
        let normed = self.input_layernorm.forward(input)?;
        let middle = input.add(self.self_attn.forward(&normed, context, stores)?)?;
        let (fed, experts) = self
            .block_sparse_moe
            .forward(&self.post_attention_layernorm.forward(&middle)?)?;
        Ok((middle.add(fed)?, Some(experts)))
    }

    block_parts! {
        attention: self_attn,
        linears: [
            self_attn.q_proj,
            self_attn.k_proj,
            self_attn.v_proj,
            self_attn.o_proj,
            block_sparse_moe.gate,
        ],
        norms: [input_layernorm, post_attention_layernorm],
    }

    fn switch_linears(&self) -> Vec<(&'static str, &SwitchLinear)> {
        let experts = &self.block_sparse_moe.switch_mlp;
        vec![
            ("block_sparse_moe.switch_mlp.gate_proj", &experts.gate_proj),
            ("block_sparse_moe.switch_mlp.up_proj", &experts.up_proj),
            ("block_sparse_moe.switch_mlp.down_proj", &experts.down_proj),
        ]
    }

    fn adaptable_mut(&mut self) -> Vec<(&'static str, &mut dyn Adaptable)> {
        let experts = &mut self.block_sparse_moe.switch_mlp;
        vec![
            ("self_attn.q_proj", &mut self.self_attn.q_proj),
            ("self_attn.k_proj", &mut self.self_attn.k_proj),
            ("self_attn.v_proj", &mut self.self_attn.v_proj),
            ("self_attn.o_proj", &mut self.self_attn.o_proj),
            ("block_sparse_moe.gate", &mut self.block_sparse_moe.gate),
            ("block_sparse_moe.switch_mlp.gate_proj", &mut experts.gate_proj),
            ("block_sparse_moe.switch_mlp.up_proj", &mut experts.up_proj),
            ("block_sparse_moe.switch_mlp.down_proj", &mut experts.down_proj),
        ]
    }
}
