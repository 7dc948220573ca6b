//! The supported families of models, each in the file that is named like its `model_type`.
//!
//! A file holds everything that belongs to a family: how its configuration is read and written, which tensors it has
//! and what they are called in files, and how its blocks are built and computed. To add one, write its file and put its
//! `FAMILY` into the list of `registry.rs`.

mod expected_tensor;
mod family;
mod gemma3_text;
mod gpt2;
mod llama;
mod mistral;
mod mixtral;
mod phi3;
mod qwen2;
mod qwen3;
mod registry;
mod stored_form;

pub(super) use expected_tensor::{ExpectedTensor, TensorRole};
pub(super) use family::Biases;
pub use registry::Architecture;
pub(super) use stored_form::StoredForm;
