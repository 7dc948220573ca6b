use serde_json::{Map, Value};

use super::{Architecture, ExpectedTensor, StoredForm};
use crate::model::json_fields::JsonFields;
use crate::model::tensor_source::TensorSource;
use crate::model::{Block, BuildError, DecoderNames, ModelConfiguration, NormKind};

/// Everything that the program has to know of one family of models.
#[derive(Debug)]
pub(in crate::model) struct Family {
    /// The name in `model_type`.
    pub(super) model_type: &'static str,
    /// The name in `architectures`.
    pub(super) class_name: &'static str,
    /// How its GGUF files say it; `None` when they are not read.
    pub(super) gguf: Option<GgufFamily>,
    /// What mlx-lm calls the parts of the decoder.
    pub(super) names: DecoderNames,
    /// The kind of the last norm.
    pub(super) norm: NormKind,
    /// The factor on the token vectors; `None` for 1.
    pub(super) embedding_scale: fn(&ModelConfiguration) -> Option<f32>,
    /// Whether mlx-lm honours the family's attention window.
    pub(super) has_window_in_mlx_lm: bool,
    /// Reads the fields of a `config.json`, noting everything that is wrong; `None` when one is missing or wrong.
    pub(super) read: fn(Architecture, &mut JsonFields) -> Option<ModelConfiguration>,
    /// The fields of a `config.json`, but for the names of the architecture, special tokens, element type and packing.
    pub(super) write: fn(&ModelConfiguration) -> Map<String, Value>,
    /// Every tensor in the order of the computation.
    pub(super) tensors: fn(&ModelConfiguration) -> Vec<ExpectedTensor>,
    /// The other forms in which files hold the tensor of this name, transformers' own first.
    pub(super) stored_forms: fn(&ModelConfiguration, &str) -> Vec<StoredForm>,
    /// Why a tensor of the files is no weight of the model and is left out; `None` for every other.
    pub(super) set_aside: fn(&str) -> Option<&'static str>,
    /// Makes the block of this number and path.
    pub(super) block: MakeBlock,
}

/// Takes a block's tensors, given its number and path.
type MakeBlock = fn(&mut TensorSource, usize, &str, &ModelConfiguration) -> Result<Box<dyn Block>, BuildError>;

/// Says of attention and of feed-forward layers whether they have biases, given whether the file has a tensor.
pub(in crate::model) type Biases = fn(HasTensor<'_>) -> (bool, bool);

/// Whether a file has a tensor of a name.
type HasTensor<'file> = &'file dyn Fn(&str) -> bool;

/// How a family's GGUF files are marked.
#[derive(Debug)]
pub(in crate::model) struct GgufFamily {
    /// `general.architecture`.
    pub(in crate::model) name: &'static str,
    /// Whether query, key and value projections, and the feed-forward ones, have biases.
    pub(in crate::model) biases: Biases,
}

/// No factor on the token vectors.
pub(super) fn unscaled(_: &ModelConfiguration) -> Option<f32> {
    None
}

/// Files that hold every tensor as the model has it.
pub(super) fn no_other_forms(_: &ModelConfiguration, _: &str) -> Vec<StoredForm> {
    Vec::new()
}

/// Files of which nothing is left out.
pub(super) fn nothing_set_aside(_: &str) -> Option<&'static str> {
    None
}

/// The object of a `json!` literal.
pub(super) fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
