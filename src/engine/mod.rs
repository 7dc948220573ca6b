//! Generation: the cache of keys and values, greedy decoding, and the parts of the continuous-batching engine that need
//! no model: requests, the scheduler, the sampler and the stream of text.

mod cache;
mod generate;
mod incremental_decoder;
mod logit_adjustment;
mod request;
mod sampler;
mod sampling_settings;
mod scheduler;
mod scheduler_limits;
mod step_plan;
mod stop_strings;
mod text_stream;
mod token_filters;
mod waiting_queue;

pub use cache::{KeyValueCache, caches};
pub use generate::{DecodeLimits, Decoded, decode_greedily};
pub use request::{
    FinishReason, MAX_STOP_STRING_BYTES, MAX_STOP_STRINGS, MAX_TOP_LOG_PROBABILITIES, Request, RequestError, RequestId,
    RequestLimits,
};
pub use sampler::{LogProbabilities, Sampled, Sampler, SamplerError};
pub use sampling_settings::SamplingSettings;
pub use scheduler::{Refusal, Scheduler, SequenceDemand, Stage};
pub use scheduler_limits::{SchedulerLimits, SchedulerLimitsError};
pub use step_plan::{PrefillChunk, StepPlan, Trace};
pub use text_stream::TextStream;
