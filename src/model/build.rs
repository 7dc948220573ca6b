use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::module::Param;
use mlx_rs::nn::RmsNorm;
use thiserror::Error;

use super::{
    Attention, Block, CausalModel, Checkpoint, Decoder, Embedding, FeedForward, Linear, ModelConfiguration,
    RopeScaling, RotaryEmbedding, StoredTensor, Wavelengths, llama3_wavelengths,
};

/// A tensor that the configuration expects is not in the checkpoint: the check of the checkpoint and the construction of
/// the model disagree about a name.
#[derive(Debug, Error)]
#[error("no tensor `{0}` to build the model from")]
pub struct BuildError(String);

/// Makes the decoder that `configuration` describes from a checked checkpoint.
pub fn build_model(configuration: &ModelConfiguration, checkpoint: Checkpoint) -> Result<CausalModel, BuildError> {
    let rotary = rotary(configuration, checkpoint.wavelength_factors.as_deref());
    let mut source = Source {
        tensors: checkpoint.tensors,
        eps: configuration.rms_norm_eps as f32,
    };
    let layers = (0..configuration.num_hidden_layers)
        .map(|index| source.block(&format!("model.layers.{index}"), configuration, &rotary))
        .collect::<Result<_, _>>()?;
    Ok(CausalModel {
        model: Decoder {
            embed_tokens: source.embedding("model.embed_tokens")?,
            layers,
            norm: source.norm("model.norm")?,
        },
        lm_head: if configuration.tie_word_embeddings {
            None
        } else {
            Some(source.linear("lm_head")?)
        },
    })
}

struct Source {
    tensors: BTreeMap<String, StoredTensor>,
    eps: f32,
}

impl Source {
    fn take(&mut self, name: &str) -> Result<StoredTensor, BuildError> {
        self.tensors.remove(name).ok_or_else(|| BuildError(name.to_owned()))
    }

    fn plain(&mut self, name: &str) -> Result<Array, BuildError> {
        match self.take(name)? {
            StoredTensor::Plain(array) => Ok(array),
            StoredTensor::Packed { .. } => Err(BuildError(format!("{name} in plain form"))),
        }
    }

    fn linear(&mut self, path: &str) -> Result<Linear, BuildError> {
        let bias_name = format!("{path}.bias");
        let bias = if self.tensors.contains_key(&bias_name) {
            Some(self.plain(&bias_name)?)
        } else {
            None
        };
        Ok(match self.take(&format!("{path}.weight"))? {
            StoredTensor::Plain(weight) => Linear::new(weight, bias),
            StoredTensor::Packed {
                weight,
                scales,
                biases,
                packing,
            } => Linear::packed(weight, scales, biases, bias, packing),
        })
    }

    fn embedding(&mut self, path: &str) -> Result<Embedding, BuildError> {
        Ok(match self.take(&format!("{path}.weight"))? {
            StoredTensor::Plain(weight) => Embedding::new(weight),
            StoredTensor::Packed {
                weight,
                scales,
                biases,
                packing,
            } => Embedding::packed(weight, scales, biases, packing),
        })
    }

    fn norm(&mut self, path: &str) -> Result<RmsNorm, BuildError> {
        Ok(RmsNorm {
            weight: Param::new(self.plain(&format!("{path}.weight"))?),
            eps: self.eps,
        })
    }

    fn optional_norm(&mut self, path: &str) -> Result<Option<RmsNorm>, BuildError> {
        if self.tensors.contains_key(&format!("{path}.weight")) {
            self.norm(path).map(Some)
        } else {
            Ok(None)
        }
    }

    fn block(
        &mut self,
        path: &str,
        configuration: &ModelConfiguration,
        rotary: &RotaryEmbedding,
    ) -> Result<Block, BuildError> {
        Ok(Block {
            self_attn: Attention {
                q_proj: self.linear(&format!("{path}.self_attn.q_proj"))?,
                k_proj: self.linear(&format!("{path}.self_attn.k_proj"))?,
                v_proj: self.linear(&format!("{path}.self_attn.v_proj"))?,
                o_proj: self.linear(&format!("{path}.self_attn.o_proj"))?,
                q_norm: self.optional_norm(&format!("{path}.self_attn.q_norm"))?,
                k_norm: self.optional_norm(&format!("{path}.self_attn.k_norm"))?,
                heads: configuration.num_attention_heads as i32,
                key_value_heads: configuration.num_key_value_heads as i32,
                head_dimensions: configuration.head_dim as i32,
                rotary: rotary.clone(),
            },
            mlp: FeedForward {
                gate_proj: self.linear(&format!("{path}.mlp.gate_proj"))?,
                up_proj: self.linear(&format!("{path}.mlp.up_proj"))?,
                down_proj: self.linear(&format!("{path}.mlp.down_proj"))?,
            },
            input_layernorm: self.norm(&format!("{path}.input_layernorm"))?,
            post_attention_layernorm: self.norm(&format!("{path}.post_attention_layernorm"))?,
        })
    }
}

fn rotary(configuration: &ModelConfiguration, factors: Option<&[f32]>) -> RotaryEmbedding {
    let dimensions = configuration.head_dim as i32;
    let base = configuration.rope_theta as f32;
    let given =
        |wavelengths: Vec<f32>| Wavelengths::Given(Array::from_slice(&wavelengths, &[wavelengths.len() as i32]));
    let mut rotary = RotaryEmbedding {
        dimensions,
        traditional: configuration.rope_traditional,
        wavelengths: Wavelengths::Base(base),
        position_scale: 1.0,
    };
    match configuration.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => rotary.position_scale = (1.0 / factor) as f32,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            rotary.wavelengths = given(llama3_wavelengths(
                dimensions,
                base,
                factor as f32,
                low_freq_factor as f32,
                high_freq_factor as f32,
                original_max_position_embeddings as f32,
            ));
        }
    }
    if let Some(factors) = factors {
        rotary.wavelengths = given(
            factors
                .iter()
                .enumerate()
                .map(|(pair, factor)| base.powf(2.0 * pair as f32 / dimensions as f32) * factor)
                .collect(),
        );
    }
    rotary
}
