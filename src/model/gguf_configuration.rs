//! The configuration of a model from the metadata of its GGUF file.

use super::architectures::{Architecture, Biases};
use super::configuration::{
    ConfigurationError, MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH, ModelConfiguration, RopeScaling,
};
use super::gguf_blocks::dequantize;
use super::gguf_header::{GgufHeader, GgufTensorType, GgufValue};
use super::gguf_names::ROPE_FREQUENCIES;
use super::problem::{Problem, Problems};

/// Largest relative difference between stored frequency factors and those that known settings give. The converter
/// computes them in f32, whose rounding over a handful of operations stays below this.
const FREQUENCY_FACTOR_TOLERANCE: f64 = 1e-4;

/// Metadata under the architecture's prefix, with everything wrong collected.
struct Metadata<'header> {
    header: &'header GgufHeader,
    prefix: &'static str,
    problems: Problems,
}

impl Metadata<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn keep<T>(&mut self, value: Result<Option<T>, Problem>) -> Option<T> {
        value.unwrap_or_else(|problem| {
            self.problems.push(problem);
            None
        })
    }

    fn size(&mut self, name: &str, most: u64) -> Option<usize> {
        let key = self.key(name);
        let value = self.keep(self.header.unsigned(&key))?;
        if (1..=most).contains(&value) {
            return usize::try_from(value).ok();
        }
        self.problems.push(Problem::new(
            key,
            value.to_string(),
            format!("a whole number from 1 to {most}"),
        ));
        None
    }

    fn required_size(&mut self, name: &str, most: u64) -> Option<usize> {
        let key = self.key(name);
        if !self.header.metadata.contains_key(&key) {
            self.problems.push(Problem::new(key, "no value", "a whole number"));
            return None;
        }
        self.size(name, most)
    }

    /// A size that may be given once per block, as llama.cpp allows for head counts; all must be equal.
    fn uniform_size(&mut self, name: &str, most: u64) -> Option<usize> {
        let key = self.key(name);
        if !matches!(self.header.metadata.get(&key), Some(GgufValue::Array(_))) {
            return self.size(name, most);
        }
        let values = self.keep(self.header.unsigned_array(&key))?;
        match values.first() {
            Some(&first) if (1..=most).contains(&first) && values.iter().all(|&value| value == first) => {
                usize::try_from(first).ok()
            }
            _ => {
                self.problems.push(Problem::new(
                    key,
                    format!("{values:?}"),
                    format!("the same number from 1 to {most} in every block"),
                ));
                None
            }
        }
    }

    fn positive(&mut self, name: &str) -> Option<f64> {
        let key = self.key(name);
        let value = self.keep(self.header.float(&key))?;
        if value.is_finite() && value > 0.0 {
            return Some(value);
        }
        self.problems
            .push(Problem::new(key, value.to_string(), "a positive number"));
        None
    }

    fn refuse(&mut self, name: &str, found: impl Into<String>, expected: impl Into<String>) {
        let key = self.key(name);
        self.problems.push(Problem::new(key, found, expected));
    }
}

impl ModelConfiguration {
    /// The configuration that a GGUF file's metadata and tensor table describe. The rows of a llama file's `q_proj` and
    /// `k_proj` are in [`rotary_row_order`](super::rotary_row_order).
    ///
    /// # Errors
    /// [`ConfigurationError::UnsupportedArchitecture`], or [`ConfigurationError::Unusable`] with every wrong value.
    pub fn from_gguf(header: &GgufHeader) -> Result<Self, ConfigurationError> {
        let unsupported = |found: String| ConfigurationError::UnsupportedArchitecture {
            path: header.path.clone(),
            found,
        };
        let architecture = match header.text("general.architecture") {
            Ok(Some(name)) => Architecture::of_gguf(name).ok_or_else(|| unsupported(format!("`{name}`")))?,
            Ok(None) => return Err(unsupported("no `general.architecture`".to_owned())),
            Err(problem) => return Err(unsupported(problem.found)),
        };
        let Some(family) = architecture.gguf() else {
            return Err(unsupported(format!("`{architecture}`")));
        };
        let mut metadata = Metadata {
            header,
            prefix: family.name,
            problems: Problems::default(),
        };
        let configuration = read_metadata(architecture, family.biases, &mut metadata);
        let mut problems = metadata.problems;
        if let Some(configuration) = configuration
            && problems.is_empty()
        {
            configuration.check(&mut problems);
            if problems.is_empty() {
                return Ok(configuration);
            }
        }
        Err(ConfigurationError::Unusable {
            path: header.path.clone(),
            problems,
        })
    }
}

