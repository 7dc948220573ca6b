//! A server whose process can be ours: it serves the model that it is started with, and speaks OpenAI's chat API.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

use super::bounds::READY_QUESTION;
use super::command_words::{can_turn_cache_off, filled_in};
use super::connection::{connect, refuse_without_prompt_cache};
use super::listening::{StartedProcess, processes_at};
use super::process::{Launch, ServerProcess, free_port};
use super::{LoadRequest, NextTokens, Server, Surroundings};
use crate::compare::client::{Address, Answer, ChatRequest, Clock, HttpClient, OpenAiStream, chat_body};
use crate::compare::memory::Processes;
use crate::compare::{Failure, FailureKind, Loaded, ServerDescription, ServerKind, Side, Start};

/// What a started server listens at.
pub(super) const HOST: &str = "127.0.0.1";
/// The path that tells of most servers whether they are ready.
const HEALTH: &str = "/health";

/// What is loaded, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Assignment<'load> {
    /// The file, folder or id of the model.
    pub(super) model: &'load str,
    /// The port to listen at.
    pub(super) port: u16,
    /// How it is to be loaded.
    pub(super) request: &'load LoadRequest,
}

/// What one program has of its own.
pub(super) trait Program: Send + Sync {
    /// Which it is.
    fn kind(&self) -> ServerKind;

    /// The words of the usual command.
    fn command(&mut self, assignment: Assignment, surroundings: &Surroundings) -> Result<Vec<String>, Failure>;

    /// Variables of ours that it must not get.
    fn without_variables(&self) -> &'static [&'static str] {
        &[]
    }

    /// The path whose success tells that it is ready.
    fn readiness(&self) -> &'static str {
        HEALTH
    }

    /// How requests name the model that it was started with; `None` where they need not.
    fn own_model(&self) -> Option<&str>;

    /// Whether this status of its health says that its model cannot be loaded, rather than that it is not there yet.
    fn has_given_up(&self, status: u16) -> bool {
        let _ = status;
        false
    }

    /// Makes sure, within `seconds`, that the model is there once the server says that it is.
    fn finish_loading(&self, client: &HttpClient, model: Option<&str>, seconds: f64) -> Result<(), Failure> {
        let _ = (client, model, seconds);
        Ok(())
    }

    /// Fields of every request beside those of OpenAI.
    fn chat_fields(&self, request: &LoadRequest) -> Vec<(String, Value)> {
        let _ = request;
        Vec::new()
    }

    /// Adds what the server tells of itself.
    fn describe(&self, client: &HttpClient, description: &mut ServerDescription) -> Result<(), Failure>;

    /// See [`Server::next_tokens`].
    fn next_tokens(&self, asked: &Asked, text: &str, count: usize) -> Result<NextTokens, Failure>;
}

/// Where a question goes.
#[derive(Debug)]
pub(super) struct Asked<'server> {
    /// The server.
    pub(super) client: &'server HttpClient,
    /// How requests name the model.
    pub(super) model: Option<&'server str>,
    /// Longest time, in seconds.
    pub(super) seconds: f64,
}

/// One of these servers.
pub(super) struct LaunchedServer {
    program: Box<dyn Program>,
    side: Side,
    surroundings: Surroundings,
    /// Address of one that runs already.
    running_at: Option<Address>,
    started: Arc<StartedProcess>,
    loaded: Option<LoadedServer>,
    log: Option<PathBuf>,
}

struct LoadedServer {
    client: HttpClient,
    process: Option<Mutex<ServerProcess>>,
    model: Option<String>,
    fields: Vec<(String, Value)>,
}

