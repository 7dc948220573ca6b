//! Trainers that are other programs: a command is filled in, run, watched, and its artefacts are looked for.

mod process;
mod template;
mod trainer;

pub use process::{Ending, Finished, Watched, run};
pub use template::{Template, TemplateError};
pub use trainer::{Assignment, ExternalTrainer, find_adapter};