fn read_metadata(architecture: Architecture, biases: Biases, metadata: &mut Metadata) -> Option<ModelConfiguration> {
    let header = metadata.header;
    refuse_other_computations(metadata);
    let hidden_size = metadata.required_size("embedding_length", MAX_WIDTH);
    let num_hidden_layers = metadata.required_size("block_count", MAX_LAYERS);
    let intermediate_size = metadata.required_size("feed_forward_length", MAX_WIDTH);
    let num_attention_heads = metadata.required_size("attention.head_count", MAX_HEADS);
    let num_key_value_heads = metadata.uniform_size("attention.head_count_kv", MAX_HEADS);
    let max_position_embeddings = metadata.required_size("context_length", MAX_CONTEXT);
    let rms_norm_eps = metadata.positive("attention.layer_norm_rms_epsilon");
    if rms_norm_eps.is_none() && metadata.problems.is_empty() {
        metadata.refuse("attention.layer_norm_rms_epsilon", "no value", "a positive number");
    }
    let rope_theta = metadata.positive("rope.freq_base").unwrap_or(10_000.0);
    let vocab_size = read_vocabulary_size(metadata);
    let sliding_window = metadata.size("attention.sliding_window", MAX_CONTEXT);
    let head_dim = read_head_size(metadata, hidden_size, num_attention_heads);
    let rope_scaling = read_rope_scaling(metadata, rope_theta, head_dim);
    let mut token_id = |key: &str| {
        let id = metadata.keep(header.unsigned(key));
        id.and_then(|id| u32::try_from(id).ok())
    };
    let eos_token_id = token_id("tokenizer.ggml.eos_token_id");
    let bos_token_id = token_id("tokenizer.ggml.bos_token_id");
    let has = |name: &str| header.tensor(name).is_some();
    let (attention_bias, mlp_bias) = biases(&has);
    Some(ModelConfiguration {
        architecture,
        hidden_size: hidden_size?,
        num_hidden_layers: num_hidden_layers?,
        intermediate_size: intermediate_size?,
        num_attention_heads: num_attention_heads?,
        num_key_value_heads: num_key_value_heads.or(num_attention_heads)?,
        head_dim: head_dim?,
        rms_norm_eps: rms_norm_eps?,
        vocab_size: vocab_size?,
        rope_theta,
        rope_local_base_freq: None,
        partial_rotary_factor: 1.0,
        rope_traditional: false,
        rope_scaling: rope_scaling?,
        tie_word_embeddings: !has("output.weight"),
        max_position_embeddings: max_position_embeddings?,
        attention_bias,
        mlp_bias,
        sliding_window,
        sliding_layers: Vec::new(),
        query_pre_attn_scalar: None,
        experts: None,
        eos_token_ids: eos_token_id.into_iter().collect(),
        bos_token_id,
        dtype: None,
        quantization: None,
    })
}

/// Settings of other models that share the architecture's name.
fn refuse_other_computations(metadata: &mut Metadata) {
    let key = metadata.key("expert_count");
    if let Some(experts) = metadata.keep(metadata.header.unsigned(&key))
        && experts > 0
    {
        metadata.refuse("expert_count", experts.to_string(), "a model without experts");
    }
    for name in ["logit_scale", "residual_scale", "embedding_scale", "attention.scale"] {
        let key = metadata.key(name);
        if let Some(scale) = metadata.keep(metadata.header.float(&key))
            && scale != 0.0
            && scale != 1.0
        {
            metadata.refuse(name, scale.to_string(), "no scale");
        }
    }
}

fn read_vocabulary_size(metadata: &mut Metadata) -> Option<usize> {
    let header = metadata.header;
    let embedding = header.tensor("token_embd.weight").map(|tensor| tensor.shape[0]);
    let declared = metadata.size("vocab_size", MAX_VOCABULARY);
    let tokens = metadata
        .keep(header.texts("tokenizer.ggml.tokens"))
        .map(<[String]>::len);
    match (embedding, declared.or(tokens)) {
        // Embedding tables are often padded beyond the vocabulary, never the other way round.
        (Some(rows), Some(vocabulary)) if rows < vocabulary => {
            metadata.problems.push(Problem::new(
                "token_embd.weight",
                format!("{rows} rows"),
                format!("a row for each of {vocabulary} tokens"),
            ));
            None
        }
        (Some(rows), _) => Some(rows),
        (None, Some(vocabulary)) => Some(vocabulary),
        (None, None) => {
            metadata.refuse("vocab_size", "no value", "a whole number");
            None
        }
    }
}

