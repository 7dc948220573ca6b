//! `qwen2`: llama with biases on query, key and value.

use super::Architecture;
use super::family::{Family, GgufFamily, no_other_forms, nothing_set_aside, unscaled};
use super::llama::{block, refuse_other_computations, tensors, write_common};
use crate::model::configuration::MAX_CONTEXT;
use crate::model::configuration_fields::{CommonFields, Defaults};
use crate::model::json_fields::JsonFields;
use crate::model::{DecoderNames, ModelConfiguration, NormKind};

pub(super) static FAMILY: Family = Family {
    model_type: "qwen2",
    class_name: "Qwen2ForCausalLM",
    gguf: Some(GgufFamily {
        name: "qwen2",
        biases: |_| (true, false),
    }),
    names: DecoderNames::USUAL,
    norm: NormKind::RootMeanSquare,
    embedding_scale: unscaled,
    has_window_in_mlx_lm: false,
    read,
    write: |configuration| {
        let mut object = write_common(configuration);
        if configuration.sliding_window.is_some() {
            object.insert("use_sliding_window".to_owned(), true.into());
        }
        object
    },
    tensors: |configuration| tensors(configuration, false, false),
    stored_forms: no_other_forms,
    set_aside: nothing_set_aside,
    block,
};

fn read(architecture: Architecture, fields: &mut JsonFields) -> Option<ModelConfiguration> {
    refuse_other_computations(fields);
    let defaults = Defaults {
        context: 32768,
        rope_theta: Some(1_000_000.0),
        tied: Some(true),
        long_rope: false,
    };
    let common = CommonFields::read(&defaults, fields);
    let sliding_window = declared_window(fields);
    Some(ModelConfiguration {
        attention_bias: true,
        sliding_window,
        ..common.configuration(architecture, fields)?
    })
}

/// The window, where the file has it in use. Which layers it limits is not read: attention is full, as in mlx-lm.
pub(super) fn declared_window(fields: &mut JsonFields) -> Option<usize> {
    let window = fields.size("sliding_window", MAX_CONTEXT);
    let in_use = fields.boolean("use_sliding_window").unwrap_or(false);
    window.filter(|_| in_use)
}
