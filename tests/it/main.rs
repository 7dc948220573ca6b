//! One binary for all integration tests. A module is a category: `cargo test lora::` runs those of adapters.

#![allow(
    clippy::expect_used,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that cannot go on stops, and one that skips says why"
)]

/// What tests of several categories share.
mod support {
    pub mod golden;
    pub mod interrupting;
    pub mod moved_adapter;
    pub mod replay_server;
    pub mod short_diagnosis;
    pub mod situations;
    pub mod skip;
    pub mod temporary;
    pub mod tolerances;
}

/// The training pipeline from end to end: loading, forward, backward, loss, checkpoints, errors and going on after them,
/// and what is done where another program or backend is absent.
mod integration {
    pub mod architecture_parity;
    pub mod distributed;
    pub mod distributed_diagnosis;
    pub mod distributed_training;
    pub mod external_generators;
    pub mod external_trainers;
    pub mod fine_tuning_refusals;
    pub mod fine_tuning_runs;
    pub mod five_phases;
    pub mod foreign_architectures;
    pub mod forward_parity;
    pub mod open_handles;
    pub mod refusals;
    pub mod saved_state;
    pub mod temporary_folders;
    pub mod torch_backend;
    pub mod training_parity;
    pub mod training_steps;
    pub mod verification;
}

/// Files of other programs and of earlier versions. `tests/mlx_versions.rs` has the releases of MLX.
mod compatibility {
    pub mod conversion;
    pub mod earlier_schemas;
    pub mod hostile_files;
    pub mod model_files;
    pub mod pack_folder;
    pub mod packing_modes;
    pub mod rank_records;
    pub mod training_logs;
    pub mod weight_conversion;
    pub mod weight_files;
}

/// `diagnose bench`, comparison with other programs, and with an earlier run.
mod benchmark {
    pub mod baseline;
    pub mod energy;
    pub mod peers;
    pub mod program;
    pub mod regression;
    pub mod report;
    pub mod samples;
}

/// Single parts.
mod unit {
    pub mod architecture;
    pub mod architecture_registry;
    pub mod batches;
    pub mod bundled_templates;
    pub mod cached_models;
    pub mod checks;
    pub mod cpu_kernels;
    pub mod data;
    pub mod data_audit;
    pub mod data_formats;
    pub mod environment;
    pub mod error_texts;
    pub mod golden_files;
    pub mod hub;
    pub mod memory;
    pub mod model_configuration;
    pub mod optimizers;
    pub mod parameter_differences;
    pub mod routing;
    pub mod supervision;
    pub mod tokenizer;
    pub mod training_primitives;
}

/// Low-rank adapters.
mod lora {
    pub mod adapted_layers;
    pub mod finished_adapters;
    pub mod finished_models;
    pub mod parts;
}

/// Rules, probes, the fault matrix, and reports.
mod diagnosis {
    pub mod html_report;
    pub mod new_rule;
    pub mod pipeline_report;
    pub mod report;
    pub mod rerun;
    pub mod rule_cases;
    pub mod rules;
    pub mod selftest;
    pub mod stop_rows;
    pub mod training_probes;
    pub mod variants;
}

/// Continuous batching, and the server on it.
mod engine {
    pub mod batching;
    pub mod requests;
    pub mod running_server;
    pub mod sampler;
    pub mod scheduler;
    pub mod serving;
    pub mod serving_lifetime;
    pub mod serving_refusals;
    pub mod text_stream;
}

/// `diagnose compare`.
mod compare {
    pub mod analysis;
    pub mod analysis_completeness;
    pub mod analysis_leak;
    pub mod analysis_quality;
    pub mod analysis_records;
    pub mod analysis_sides;
    pub mod analysis_statistics;
    pub mod analysis_verdict;
    pub mod analysis_warnings;
    pub mod client;
    pub mod fake_server;
    pub mod memory;
    pub mod plan;
    pub mod report;
    pub mod report_plots;
    pub mod report_situations;
    pub mod run;
    pub mod scenarios;
    pub mod servers;
    pub mod servers_lm_studio;
    pub mod servers_ollama;
}

/// Arguments, configurations, help, and what comes with the program.
mod command_line {
    pub mod help;
    pub mod manual;
    pub mod program;
    pub mod run_configuration;
    pub mod shipped_files;
}
