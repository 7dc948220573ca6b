use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::module::Param;

use super::{
    BuildError, Embedding, Heads, Linear, ModelConfiguration, Norm, NormKind, RopeScaling, RotaryEmbedding,
    StoredTensor, SwitchLinear, Wavelengths, llama3_wavelengths,
};

/// The tensors of a checked checkpoint, from which blocks take theirs.
#[derive(Debug)]
pub(super) struct TensorSource {
    tensors: BTreeMap<String, StoredTensor>,
    norm: NormKind,
    eps: f32,
    /// Factors on the rotary wavelengths, where the files give them as a tensor.
    wavelength_factors: Option<Vec<f32>>,
}

impl TensorSource {
    pub(super) fn new(
        configuration: &ModelConfiguration,
        tensors: BTreeMap<String, StoredTensor>,
        wavelength_factors: Option<Vec<f32>>,
    ) -> Self {
        Self {
            tensors,
            norm: configuration.architecture.norm_kind(),
            eps: configuration.rms_norm_eps as f32,
            wavelength_factors,
        }
    }

    fn take(&mut self, name: &str) -> Result<StoredTensor, BuildError> {
        self.tensors.remove(name).ok_or_else(|| BuildError(name.to_owned()))
    }

    fn plain(&mut self, name: &str) -> Result<Array, BuildError> {
        match self.take(name)? {
            StoredTensor::Plain(array) => Ok(array),
            StoredTensor::Packed(_) => Err(BuildError(format!("{name} in plain form"))),
        }
    }

    fn optional(&mut self, name: &str) -> Result<Option<Array>, BuildError> {
        if self.tensors.contains_key(name) {
            self.plain(name).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The linear layer at `path`, with a bias where there is one.
    pub(super) fn linear(&mut self, path: &str) -> Result<Linear, BuildError> {
        let bias = self.optional(&format!("{path}.bias"))?;
        Ok(match self.take(&format!("{path}.weight"))? {
            StoredTensor::Plain(weight) => Linear::new(weight, bias),
            StoredTensor::Packed(matrix) => Linear::packed(matrix, bias),
        })
    }

    /// The layer of experts at `path`.
    pub(super) fn switch_linear(&mut self, path: &str) -> Result<SwitchLinear, BuildError> {
        Ok(match self.take(&format!("{path}.weight"))? {
            StoredTensor::Plain(weight) => SwitchLinear::new(weight),
            StoredTensor::Packed(matrix) => SwitchLinear::packed(matrix),
        })
    }

    /// The table of vectors at `path`.
    pub(super) fn embedding(&mut self, path: &str) -> Result<Embedding, BuildError> {
        Ok(match self.take(&format!("{path}.weight"))? {
            StoredTensor::Plain(weight) => Embedding::new(weight),
            StoredTensor::Packed(matrix) => Embedding::packed(matrix),
        })
    }

    /// The norm at `path`, of the family's kind.
    pub(super) fn norm(&mut self, path: &str) -> Result<Norm, BuildError> {
        Ok(Norm {
            weight: Param::new(self.plain(&format!("{path}.weight"))?),
            bias: Param::new(self.optional(&format!("{path}.bias"))?),
            kind: self.norm,
            eps: self.eps,
        })
    }

    /// The norm at `path`; `None` when there is none.
    pub(super) fn optional_norm(&mut self, path: &str) -> Result<Option<Norm>, BuildError> {
        if self.tensors.contains_key(&format!("{path}.weight")) {
            self.norm(path).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The position encoding of layer `index`.
    pub(super) fn rotary(&self, configuration: &ModelConfiguration, index: usize) -> RotaryEmbedding {
        let local = configuration.rope_local_base_freq;
        match local.filter(|_| configuration.is_sliding(index)) {
            Some(base) => plain_rotary(configuration, base as f32),
            None => rotary(configuration, self.wavelength_factors.as_deref()),
        }
    }
}

impl Heads {
    /// The heads of layer `index`.
    pub(super) fn of(configuration: &ModelConfiguration, index: usize) -> Self {
        let scalar = configuration.query_pre_attn_scalar;
        Self {
            queries: configuration.num_attention_heads as i32,
            keys: configuration.num_key_value_heads as i32,
            dimensions: configuration.head_dim as i32,
            scale: scalar
                .map_or(configuration.head_dim as f32, |scalar| scalar as f32)
                .powf(-0.5),
            window: configuration.window(index),
        }
    }
}

fn plain_rotary(configuration: &ModelConfiguration, base: f32) -> RotaryEmbedding {
    RotaryEmbedding {
        dimensions: configuration.rotary_dimensions() as i32,
        traditional: configuration.rope_traditional,
        wavelengths: Wavelengths::Base(base),
        position_scale: 1.0,
        amplitude: 1.0,
    }
}

fn rotary(configuration: &ModelConfiguration, factors: Option<&[f32]>) -> RotaryEmbedding {
    let base = configuration.rope_theta as f32;
    let mut rotary = plain_rotary(configuration, base);
    let dimensions = rotary.dimensions;
    let given =
        |wavelengths: Vec<f32>| Wavelengths::Given(Array::from_slice(&wavelengths, &[wavelengths.len() as i32]));
    let multiplied = |factors: &mut dyn Iterator<Item = f32>| {
        factors
            .enumerate()
            .map(|(pair, factor)| base.powf(2.0 * pair as f32 / dimensions as f32) * factor)
            .collect()
    };
    match &configuration.rope_scaling {
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
                *factor as f32,
                *low_freq_factor as f32,
                *high_freq_factor as f32,
                *original_max_position_embeddings as f32,
            ));
        }
        RopeScaling::LongRope {
            long_factor,
            original_max_position_embeddings,
            ..
        } => {
            rotary.wavelengths = given(multiplied(&mut long_factor.iter().map(|&factor| factor as f32)));
            let original = *original_max_position_embeddings as f64;
            rotary.amplitude = long_rope_amplitude(configuration.max_position_embeddings as f64, original);
        }
    }
    if let Some(factors) = factors {
        rotary.wavelengths = given(multiplied(&mut factors.iter().copied()));
    }
    rotary
}

/// Factor on rotated values of a context stretched from `original` tokens (Ding et al. 2024, arXiv 2402.13753).
fn long_rope_amplitude(context: f64, original: f64) -> f32 {
    let stretch = context / original;
    if stretch <= 1.0 {
        return 1.0;
    }
    (1.0 + stretch.ln() / original.ln()).sqrt() as f32
}
