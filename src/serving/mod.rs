//! Answers requests of others with the engine: a model with its adapters, and OpenAI's HTTP interface to it.
//!
//! ```text
//! Server -> router -> request body -> chat or completion request -> Engine -> Answers -> JSON, or server-sent events
//! ```
//!
//! Source of the interface: <https://platform.openai.com/docs/api-reference>. What it allows and this server cannot do is
//! refused by name; nothing that would change an answer is passed over.

mod answers;
mod api_error;
mod api_key;
mod cache_room;
mod chat_completions;
mod completions;
mod event_stream;
mod fields;
mod generation_options;
mod health;
mod logprobs;
mod metrics;
mod model;
mod models;
mod reply;
mod request_body;
mod response_counts;
mod router;
mod server;
mod server_settings;
mod service;

pub use api_key::ApiKey;
pub use cache_room::{cache_bytes_per_token, cache_tokens};
pub use model::{ServedModel, ServedModelError};
pub use server::{Listener, Server, ServerError, Stopper};
pub use server_settings::ServerSettings;
