//! Any server that speaks OpenAI's API, which has loaded its model already.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::bounds::QUESTION;
use super::connection::{connect, refuse_command, refuse_without_prompt_cache};
use super::listening::processes_at;
use super::next_tokens::{ask_completion, from_completion};
use super::{LoadRequest, NextTokens, Server, Surroundings};
use crate::compare::client::{
    Address, Answer, ChatRequest, Clock, HttpClient, OpenAiStream, chat_body, items, text as text_of,
};
use crate::compare::memory::Processes;
use crate::compare::{Failure, FailureKind, Loaded, ServerDescription, ServerKind, Side, Start};
use crate::suggestion::closest;

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
    /// It has no address, or a command.
    pub(super) fn new(side: &Side, surroundings: &Surroundings) -> Result<Self, Failure> {
        refuse_command(side)?;
        let address = side.address.as_deref().ok_or_else(|| {
            Failure::of(
                FailureKind::NotStarted,
                "a server of kind `open-ai` has no usual address",
            )
            .with_hint("name its `address`, for example `http://127.0.0.1:8000`")
        })?;
        Ok(Self {
            client: connect(Address::read(address)?, side, surroundings)?,
            model: side.model.clone(),
            seconds: surroundings.limits.request,
        })
    }

    /// Looks for the model in the server's list.
    fn find_model(&self) -> Result<(), Failure> {
        let models = self.client.request("/v1/models", None, QUESTION)?.json()?;
        let ids = items(&models, "data")?.iter().map(|model| text_of(model, "id"));
        let mut ids: Vec<&str> = ids.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        if ids.contains(&self.model.as_str()) {
            return Ok(());
        }
        ids.sort_unstable();
        let missing = Failure::of(
            FailureKind::NotLoaded,
            format!("the server has no model `{}`", self.model),
        );
        Err(match closest(&self.model, ids.iter().copied()) {
            Some(similar) => missing.with_hint(format!("did you mean `{similar}`?")),
            None => missing.with_hint(format!("it lists {}", ids.join(", "))),
        })
    }
}

impl Server for OpenAiServer {
    fn kind(&self) -> ServerKind {
        ServerKind::OpenAi
    }

    fn load(&mut self, request: &LoadRequest) -> Result<Loaded, Failure> {
        refuse_without_prompt_cache(request, "a server that runs already")?;
        self.find_model()?;
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
        let answer = ask_completion(&self.client, Some(&self.model), text, count, self.seconds);
        let answer = answer.map_err(|failure| match failure.kind {
            // Many servers have chats only.
            FailureKind::Refused => Failure {
                kind: FailureKind::Unsupported,
                ..failure
            },
            _ => failure,
        })?;
        from_completion(&answer, "the server")
    }

    fn processes(&self) -> Arc<dyn Processes> {
        processes_at(self.client.server())
    }

    fn log(&self) -> Option<&Path> {
        None
    }
}