impl LaunchedServer {
    /// One that `side` names.
    ///
    /// # Errors
    /// Its settings contradict each other.
    pub(super) fn new(program: Box<dyn Program>, side: &Side, surroundings: &Surroundings) -> Result<Self, Failure> {
        let running_at = side.address.as_deref().map(Address::read).transpose()?;
        if running_at.is_some() && side.command.is_some() {
            return Err(Failure::of(
                FailureKind::NotStarted,
                "a server has an address and a command: it either runs already or is started",
            )
            .with_hint("leave out `address` or `command`"));
        }
        Ok(Self {
            program,
            side: side.clone(),
            surroundings: surroundings.clone(),
            running_at,
            started: Arc::default(),
            loaded: None,
            log: None,
        })
    }

    /// Starts the process; returns it with its command, what it is to be asked by, and when it began: what is looked up or
    /// installed before is no part of loading.
    fn start(&mut self, request: &LoadRequest) -> Result<(ServerProcess, Vec<String>, HttpClient, Instant), Failure> {
        let port = free_port()?;
        let assignment = Assignment {
            model: &self.side.model,
            port,
            request,
        };
        let command = match &self.side.command {
            Some(words) => {
                if !can_turn_cache_off(words) {
                    let hint = "a `command` with `{prompt-cache}` gets `on` or `off` in its place";
                    let refused = refuse_without_prompt_cache(request, "a server with a command of its own");
                    refused.map_err(|failure| failure.with_hint(hint))?;
                }
                words.iter().map(|word| filled_in(word, assignment)).collect()
            }
            None => self.program.command(assignment, &self.surroundings)?,
        };
        let client = connect(Address::local(port), &self.side, &self.surroundings)?;
        let began = Instant::now();
        let process = ServerProcess::start(&Launch {
            command: &command,
            environment: &self.side.environment,
            without: self.program.without_variables(),
            logs: &self.surroundings.logs,
            name: self.program.kind().name(),
        })?;
        self.log = Some(process.log().to_owned());
        self.started.set(Some(process.id()));
        Ok((process, command, client, began))
    }

    /// Starts the server and waits for it; what is returned on failure has ended.
    fn load_process(&mut self, request: &LoadRequest) -> Result<Loaded, Failure> {
        let (mut process, command, client, began) = self.start(request)?;
        let limits = self.surroundings.limits;
        let interrupt = self.surroundings.interrupt.clone();
        let program = self.program.as_ref();
        let model = program.own_model();
        let mut waited = process.wait_until_ready(limits.load, &interrupt, &mut || is_ready(program, &client));
        if waited.is_ok() {
            let rest = limits.load - began.elapsed().as_secs_f64();
            waited = program.finish_loading(&client, model, rest);
        }
        waited.map_err(|failure| match failure.kind {
            FailureKind::NotLoaded => process.with_last_words(failure),
            _ => process.explain(failure),
        })?;
        let ready = began.elapsed().as_secs_f64();
        let mut description = self.description(&client, request, Start::Process);
        description.command = Some(command);
        self.program.describe(&client, &mut description)?;
        self.loaded = Some(LoadedServer {
            client,
            process: Some(Mutex::new(process)),
            model: model.map(str::to_owned),
            fields: self.program.chat_fields(request),
        });
        Ok(Loaded {
            server: description,
            ready_seconds: Some(ready),
            told_seconds: None,
        })
    }

    /// Takes a server that runs already.
    fn find_running(&mut self, address: Address, request: &LoadRequest) -> Result<Loaded, Failure> {
        let client = connect(address, &self.side, &self.surroundings)?;
        client.request(self.program.readiness(), None, READY_QUESTION)?.json()?;
        let mut description = self.description(&client, request, Start::Already);
        self.program.describe(&client, &mut description)?;
        self.loaded = Some(LoadedServer {
            client,
            process: None,
            model: Some(self.side.model.clone()),
            fields: self.program.chat_fields(request),
        });
        Ok(Loaded {
            server: description,
            ready_seconds: None,
            told_seconds: None,
        })
    }

    fn description(&self, client: &HttpClient, request: &LoadRequest, start: Start) -> ServerDescription {
        let own_model = self.program.own_model().filter(|_| start == Start::Process);
        ServerDescription {
            kind: self.program.kind(),
            version: None,
            address: client.server().to_string(),
            command: None,
            model: own_model.unwrap_or(&self.side.model).to_owned(),
            quantisation: None,
            context_length: Some(request.context_length),
            start,
            details: std::collections::BTreeMap::new(),
        }
    }