fn read_head_size(metadata: &mut Metadata, hidden: Option<usize>, heads: Option<usize>) -> Option<usize> {
    let key_length = metadata.size("attention.key_length", MAX_WIDTH);
    let value_length = metadata.size("attention.value_length", MAX_WIDTH);
    let rotated = metadata.size("rope.dimension_count", MAX_WIDTH);
    let head_size = match (key_length, hidden?, heads?) {
        (Some(length), _, _) => length,
        (None, hidden, heads) if hidden.is_multiple_of(heads) => hidden / heads,
        (None, hidden, heads) => {
            metadata.refuse(
                "embedding_length",
                hidden.to_string(),
                format!("a multiple of attention.head_count, {heads}"),
            );
            return None;
        }
    };
    for (name, size) in [
        ("attention.value_length", value_length),
        ("rope.dimension_count", rotated),
    ] {
        if let Some(size) = size
            && size != head_size
        {
            metadata.refuse(name, size.to_string(), format!("the size of a head, {head_size}"));
        }
    }
    Some(head_size)
}

fn read_rope_scaling(metadata: &mut Metadata, base: f64, head_size: Option<usize>) -> Option<RopeScaling> {
    let key = metadata.key("rope.scaling.type");
    let kind = metadata.keep(metadata.header.text(&key));
    // An older key for linear scaling, without a type beside it.
    let older_factor = metadata.positive("rope.scale_linear").filter(|factor| *factor != 1.0);
    let declared = match (kind, older_factor) {
        (None, Some(factor)) => RopeScaling::Linear { factor },
        (None | Some("none"), None) => RopeScaling::None,
        (Some("linear"), _) => {
            let Some(factor) = metadata.positive("rope.scaling.factor").or(older_factor) else {
                metadata.refuse("rope.scaling.factor", "no value", "a positive number");
                return None;
            };
            RopeScaling::Linear { factor }
        }
        (Some(other), _) => {
            metadata.refuse("rope.scaling.type", format!("`{other}`"), "`none` or `linear`");
            return None;
        }
    };
    let Some(tensor) = metadata.header.tensor(ROPE_FREQUENCIES) else {
        return Some(declared);
    };
    let factors = if tensor.tensor_type == GgufTensorType::F32 {
        match metadata.header.tensor_bytes(tensor) {
            Ok(bytes) => dequantize(tensor.tensor_type, &bytes).ok(),
            Err(error) => {
                metadata
                    .problems
                    .push(Problem::new(ROPE_FREQUENCIES, error.to_string(), "readable values"));
                return None;
            }
        }
    } else {
        None
    };
    let scaling = factors
        .filter(|factors| Some(factors.len() * 2) == head_size && declared == RopeScaling::None)
        .and_then(|factors| llama3_settings(&factors, base));
    if scaling.is_none() {
        metadata.problems.push(Problem::new(
            ROPE_FREQUENCIES,
            "frequency factors of an unknown scaling",
            "the factors of Llama 3's scaling, in F32",
        ));
    }
    scaling
}

/// The settings of Llama 3's scaling that give these frequency factors, one per pair of values of a head.
///
/// The longest wavelength has the whole factor. The rest is fixed in every published model: low 1, high 4, context 8192.
fn llama3_settings(factors: &[f32], base: f64) -> Option<RopeScaling> {
    let factor = f64::from(*factors.last()?);
    let (low_freq_factor, high_freq_factor, original) = (1.0, 4.0, 8192);
    if factor.is_nan() || factor <= 0.0 {
        return None;
    }
    if factors.iter().all(|&stored| stored == 1.0) {
        return Some(RopeScaling::None);
    }
    let context = f64::from(original);
    let matches = factors.iter().enumerate().all(|(pair, &stored)| {
        let wavelength = std::f64::consts::TAU * base.powf(pair as f64 / factors.len() as f64);
        let share = ((context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
        let expected = 1.0 / ((1.0 - share) / factor + share);
        (f64::from(stored) - expected).abs() <= FREQUENCY_FACTOR_TOLERANCE * expected
    });
    matches.then_some(RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings: original as usize,
    })
}
