//! Generation: the cache of keys and values, greedy decoding, and an engine in which sequences join and leave while others
//! run.
//!
//! ```text
//! Engine::submit -> Scheduler::plan -> step::compute -> Sampler -> TextStream -> Event
//!  (any thread)     (the engine's thread, once for every token of those that run)
//! ```

mod answer;
mod cache;
#[expect(
    clippy::module_inception,
    reason = "the engine itself is what the folder is named after"
)]
mod engine;
mod generate;
mod incremental_decoder;
mod logit_adjustment;
mod models;
mod request;
mod sampler;
mod sampling_settings;
mod scheduler;
mod scheduler_limits;
mod sequence;
mod statistics;
mod step;
mod step_plan;
mod stop_strings;
mod text_stream;
mod token_filters;
mod waiting_queue;
mod worker;

pub use answer::{Answer, AnswerError, AnswerToken, CompleteAnswer, Event, Finished, Usage};
pub use cache::{CachePrecision, LayerCache, PrefixCache, SequenceCache};
pub use engine::{Engine, EngineModel, EngineSettings, StartError, SubmitError, Ticket};
pub use generate::{DecodeLimits, Decoded, decode_greedily};
pub use request::{
    FinishReason, MAX_STOP_STRING_BYTES, MAX_STOP_STRINGS, MAX_TOP_LOG_PROBABILITIES, Request, RequestError, RequestId,
    RequestLimits,
};
pub use sampler::{LogProbabilities, Sampled, Sampler, SamplerError};
pub use sampling_settings::SamplingSettings;
pub use scheduler::{Refusal, Scheduler, SequenceDemand, Stage};
pub use scheduler_limits::{SchedulerLimits, SchedulerLimitsError};
pub use statistics::{DURATION_BOUNDS, Durations, EngineStatistics};
pub use step_plan::{PrefillChunk, StepPlan, Trace};
pub use text_stream::TextStream;
