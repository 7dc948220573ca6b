//! What is measured: one file for each scenario, and one line here.
//!
//! A [`Scenario`] runs on a [`Stage`], which holds the server and records everything that happens on it.

mod arrivals;
mod asking;
mod cold_start;
mod concurrency;
mod context_stress;
mod filler;
mod memory_leak;
mod mixture;
mod nonce;
mod page_cache;
mod quality;
mod requests;
mod simple_generation;
mod stage;
mod thresholds;

use super::servers::LoadRequest;
use super::{Failure, ModelPair, Plan};

pub use arrivals::Arrivals;
pub use requests::Order;
pub use stage::{Progress, Routing, Setting, Stage, StartWatch, Watch, watch_memory};

/// Every scenario, in the order in which they are run.
pub const SCENARIOS: &[&dyn Scenario] = &[
    &cold_start::ColdStart,
    &simple_generation::SimpleGeneration,
    &context_stress::ContextStress,
    &memory_leak::MemoryLeak,
    &mixture::Mixture,
    &concurrency::Concurrency,
    &quality::Quality,
];

/// One way of using a server, and what is measured while it is used so.
pub trait Scenario: Sync {
    /// In kebab-case, as in configurations.
    fn name(&self) -> &'static str;

    /// What it measures, in one line without a final period.
    fn summary(&self) -> &'static str;

    /// Whether there is anything to measure with this pair.
    ///
    /// # Errors
    /// Why not, in one sentence without a final period.
    fn applies(&self, plan: &Plan, pair: &ModelPair) -> Result<(), String> {
        let _ = (plan, pair);
        Ok(())
    }

    /// How often it is run with each format. Scenarios that a second round tells nothing new are run once.
    fn rounds(&self, plan: &Plan) -> usize {
        plan.rounds
    }

    /// What the model is loaded with.
    fn needs(&self, plan: &Plan) -> LoadRequest;

    /// Runs it once with one format. What is still loaded at the end is unloaded.
    ///
    /// # Errors
    /// It cannot go on, or has nothing to measure here after all.
    fn run(&self, stage: &mut Stage<'_>) -> Result<(), Stop>;
}

/// Why a scenario ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// There is nothing to measure; why, in one sentence without a final period.
    Skip(String),
    /// It could not go on.
    Failure(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// Counts tokens as the model does.
pub trait TokenCounter {
    /// Tokens of a text without a chat template and without special tokens.
    ///
    /// # Errors
    /// The text cannot be encoded; why, in one line.
    fn count(&self, text: &str) -> Result<usize, String>;
}

/// Names of all scenarios in their order.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|scenario| scenario.name())
}
