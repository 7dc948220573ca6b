//! LM Studio: its REST interface v1, v0 where it has no other, and its command `lms` where that is installed.
//!
//! Source: <https://lmstudio.ai/docs/developer/rest>.

mod chat_events;
mod command;
mod loading;
mod models;
mod processes;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use self::chat_events::ChatEvents;
use self::models::{Model, Version, find, list};
use self::processes::LmStudioProcesses;
use super::bounds::LM_STUDIO_IDLE;
use super::connection::{connect, named_or_usual, refuse_command};
use super::listening::processes_at;
use super::next_tokens::unsupported;
use super::{LoadRequest, NextTokens, Server, Surroundings};
use crate::compare::client::{Answer, ChatMessage, ChatRequest, Clock, HttpClient, OpenAiStream, chat_body};
use crate::compare::memory::Processes;
use crate::compare::{Failure, FailureKind, Loaded, ServerKind, Side};

/// Where it listens unless it is told otherwise.
const USUAL_ADDRESS: &str = "http://127.0.0.1:1234";
/// What helps where a success has no text.
const OVERFLOW_HINT: &str =
    "the prompt may be longer than the context that the model was loaded with: LM Studio reports success then";
/// The detail that names what else is loaded.
const ALSO_LOADED: &str = "also-loaded";

/// An LM Studio that runs already.
#[derive(Debug)]
pub(super) struct LmStudioServer {
    client: HttpClient,
    key: String,
    surroundings: Surroundings,
    loaded: Option<LoadedModel>,
}

/// What requests go to.
#[derive(Debug, Clone)]
struct LoadedModel {
    version: Version,
    instance: String,
    unloading: Unloading,
}

/// How what was loaded is unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unloading {
    /// By the interface.
    Request,
    /// By `lms`.
    Command,
    /// By LM Studio, once it is idle: it loaded the model on demand.
    Idleness,
    /// Not at all: it was there already.
    Nothing,
}

impl LmStudioServer {
    /// The one that `side` names.
    ///
    /// # Errors
    /// Its settings contradict each other.
    pub(super) fn new(side: &Side, surroundings: &Surroundings) -> Result<Self, Failure> {
        refuse_command(side)?;
        let address = named_or_usual(side, USUAL_ADDRESS)?;
        Ok(Self {
            client: connect(address, side, surroundings)?,
            key: side.model.clone(),
            surroundings: surroundings.clone(),
            loaded: None,
        })
    }
}

impl Server for LmStudioServer {
    fn kind(&self) -> ServerKind {
        ServerKind::LmStudio
    }

    fn load(&mut self, request: &LoadRequest) -> Result<Loaded, Failure> {
        let (version, models) = list(&self.client)?;
        let model = find(&models, &self.key)?;
        let loading = match version {
            Version::V1 => self.load_v1(model, request),
            Version::V0 => self.load_v0(model, request),
        };
        let (mut loaded, models) = match loading {
            Ok(loading) => loading,
            Err(failure) => {
                // What was loaded in vain is unloaded; the first failure is the one to tell.
                let _ = self.unload();
                return Err(failure);
            }
        };
        let details = &mut loaded.server.details;
        details.insert("interface".to_owned(), version.name().to_owned());
        if !request.prompt_cache {
            let detail = "as LM Studio has it: it has no way to turn it off".to_owned();
            details.insert("prompt-cache".to_owned(), detail);
        }
        let others = others(&models, &loaded.server.model);
        if !others.is_empty() {
            details.insert(ALSO_LOADED.to_owned(), others.join(", "));
        }
        Ok(loaded)
    }

    fn unload(&mut self) -> Result<(), Failure> {
        let Some(loaded) = self.loaded.take() else {
            return Ok(());
        };
        match loaded.unloading {
            Unloading::Request => self.unload_v1(&loaded.instance),
            Unloading::Command => command::unload(&loaded.instance),
            Unloading::Idleness => Err(Failure::of(
                FailureKind::Unsupported,
                format!("LM Studio's interface v0 has no way to unload; the model goes after {LM_STUDIO_IDLE} s"),
            )
            .with_hint("update LM Studio to 0.4.0 or newer, or install its command `lms`")),
            Unloading::Nothing => Ok(()),
        }
    }

    fn ask(&self, request: &ChatRequest, clock: Clock) -> Answer {
        let Some(loaded) = &self.loaded else {
            return Answer::failed(Failure::of(FailureKind::NotLoaded, "no model is loaded"), clock);
        };
        let instance = &loaded.instance;
        let mut as_open_ai = OpenAiStream::default()
            .of_model(instance)
            .with_hint_for_nothing(OVERFLOW_HINT);
        let (path, body) = match (loaded.version, chat_v1_body(instance, request)) {
            (Version::V1, Some(body)) => {
                return self
                    .client
                    .ask("/api/v1/chat", &body, &mut ChatEvents::of_instance(instance), clock);
            }
            // Only OpenAI's interface takes the assistant's own messages.
            (Version::V1, None) => ("/v1/chat/completions", chat_body(Some(instance), request)),
            (Version::V0, _) => {
                let mut request = request.clone();
                if loaded.unloading == Unloading::Idleness {
                    request.more.push(("ttl".to_owned(), LM_STUDIO_IDLE.into()));
                }
                ("/api/v0/chat/completions", chat_body(Some(instance), &request))
            }
        };
        self.client.ask(path, &body, &mut as_open_ai, clock)
    }

    fn next_tokens(&self, text: &str, count: usize) -> Result<NextTokens, Failure> {
        let _ = (text, count);
        Err(unsupported("LM Studio"))
    }

    fn processes(&self) -> Arc<dyn Processes> {
        let address = self.client.server();
        if address.is_local() {
            let daemon = command::daemon(&self.surroundings.interrupt);
            Arc::new(LmStudioProcesses::new(address.port(), daemon))
        } else {
            processes_at(address)
        }
    }

    fn log(&self) -> Option<&Path> {
        None
    }
}

impl Drop for LmStudioServer {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.unload();
    }
}

impl Version {
    fn name(self) -> &'static str {
        match self {
            Self::V0 => "v0",
            Self::V1 => "v1",
        }
    }
}

/// The body of a chat, v1, which takes one text and a system message (<https://lmstudio.ai/docs/developer/rest/chat>);
/// `None` where the conversation is longer. Nothing of it is stored.
fn chat_v1_body(instance: &str, request: &ChatRequest) -> Option<Value> {
    let (system, user): (Option<&ChatMessage>, &ChatMessage) = match request.messages.as_slice() {
        [user] => (None, user),
        [system, user] if system.role == "system" => (Some(system), user),
        _ => return None,
    };
    if user.role != "user" {
        return None;
    }
    let mut body = Map::new();
    body.insert("model".to_owned(), instance.into());
    body.insert("input".to_owned(), user.content.as_str().into());
    if let Some(system) = system {
        body.insert("system_prompt".to_owned(), system.content.as_str().into());
    }
    body.insert("stream".to_owned(), true.into());
    body.insert("store".to_owned(), false.into());
    body.insert("temperature".to_owned(), 0.into());
    body.insert("max_output_tokens".to_owned(), request.max_tokens.into());
    body.extend(request.more.iter().cloned());
    Some(Value::Object(body))
}

/// What is loaded beside one instance, in order.
fn others(models: &[Model], instance: &str) -> Vec<String> {
    let instances = models.iter().flat_map(|model| &model.instances);
    let mut others: Vec<String> = instances
        .map(|loaded| loaded.id.clone())
        .filter(|id| id != instance)
        .collect();
    others.sort_unstable();
    others
}
