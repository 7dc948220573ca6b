//! `mistral`: llama without biases, with a window on attention.

use super::Architecture;
use super::family::{Family, no_other_forms, nothing_set_aside, unscaled};
use super::llama::{block, refuse_other_computations, tensors, write_common};
use crate::model::configuration::MAX_CONTEXT;
use crate::model::configuration_fields::{CommonFields, Defaults, limit_every_layer, refuse_switches};
use crate::model::json_fields::JsonFields;
use crate::model::{DecoderNames, ModelConfiguration, NormKind};

pub(super) static FAMILY: Family = Family {
    model_type: "mistral",
    class_name: "MistralForCausalLM",
    gguf: None,
    names: DecoderNames::USUAL,
    norm: NormKind::RootMeanSquare,
    embedding_scale: unscaled,
    has_window_in_mlx_lm: false,
    read,
    write: write_common,
    tensors: |configuration| tensors(configuration, false, false),
    stored_forms: no_other_forms,
    set_aside: nothing_set_aside,
    block,
};

fn read(architecture: Architecture, fields: &mut JsonFields) -> Option<ModelConfiguration> {
    refuse_other_computations(fields);
    let defaults = Defaults {
        context: 4096 * 32,
        rope_theta: Some(10_000.0),
        // mlx-lm reads it as llama, which is tied.
        tied: Some(true),
        long_rope: false,
    };
    let common = CommonFields::read(&defaults, fields);
    refuse_switches(fields, &["attention_bias", "mlp_bias"], "mistral");
    let window = fields.size("sliding_window", MAX_CONTEXT);
    let mut configuration = common.configuration(architecture, fields)?;
    limit_every_layer(&mut configuration, window);
    Some(configuration)
}
