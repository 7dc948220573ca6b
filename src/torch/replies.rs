use serde::Deserialize;

/// What the worker says of itself when it is ready.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Greeting {
    /// Version of the protocol.
    pub protocol: u64,
    /// Version of python.
    pub python: String,
    /// Version of torch.
    pub torch: String,
    /// Version of transformers.
    pub transformers: String,
    /// Devices that torch can use, the fastest first; `cpu` is always among them.
    pub devices: Vec<String>,
}

/// A model in the worker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadedThere {
    /// Its `model_type`.
    pub architecture: String,
    /// Values of all its parameters.
    pub values: u64,
}

/// Adapters on the model in the worker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attached {
    /// Layers that carry one.
    pub modules: usize,
}

/// A backward pass.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gradients {
    /// Mean loss per supervised token in nats; `None` when it is not finite.
    pub loss: Option<f64>,
    /// Euclidean norm over all gradients; `None` when it is not finite.
    pub norm: Option<f64>,
    /// Adapter tensors whose gradient is exactly zero, sorted.
    pub zero: Vec<String>,
    /// Adapter tensors whose gradient is not finite, sorted.
    pub not_finite: Vec<String>,
}

/// What greedy decoding gave.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoded {
    /// Every token, stop tokens among them.
    pub tokens: Vec<u32>,
    /// Whether it ended because the logits held a NaN or an infinity.
    pub not_finite: bool,
}

/// A loss.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Loss {
    pub(super) loss: Option<f64>,
}

/// Logits that were written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Logits {
    pub(super) shape: Vec<usize>,
}

/// Tensors that were written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saved {
    pub(super) tensors: usize,
}

/// A count of updates.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stepped {
    pub(super) updates: u64,
}

/// Memory of the process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    pub(super) peak: u64,
}

/// Nothing to say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Done {}

/// One line of the worker.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reply {
    /// The request that it answers.
    pub(super) id: Option<u64>,
    pub(super) result: Option<serde_json::Value>,
    pub(super) error: Option<Refusal>,
}

/// Why a request was not met.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refusal {
    pub(super) kind: String,
    pub(super) message: String,
}
