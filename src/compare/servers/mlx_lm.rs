//! Python mlx-lm's `mlx_lm.server`.
//!
//! Source: <https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/SERVER.md> and `mlx_lm/server.py`. It says that it is
//! healthy while its model is still read, and takes the context as long as it comes.

use std::collections::BTreeMap;

use serde_json::json;

use super::bounds::MLX_LM_ALTERNATIVES;
use super::launched::{Asked, Assignment, HOST, Program};
use super::next_tokens::{from_entries, unsupported};
use super::python_modules::{python_with, version_of};
use super::token_text::token_text;
use super::{NextTokens, Surroundings};
use crate::compare::client::{HttpClient, items};
use crate::compare::{Failure, FailureKind, ServerDescription, ServerKind, Start};

/// The package that has the server.
const PACKAGE: &str = "mlx-lm";
/// Its module.
const MODULE: &str = "mlx_lm";
/// How requests name the model that the server was started with; another name makes it load another one.
const OWN_MODEL: &str = "default_model";

/// mlx-lm's server.
#[derive(Debug)]
pub(super) struct MlxLmServer {
    environment: BTreeMap<String, String>,
    /// Version of the package that was started.
    package: Option<String>,
}

impl MlxLmServer {
    /// With these variables beside ours.
    pub(super) fn new(environment: &BTreeMap<String, String>) -> Self {
        Self {
            environment: environment.clone(),
            package: None,
        }
    }
}

impl Program for MlxLmServer {
    fn kind(&self) -> ServerKind {
        ServerKind::MlxLm
    }

    fn command(&mut self, assignment: Assignment, surroundings: &Surroundings) -> Result<Vec<String>, Failure> {
        let interrupt = &surroundings.interrupt;
        let python = python_with(MODULE, &self.environment, interrupt)?.ok_or_else(|| {
            Failure::of(FailureKind::NotStarted, "no python has mlx-lm")
                .with_hint("`pip install mlx-lm`, or name a python that has it in `MLX_DIAGNOSE_PYTHON`")
        })?;
        self.package = version_of(&python, PACKAGE, interrupt)?;
        let port = assignment.port.to_string();
        let mut command = vec![python.to_string_lossy().into_owned()];
        command.extend(["-m", MODULE, "server", "--model", assignment.model].map(str::to_owned));
        command.extend(["--host", HOST, "--port", &port].map(str::to_owned));
        if !assignment.request.prompt_cache {
            command.extend(["--prompt-cache-size", "0"].map(str::to_owned));
        }
        Ok(command)
    }

    fn own_model(&self) -> Option<&str> {
        Some(OWN_MODEL)
    }

    /// It says so once the thread that loads and computes has ended.
    fn has_given_up(&self, status: u16) -> bool {
        status == 503
    }

    /// Asks for one token, since nothing else tells that the model is there. llama-server likewise warms up before it says
    /// that it is ready.
    fn finish_loading(&self, client: &HttpClient, model: Option<&str>, seconds: f64) -> Result<(), Failure> {
        let body = json!({ "model": model.unwrap_or(OWN_MODEL), "prompt": "a", "max_tokens": 1 });
        let reply = client.request("/v1/completions", Some(&body), seconds)?;
        reply.json().map(|_| ()).map_err(|failure| match failure.kind {
            FailureKind::Refused | FailureKind::ServerError => Failure {
                kind: FailureKind::NotLoaded,
                ..failure
            },
            _ => failure,
        })
    }

    fn describe(&self, client: &HttpClient, description: &mut ServerDescription) -> Result<(), Failure> {
        let _ = client;
        description.version = self.package.clone().filter(|_| description.start == Start::Process);
        // Nothing bounds the context of a model here but what it was made for.
        description
            .details
            .insert("context".to_owned(), "as long as a request is".to_owned());
        Ok(())
    }

    fn next_tokens(&self, asked: &Asked, text: &str, count: usize) -> Result<NextTokens, Failure> {
        let body = json!({
            "model": asked.model.unwrap_or(OWN_MODEL),
            "prompt": text,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": true,
            "top_logprobs": count.clamp(1, MLX_LM_ALTERNATIVES),
        });
        let answer = asked
            .client
            .request("/v1/completions", Some(&body), asked.seconds)?
            .json()?;
        let choice = items(&answer, "choices")?.first();
        let content = match choice.and_then(|choice| choice.get("logprobs")) {
            Some(logprobs) => items(logprobs, "content")?,
            None => &[],
        };
        let Some(first) = content.first() else {
            return Err(unsupported("this version of mlx_lm.server"));
        };
        let mut next = from_entries(items(first, "top_logprobs")?)?;
        for (token, _) in &mut next.tokens {
            *token = token_text(token);
        }
        Ok(next)
    }
}
