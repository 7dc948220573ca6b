//! The programs that serve models: one file for each, behind one seam.

mod bounds;
mod command_words;
mod connection;
mod diagnose;
mod launched;
mod listening;
mod llama_cpp_package;
mod llama_server;
mod lm_studio;
mod mlx_lm;
mod next_tokens;
mod ollama;
mod open_ai;
mod process;
mod process_group;
mod python_modules;
mod short_command;
mod token_text;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::diagnose::DiagnoseServer;
use self::launched::{LaunchedServer, Program};
use self::llama_server::LlamaServer;
use self::lm_studio::LmStudioServer;
use self::mlx_lm::MlxLmServer;
use self::ollama::OllamaServer;
use self::open_ai::{OpenAiProgram, OpenAiServer};

use super::client::{Answer, ChatRequest, Clock};
use super::memory::Processes;
use super::{Failure, Limits, Loaded, ServerKind, Side};
use crate::interrupt::Interrupt;

/// What a server needs to know before it loads.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadRequest {
    /// Tokens of context for one request.
    pub context_length: usize,
    /// Requests that are to be answered at one time.
    pub parallel: usize,
    /// Whether caches of earlier prompts may be kept.
    pub prompt_cache: bool,
}

/// What every server of a run shares.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Longest times.
    pub limits: Limits,
    /// The user's wish to stop.
    pub interrupt: Interrupt,
    /// This program, which `serve` is started of.
    pub program: PathBuf,
    /// Folder for what started servers print, one file for each.
    pub logs: PathBuf,
    /// Folder for what this program writes for servers to be started with, one for all tests.
    pub scripts: PathBuf,
}

/// The likeliest next tokens after a text, natural logarithms of probabilities, the likeliest first.
#[derive(Debug, Clone, PartialEq)]
pub struct NextTokens {
    /// Text of a token and its log-probability.
    pub tokens: Vec<(String, f64)>,
}

/// A program that serves one model at a time.
///
/// Whatever happens, dropping it leaves no process of ours and no model that this program loaded.
pub trait Server: Send + Sync {
    /// The program.
    fn kind(&self) -> ServerKind;

    /// Loads the model, starting the program where that is ours to do, and returns once it is ready to answer.
    ///
    /// # Errors
    /// It does not come up, or has no such model; nothing of it is left running then.
    fn load(&mut self, request: &LoadRequest) -> Result<Loaded, Failure>;

    /// Takes the model out of memory, ending the program where this program started it.
    ///
    /// # Errors
    /// It does not, or only by force.
    fn unload(&mut self) -> Result<(), Failure>;

    /// The answer to a request, with all that came when it fails in the middle. May be called from several threads at once.
    fn ask(&self, request: &ChatRequest, clock: Clock) -> Answer;

    /// The likeliest `count` next tokens after `text`, which is read without a chat template.
    ///
    /// # Errors
    /// [`super::FailureKind::Unsupported`] where the API does not tell.
    fn next_tokens(&self, text: &str, count: usize) -> Result<NextTokens, Failure>;

    /// The processes that serve, now and whenever they are asked for later; none where the server runs on another machine.
    fn processes(&self) -> Arc<dyn Processes>;

    /// Where what it prints is kept; `None` where it was not started here.
    fn log(&self) -> Option<&Path>;
}

/// The server that `side` names.
///
/// # Errors
/// Its settings contradict each other.
pub fn open(side: &Side, surroundings: &Surroundings) -> Result<Box<dyn Server>, Failure> {
    let program: Box<dyn Program> = match side.server {
        ServerKind::LmStudio => return Ok(Box::new(LmStudioServer::new(side, surroundings)?)),
        ServerKind::Ollama => return Ok(Box::new(OllamaServer::new(side, surroundings)?)),
        ServerKind::OpenAi if side.command.is_none() => return Ok(Box::new(OpenAiServer::new(side, surroundings)?)),
        ServerKind::OpenAi => Box::new(OpenAiProgram::new(&side.model)),
        ServerKind::LlamaServer => Box::new(LlamaServer::new(&side.environment)),
        ServerKind::MlxLm => Box::new(MlxLmServer::new(&side.environment)),
        ServerKind::Diagnose => Box::new(DiagnoseServer),
    };
    Ok(Box::new(LaunchedServer::new(program, side, surroundings)?))
}
