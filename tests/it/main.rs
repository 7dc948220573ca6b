//! One binary for all integration tests, by theme.

#![allow(
    clippy::expect_used,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that cannot go on stops, and one that skips says why"
)]

mod adapted_layers;
mod architecture;
mod architecture_parity;
mod architecture_registry;
mod batches;
mod bench;
mod bench_baseline;
mod bench_energy;
mod bench_report;
mod bench_samples;
mod bundled_templates;
mod cached_models;
mod checks;
mod command_line;
mod conversion;
mod cpu_kernels;
mod data;
mod data_audit;
mod data_formats;
mod diagnosis;
mod engine;
mod engine_requests;
mod engine_sampler;
mod engine_scheduler;
mod engine_text_stream;
mod environment;
mod external_generators;
mod external_trainers;
mod fine_tuning_refusals;
mod fine_tuning_runs;
mod finished_adapters;
mod finished_models;
mod foreign_architectures;
mod forward_parity;
mod golden;
mod hostile_files;
mod html_report;
mod hub;
mod lora;
mod manual;
mod memory;
mod model_configuration;
mod model_files;
mod new_rule;
mod optimizers;
mod pack_folder;
mod packing_modes;
mod peers;
mod pipeline_report;
mod refusals;
mod regression;
mod report;
mod rerun;
mod routing;
mod rule_cases;
mod rules;
mod run_configuration;
mod saved_state;
mod selftest;
mod serving;
mod shipped_files;
mod situations;
mod stop_rows;
mod supervision;
mod tokenizer;
mod torch_backend;
mod training_logs;
mod training_parity;
mod training_primitives;
mod training_probes;
mod variants;
mod weight_conversion;
mod weight_files;
