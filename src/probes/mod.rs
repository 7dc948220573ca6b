//! Measurements: each module measures one thing and returns one evidence value.
//!
//! Probes know models and data; they know no rule, and nothing of what a user may have done wrong.

pub mod data;
pub mod generation;
pub mod parameters;
pub mod repetition;
pub mod state;
pub mod voice;
