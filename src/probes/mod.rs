//! Measurements: each module measures one thing and returns one evidence value.
//!
//! Probes know models and data; they know no rule, and nothing of what a user may have done wrong.

pub mod adapter_files;
pub mod cross_check;
pub mod data;
pub mod divergence;
pub mod fit;
pub mod foreign_base;
pub mod fuse;
pub mod generation;
pub mod generator_readings;
pub mod gradient_check;
pub mod loss_check;
pub mod next_token;
pub mod optimizer_recorder;
pub mod optimizer_replay;
pub mod pairing;
pub mod parameters;
pub mod reload;
pub mod repetition;
pub mod routing;
pub mod state;
pub mod stop_rows;
pub mod update_size;
pub mod validation;
pub mod voice;
