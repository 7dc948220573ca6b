//! Fine-tuning as a user runs it: a configuration becomes a run, and a run leaves a folder that can be resumed.

mod checkpoint;
mod configuration;
mod error;
mod guards;
mod metrics;
mod plan;
mod profile;
mod run;
mod run_folder;
mod run_inputs;
mod run_lock;
mod settings;
mod settings_reader;

pub use checkpoint::{CheckpointError, Progress, RunCheckpoint};
pub use configuration::{Configuration, ConfigurationFileError, Entry, Origin};
pub use error::FineTuningError;
pub use guards::{Guards, Verdict};
pub use metrics::{MetricsError, MetricsFile, MetricsLine, ValidationRecord};
pub use plan::{Plan, PlanError, prepare};
pub use profile::{PROFILES, ProfileError, UnknownProfile, profile};
pub use run::{Observer, RunEnd, RunSummary, run};
pub use run_folder::{RunFolder, RunFolderError, RunRecord};
pub use run_inputs::{OtherInputs, RunInputs};
pub use settings::{
    EarlyStopping, FineTuneSettings, Method, RunLength, ScheduleSettings, ScheduleShape, SettingsError, Validation,
};
