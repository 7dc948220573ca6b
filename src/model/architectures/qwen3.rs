//! `qwen3`: llama with a norm on every query and key head.

use super::Architecture;
use super::family::{Family, GgufFamily, no_other_forms, nothing_set_aside, unscaled};
use super::llama::{block, refuse_other_computations, tensors, write_common};
use super::qwen2::declared_window;
use crate::model::configuration_fields::{CommonFields, Defaults, refuse_switches};
use crate::model::json_fields::JsonFields;
use crate::model::{DecoderNames, ModelConfiguration, NormKind};

pub(super) static FAMILY: Family = Family {
    model_type: "qwen3",
    class_name: "Qwen3ForCausalLM",
    gguf: Some(GgufFamily {
        name: "qwen3",
        biases: |_| (false, false),
    }),
    names: DecoderNames::USUAL,
    norm: NormKind::RootMeanSquare,
    embedding_scale: unscaled,
    has_window_in_mlx_lm: false,
    read,
    write: |configuration| {
        let mut object = write_common(configuration);
        object.insert("attention_bias".to_owned(), configuration.attention_bias.into());
        if configuration.sliding_window.is_some() {
            object.insert("use_sliding_window".to_owned(), true.into());
        }
        object
    },
    tensors: |configuration| tensors(configuration, false, true),
    stored_forms: no_other_forms,
    set_aside: nothing_set_aside,
    block,
};

fn read(architecture: Architecture, fields: &mut JsonFields) -> Option<ModelConfiguration> {
    refuse_other_computations(fields);
    let defaults = Defaults {
        context: 32768,
        // mlx-lm wants both said.
        rope_theta: None,
        tied: None,
        long_rope: false,
    };
    let common = CommonFields::read(&defaults, fields);
    refuse_switches(fields, &["attention_bias", "mlp_bias"], "qwen3");
    let sliding_window = declared_window(fields);
    Some(ModelConfiguration {
        sliding_window,
        ..common.configuration(architecture, fields)?
    })
}