    fn loaded(&self) -> Result<&LoadedServer, Failure> {
        self.loaded
            .as_ref()
            .ok_or_else(|| Failure::of(FailureKind::NotLoaded, "no model is loaded"))
    }
}

impl LoadedServer {
    /// What a failed request was due to.
    fn explain(&self, failure: Failure) -> Failure {
        match &self.process {
            Some(process) => process.lock().unwrap_or_else(PoisonError::into_inner).explain(failure),
            None => failure,
        }
    }
}

impl Server for LaunchedServer {
    fn kind(&self) -> ServerKind {
        self.program.kind()
    }

    fn load(&mut self, request: &LoadRequest) -> Result<Loaded, Failure> {
        match self.unload() {
            // One that had died is not in the way.
            Err(failure) if failure.kind != FailureKind::Died => return Err(failure),
            _ => {}
        }
        let loaded = match self.running_at.clone() {
            Some(address) => refuse_without_prompt_cache(request, "a server that runs already")
                .and_then(|()| self.find_running(address, request)),
            None => self.load_process(request),
        };
        if loaded.is_err() {
            self.started.set(None);
        }
        loaded
    }

    fn unload(&mut self) -> Result<(), Failure> {
        let loaded = self.loaded.take();
        let stopped = match loaded.and_then(|loaded| loaded.process) {
            Some(process) => process.into_inner().unwrap_or_else(PoisonError::into_inner).stop(),
            None => Ok(()),
        };
        self.started.set(None);
        stopped
    }

    fn ask(&self, request: &ChatRequest, clock: Clock) -> Answer {
        let loaded = match self.loaded() {
            Ok(loaded) => loaded,
            Err(failure) => return Answer::failed(failure, clock),
        };
        let mut request = request.clone();
        request.more.splice(0..0, loaded.fields.iter().cloned());
        let body = chat_body(loaded.model.as_deref(), &request);
        // A name that stands for whatever was loaded says nothing about the model.
        let asked = loaded.model.as_deref().filter(|model| *model == self.side.model);
        let mut reader = OpenAiStream::default().asking(asked);
        let mut answer = loaded.client.ask("/v1/chat/completions", &body, &mut reader, clock);
        answer.failure = answer.failure.map(|failure| loaded.explain(failure));
        answer
    }

    fn next_tokens(&self, text: &str, count: usize) -> Result<NextTokens, Failure> {
        let loaded = self.loaded()?;
        let asked = Asked {
            client: &loaded.client,
            model: loaded.model.as_deref(),
            seconds: self.surroundings.limits.request,
        };
        let tokens = self.program.next_tokens(&asked, text, count);
        tokens.map_err(|failure| loaded.explain(failure))
    }

    fn processes(&self) -> Arc<dyn Processes> {
        match &self.running_at {
            Some(address) => processes_at(address),
            None => Arc::clone(&self.started) as Arc<dyn Processes>,
        }
    }

    fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }
}

/// Whether the server says that it is ready; what a starting server does not say yet is no failure.
fn is_ready(program: &dyn Program, client: &HttpClient) -> Result<bool, Failure> {
    match client.request(program.readiness(), None, READY_QUESTION) {
        Ok(reply) if reply.status == 200 => Ok(true),
        Ok(reply) if program.has_given_up(reply.status) => Err(Failure::of(
            FailureKind::NotLoaded,
            "the server could not load the model",
        )),
        // A server that is loading says so with a status of its own failures.
        Ok(reply) if reply.status >= 500 => Ok(false),
        Ok(reply) => reply.json().map(|_| false),
        Err(failure) => match failure.kind {
            FailureKind::Unreachable | FailureKind::BrokenOff | FailureKind::TimedOut => Ok(false),
            _ => Err(failure),
        },
    }
}
