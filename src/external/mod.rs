//! Trainers and generators that are other programs: a command is filled in, run, watched, and what it leaves is looked for;
//! a server is asked.

mod chat_server;
mod generator;
mod mlx_lm_command;
mod mlx_lm_worker;
mod printed_answer;
mod process;
mod template;
mod trainer;

pub use chat_server::{ChatServer, ServerError};
pub use generator::{ExternalGenerator, GeneratorError, Question, Reply};
pub use mlx_lm_worker::{
    WorkerAdapter, WorkerAnswer, WorkerError, WorkerModel, WorkerReading, WorkerResult, WorkerRow, WorkerState,
    WorkerTask, ask_mlx_lm,
};
pub use process::{Ending, Finished, Watched, run};
pub use template::{Template, TemplateError};
pub use trainer::{Assignment, ExternalTrainer, find_adapter};
