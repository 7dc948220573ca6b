//! The checks, a file for each category.

pub(super) mod arithmetic;
mod array;
pub(super) mod bits;
pub(super) mod checkpoints;
pub(super) mod device;
pub(super) mod engine;
pub(super) mod goldens;
pub(super) mod gradients;
pub(super) mod kernels;
pub(super) mod lora;
pub(super) mod memory;
