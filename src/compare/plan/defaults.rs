//! What a plan has where nobody says otherwise, and how far each number may go.

use super::{Format, Limits, ModelPair, Plan};
use crate::compare::scenarios;

/// Each format goes first once, so that what changes with time on the machine falls on both.
const ROUNDS: usize = 2;
/// Enough for a median and its spread in every round.
const REPEATS: usize = 5;
/// The first request pays for memory that is allocated once.
const WARM_UPS: usize = 1;
/// Long enough for a steady time for each token.
const ANSWER_TOKENS: usize = 128;
/// A long document; servers often load models with room for 4,096 tokens, prompt and answer together.
const CONTEXT_TOKENS: usize = 4000;
/// Few enough to be asked in minutes, and enough that a slope stands out of the noise.
const LEAK_REQUESTS: usize = 60;
/// From one user to a small group.
const CONCURRENCY: [usize; 4] = [1, 2, 4, 8];
/// A tenth of a second: a model takes longer to load, and looking costs little.
const MEMORY_INTERVAL_MS: u64 = 100;
/// Large models are read from disk for minutes, and long prompts are silent for minutes.
const LIMITS: Limits = Limits {
    load: 900.0,
    request: 900.0,
    stall: 600.0,
    test: 7200.0,
};
/// Questions of everyday use, each with an answer of some length.
const PROMPTS: [&str; 4] = [
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "List the steps for repairing a flat bicycle tyre.",
    "What should one think of before buying a used car?",
];

impl Plan {
    /// A comparison of these pairs with everything else as it is by default, every scenario included.
    pub fn with_defaults(pairs: Vec<ModelPair>) -> Self {
        Self {
            pairs,
            scenarios: scenarios::names().map(str::to_owned).collect(),
            formats: Format::ALL.to_vec(),
            rounds: ROUNDS,
            repeats: REPEATS,
            warm_ups: WARM_UPS,
            answer_tokens: ANSWER_TOKENS,
            prompts: PROMPTS.map(str::to_owned).to_vec(),
            context_tokens: CONTEXT_TOKENS,
            leak_requests: LEAK_REQUESTS,
            concurrency: CONCURRENCY.to_vec(),
            request_rate: None,
            limits: LIMITS,
            memory_interval_ms: MEMORY_INTERVAL_MS,
            seed: 0,
        }
    }
}

/// How far a number may go.
pub(super) struct Bound {
    /// Its key in configurations.
    pub key: &'static str,
    /// The least, included.
    pub least: f64,
    /// The most, included.
    pub most: f64,
}

const fn bound(key: &'static str, least: f64, most: f64) -> Bound {
    Bound { key, least, most }
}

/// A day in seconds: whoever waits longer has mistaken the unit.
const DAY: f64 = 86_400.0;

/// Every number of a plan. The upper ends only tell a slip from a wish.
pub(super) const BOUNDS: [Bound; 13] = [
    bound("rounds", 1.0, 100.0),
    bound("repeats", 1.0, 10_000.0),
    bound("warm-ups", 0.0, 1000.0),
    // The time for each token after the first needs a second one.
    bound("answer-tokens", 2.0, 100_000.0),
    // Less leaves no room for a prompt beside the system message and the template.
    bound("context-tokens", 256.0, 10_000_000.0),
    // A slope of fewer values says nothing.
    bound("leak-requests", 10.0, 100_000.0),
    // Each request that is under way has a thread of its own.
    bound("concurrency", 1.0, 256.0),
    bound("request-rate", 0.001, 1000.0),
    bound("limits.load", 1.0, DAY),
    bound("limits.request", 1.0, DAY),
    bound("limits.stall", 1.0, DAY),
    bound("limits.test", 1.0, 7.0 * DAY),
    // Below that, looking at memory slows down what is looked at.
    bound("memory-interval", 10.0, 60_000.0),
];
