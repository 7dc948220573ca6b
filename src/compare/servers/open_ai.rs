//! Any server that speaks OpenAI's API: one that has loaded its model already, or one that the user's command starts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::bounds::QUESTION;
use super::connection::{connect, refuse_without_prompt_cache};
use super::launched::{Asked, Assignment, Program};
use super::listening::processes_at;
use super::next_tokens::{ask_completion, from_completion};
use super::{LoadRequest, NextTokens, Server, Surroundings};
use crate::compare::client::{
    Address, Answer, ChatRequest, Clock, HttpClient, OpenAiStream, chat_body, items, text as text_of,
};
use crate::compare::memory::Processes;
use crate::compare::{Failure, FailureKind, Loaded, ServerDescription, ServerKind, Side, Start};
use crate::excerpt::beginning;
use crate::suggestion::closest;

/// The path that lists models.
const MODELS: &str = "/v1/models";

/// A server that somebody else started.
#[derive(Debug)]
pub(super) struct OpenAiServer {
    client: HttpClient,
    model: String,
    seconds: f64,
}

impl OpenAiServer {
    /// The one that `side` names.
    ///
    /// # Errors
    /// It has no address, or one that is none.
    pub(super) fn new(side: &Side, surroundings: &Surroundings) -> Result<Self, Failure> {
        let address = side.address.as_deref().ok_or_else(|| {
            Failure::of(
                FailureKind::NotStarted,
                "a server of kind `open-ai` has no usual address",
            )
            .with_hint("name its `address`, for example `http://127.0.0.1:8000`, or a `command` that starts it")
        })?;
        Ok(Self {
            client: connect(Address::read(address)?, side, surroundings)?,
            model: side.model.clone(),
            seconds: surroundings.limits.request,
        })
    }
}

/// A server that the user's command starts.
#[derive(Debug)]
pub(super) struct OpenAiProgram {
    model: String,
}

impl OpenAiProgram {
    /// With this model, as the server names it.
    pub(super) fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
        }
    }
}

impl Program for OpenAiProgram {
    fn kind(&self) -> ServerKind {
        ServerKind::OpenAi
    }

    fn command(&mut self, assignment: Assignment, surroundings: &Surroundings) -> Result<Vec<String>, Failure> {
        let _ = (assignment, surroundings);
        Err(Failure::of(
            FailureKind::NotStarted,
            "a server of kind `open-ai` has no usual command",
        ))
    }

    /// The one question that all servers of this API answer.
    fn readiness(&self) -> &'static str {
        MODELS
    }

    fn own_model(&self) -> Option<&str> {
        Some(&self.model)
    }

    fn describe(&self, client: &HttpClient, description: &mut ServerDescription) -> Result<(), Failure> {
        // The API neither sets nor tells it.
        description.context_length = None;
        find_model(client, &self.model)
    }

    fn next_tokens(&self, asked: &Asked, text: &str, count: usize) -> Result<NextTokens, Failure> {
        completion(asked.client, &self.model, text, count, asked.seconds)
    }
}

/// Looks for a model in the server's list.
fn find_model(client: &HttpClient, model: &str) -> Result<(), Failure> {
    let models = client.request(MODELS, None, QUESTION)?.json()?;
    let ids = items(&models, "data")?.iter().map(|model| text_of(model, "id"));
    let mut ids: Vec<&str> = ids.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    if ids.contains(&model) {
        return Ok(());
    }
    ids.sort_unstable();
    let missing = Failure::of(FailureKind::NotLoaded, format!("the server has no model `{model}`"));
    Err(match closest(model, ids.iter().copied()) {
        Some(similar) => missing.with_hint(format!("did you mean `{}`?", beginning(similar))),
        None => missing.with_hint(format!("it lists {}", beginning(&ids.join(", ")))),
    })
}

/// The next tokens as completions tell them, which many servers do not have beside chats.
fn completion(client: &HttpClient, model: &str, text: &str, count: usize, seconds: f64) -> Result<NextTokens, Failure> {
    let answer = ask_completion(client, Some(model), text, count, seconds);
    let answer = answer.map_err(|failure| match failure.kind {
        FailureKind::Refused => Failure {
            kind: FailureKind::Unsupported,
            ..failure
        },
        _ => failure,
    })?;
    from_completion(&answer, "the server")
}

impl Server for OpenAiServer {
    fn kind(&self) -> ServerKind {
        ServerKind::OpenAi
    }

    fn load(&mut self, request: &LoadRequest) -> Result<Loaded, Failure> {
        refuse_without_prompt_cache(request, "a server that runs already")?;
        find_model(&self.client, &self.model)?;
        Ok(Loaded {
            server: ServerDescription {
                kind: ServerKind::OpenAi,
                version: None,
                address: self.client.server().to_string(),
                command: None,
                model: self.model.clone(),
                quantisation: None,
                // The API neither sets nor tells it.
                context_length: None,
                start: Start::Already,
                details: BTreeMap::new(),
            },
            ready_seconds: None,
            told_seconds: None,
        })
    }

    fn unload(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn ask(&self, request: &ChatRequest, clock: Clock) -> Answer {
        let body = chat_body(Some(&self.model), request);
        let mut reader = OpenAiStream::default().asking(Some(&self.model));
        self.client.ask("/v1/chat/completions", &body, &mut reader, clock)
    }

    fn next_tokens(&self, text: &str, count: usize) -> Result<NextTokens, Failure> {
        completion(&self.client, &self.model, text, count, self.seconds)
    }

    fn processes(&self) -> Arc<dyn Processes> {
        processes_at(self.client.server())
    }

    fn log(&self) -> Option<&Path> {
        None
    }
}
