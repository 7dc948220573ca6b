//! Answers requests of others with the engine.

mod model;

pub use model::{ServedModel, ServedModelError};
