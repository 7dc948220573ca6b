//! One binary for all integration tests, by theme.

#![allow(
    clippy::expect_used,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that cannot go on stops, and one that skips says why"
)]

mod architecture;
mod checks;
mod command_line;
mod data;
mod data_audit;
mod diagnosis;
mod environment;
mod external_generators;
mod external_trainers;
mod finished_adapters;
mod finished_models;
mod foreign_architectures;
mod forward_parity;
mod golden;
mod html_report;
mod hub;
mod manual;
mod memory;
mod model_files;
mod new_rule;
mod pack_folder;
mod pipeline_report;
mod refusals;
mod regression;
mod report;
mod rerun;
mod rule_cases;
mod rules;
mod saved_state;
mod selftest;
mod situations;
mod stop_rows;
mod tokenizer;
mod torch_backend;
mod training_logs;
mod training_parity;
mod training_probes;
mod variants;
