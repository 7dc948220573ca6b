//! Finds out why a fine-tuned MLX language model answers badly, and says how to fix it.

pub mod adapter;
pub mod atomic_write;
pub mod cli;
pub mod data;
pub mod device;
pub mod diagnosis;
pub mod engine;
pub mod evidence;
pub mod faults;
pub mod interrupt;
pub mod model;
pub mod param_diff;
pub mod param_snapshot;
pub mod probes;
pub mod readback;
pub mod report;
pub mod rules;
pub mod suggestion;
pub mod thresholds;
pub mod train;
pub mod workflow;
