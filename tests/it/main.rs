//! One binary for all integration tests, by theme.

#![allow(
    clippy::expect_used,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that cannot go on stops, and one that skips says why"
)]

mod data;
mod forward_parity;
mod hub;
mod model_files;
mod report;
mod rules;
mod situations;
mod tokenizer;
