//! The five phases, in order: they load, train, generate and measure, and leave evidence behind.

mod by_torch;
mod costs;
mod cross_check;
mod elsewhere;
mod finished;
mod foreign;
mod hand_over;
mod inputs;
mod log_alone;
mod options;
mod phases;
mod progress;
mod prompts;
mod refusal;
mod row_fit;
mod run;
mod state;
mod step_recorder;
mod swap;
mod together;
mod training;
mod validation_course;

pub use log_alone::diagnose_log;
pub use options::{DataSource, DiagnosisOptions, FinishedAdapter, UnknownDtype};
pub use progress::{Progress, Silent};
pub use run::{diagnose, diagnose_together};
pub use step_recorder::StepRecorder;
pub use together::{Known, Together};
