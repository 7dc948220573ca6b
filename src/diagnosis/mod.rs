//! The five phases, in order: they load, train, generate and measure, and leave evidence behind.

mod options;
mod progress;
mod prompts;
mod run;
mod step_recorder;
mod training;

pub use options::{DataSource, DiagnosisOptions, UnknownDtype};
pub use progress::{Progress, Silent};
pub use run::{DiagnosisError, diagnose};
