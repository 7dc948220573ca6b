//! The five phases, in order: they load, train, generate and measure, and leave evidence behind.

mod costs;
mod options;
mod progress;
mod prompts;
mod refusal;
mod run;
mod state;
mod step_recorder;
mod training;
mod validation_course;

pub use options::{DataSource, DiagnosisOptions, UnknownDtype};
pub use progress::{Progress, Silent};
pub use run::diagnose;
