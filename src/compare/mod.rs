//! MLX against GGUF through the servers that people use: which of two formats of one model serves better on this machine, and
//! whether either leaks.
//!
//! Data flows one way: a [`Plan`] says what is compared, `scenarios` ask `servers` through the `client` while `memory` is
//! watched, a [`Record`] holds everything that was measured, `analysis` judges it without measuring anything, and `report`
//! shows it.

pub mod analysis;
mod cache_folder;
pub mod client;
pub mod memory;
mod plan;
mod record;
pub mod report;
pub mod run;
pub mod scenarios;
pub mod servers;

pub use cache_folder::cache_folder;
pub use plan::{
    ConfigurationError, ConfiguredPlan, Format, Limits, ModelPair, Plan, PlanProblem, PlanProblems, ServerKind, Side,
};
pub use record::{
    AnswerTimes, Failure, FailureKind, Figure, FolderLock, Loaded, LockError, Machine, MemoryRecord, MemorySample,
    Outcome, Phase, ProcessSample, RECORD_SCHEMA_VERSION, Record, RequestRecord, Results, ResultsError, ResultsFolder,
    ServerDescription, ServerTimings, Start, TestKey, TestRecord, Unit, Usage,
};
