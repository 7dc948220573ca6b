use std::fmt;
use std::hash::{Hash, Hasher};

use serde_json::{Map, Value};

use super::family::{Family, GgufFamily};
use super::{ExpectedTensor, StoredForm, gemma3_text, gpt2, llama, mistral, mixtral, phi3, qwen2, qwen3};
use crate::model::json_fields::JsonFields;
use crate::model::tensor_source::TensorSource;
use crate::model::{Block, BuildError, DecoderNames, ModelConfiguration, NormKind};

/// Every family, the oldest first.
static REGISTRY: [&Family; 8] = [
    &llama::FAMILY,
    &mistral::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &gemma3_text::FAMILY,
    &phi3::FAMILY,
    &mixtral::FAMILY,
    &gpt2::FAMILY,
];

/// A supported family of models, known by its `model_type`.
#[derive(Clone, Copy)]
pub struct Architecture(&'static Family);

impl Architecture {
    /// Every supported architecture.
    pub fn all() -> impl Iterator<Item = Self> {
        REGISTRY.iter().map(|family| Self(family))
    }

    /// The architecture with this `model_type`.
    pub fn named(model_type: &str) -> Option<Self> {
        Self::all().find(|known| known.model_type() == model_type)
    }

    /// The architecture of GGUF files with this `general.architecture`.
    pub fn of_gguf(name: &str) -> Option<Self> {
        Self::all().find(|known| known.gguf_name() == Some(name))
    }

    /// The name in `model_type`.
    pub fn model_type(self) -> &'static str {
        self.0.model_type
    }

    /// The name in `architectures`.
    pub fn class_name(self) -> &'static str {
        self.0.class_name
    }

    /// The name in the `general.architecture` of GGUF files; `None` when its GGUF files are not read.
    pub fn gguf_name(self) -> Option<&'static str> {
        self.gguf().map(|gguf| gguf.name)
    }

    /// What mlx-lm calls the parts of its decoder.
    pub fn names(self) -> DecoderNames {
        self.0.names
    }

    /// Whether positions are turned into queries and keys; otherwise they are learned vectors.
    pub fn is_rotary(self) -> bool {
        self.0.names.positions.is_none()
    }

    pub(in crate::model) fn gguf(self) -> Option<&'static GgufFamily> {
        self.0.gguf.as_ref()
    }

    pub(in crate::model) fn norm_kind(self) -> NormKind {
        self.0.norm
    }

    pub(in crate::model) fn has_window_in_mlx_lm(self) -> bool {
        self.0.has_window_in_mlx_lm
    }

    pub(in crate::model) fn embedding_scale(self, configuration: &ModelConfiguration) -> Option<f32> {
        (self.0.embedding_scale)(configuration)
    }

    pub(in crate::model) fn read(self, fields: &mut JsonFields) -> Option<ModelConfiguration> {
        (self.0.read)(self, fields)
    }

    pub(in crate::model) fn write(self, configuration: &ModelConfiguration) -> Map<String, Value> {
        (self.0.write)(configuration)
    }

    pub(in crate::model) fn tensors(self, configuration: &ModelConfiguration) -> Vec<ExpectedTensor> {
        (self.0.tensors)(configuration)
    }

    pub(in crate::model) fn stored_forms(self, configuration: &ModelConfiguration, name: &str) -> Vec<StoredForm> {
        (self.0.stored_forms)(configuration, name)
    }

    pub(in crate::model) fn set_aside(self, name: &str) -> Option<&'static str> {
        (self.0.set_aside)(name)
    }

    pub(in crate::model) fn block(
        self,
        source: &mut TensorSource,
        index: usize,
        configuration: &ModelConfiguration,
    ) -> Result<Box<dyn Block>, BuildError> {
        let path = format!("{}{index}", self.0.names.block_prefix());
        (self.0.block)(source, index, &path, configuration)
    }
}

impl fmt::Debug for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Architecture({})", self.model_type())
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.model_type())
    }
}

impl PartialEq for Architecture {
    fn eq(&self, other: &Self) -> bool {
        self.model_type() == other.model_type()
    }
}

impl Eq for Architecture {}

impl Hash for Architecture {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.model_type().hash(state);
    }
}
