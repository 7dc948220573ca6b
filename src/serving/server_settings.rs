//! What a server gives away, and to whom.

use std::time::Duration;

use super::ApiKey;

/// How a model is served.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// What requests call the model without an adapter; adapters go by their names.
    pub model_id: String,
    /// Tokens of one answer at most.
    pub max_tokens: usize,
    /// Bytes of a request's body at most.
    pub body_bytes: usize,
    /// How long the head of a request may take, and then its body.
    pub read_time: Duration,
    /// Connections at one time; others wait to be accepted.
    pub connections: usize,
    /// How long running answers may go on when the server is asked to stop.
    pub grace: Duration,
    /// What requests have to bring, if anything. Without one only this machine may ask.
    pub api_key: Option<ApiKey>,
}

impl ServerSettings {
    /// The settings that hold unless others are given, for a model that is called `model_id`.
    pub fn new(model_id: &str) -> Self {
        Self {
            model_id: model_id.to_owned(),
            // With the engine's 32768 tokens of keys and values, eight answers without a length of their own can run.
            max_tokens: 4096,
            body_bytes: 2_000_000,
            read_time: Duration::from_secs(30),
            // All bodies together stay below a gigabyte.
            connections: 512,
            grace: Duration::from_secs(30),
            api_key: None,
        }
    }
}
