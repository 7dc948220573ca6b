use serde::{Deserialize, Serialize};

/// What made the inputs unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The configuration is absent, broken or of an unknown architecture.
    Configuration,
    /// Files that the shard index names are absent, or the index is broken.
    Shards,
    /// A weight file ends before its header says, or is no weight file.
    WeightFile,
    /// Tensors are missing, unknown or of another shape than the configuration says.
    Tensors,
    /// The output layer is in the files though the configuration ties it to the embedding, or the other way round.
    TiedOutput,
    /// Packed tensors do not fit the bits and group size of the configuration, or one of the two is absent.
    Packing,
    /// Another library packed the weights.
    ForeignPacking,
    /// Weights hold NaN or infinity.
    NonFiniteWeights,
    /// Finite weights become infinite in the element type that they are computed in.
    WeightsOverflow,
    /// The tokenizer is absent or broken.
    Tokenizer,
    /// The data holds conversations and the tokenizer has no chat template.
    ChatTemplateMissing,
    /// The chat template fails on the data.
    ChatTemplateFailed,
    /// Lines of the data cannot be used.
    DataFormat,
    /// Adapter settings that name no module of the model, or more than it has.
    AdapterTargets,
    /// Something else.
    Other,
}

/// Why nothing could be measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// What kind of input is at fault.
    pub kind: RefusalKind,
    /// The error's headline.
    pub headline: String,
    /// The whole error, its hints included.
    pub error: String,
}
