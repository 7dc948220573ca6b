//! PyTorch as a second backend: a Python program that computes what it is asked for, one JSON line at a time.

mod error;
mod replies;
mod worker;

pub use error::WorkerError;
pub use replies::{Attached, Decoded, Gradients, Greeting, LoadedThere};
pub use worker::{AdamWSettings, GenerateRequest, LoadRequest, Rows, Worker};
