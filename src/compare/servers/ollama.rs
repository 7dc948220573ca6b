//! Ollama.
//!
//! Source: <https://github.com/ollama/ollama/blob/main/docs/api.md>. Durations are in nanoseconds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::bounds::{OLLAMA_KEEP_ALIVE, QUESTION};
use super::connection::{connect, named_or_usual, refuse_command};
use super::listening::processes_at;
use super::next_tokens::{from_entries, unsupported};
use super::{LoadRequest, NextTokens, Server, Surroundings};
use crate::compare::client::{
    Answer, AnswerReader, ChatRequest, Clock, Event, Framing, HttpClient, Step, count as count_of, duration, error_of,
    items, messages, parse, text as text_of, told,
};
use crate::compare::memory::Processes;
use crate::compare::{
    Failure, FailureKind, Limits, Loaded, ServerDescription, ServerKind, ServerTimings, Side, Start, Usage,
};

/// Where it listens unless it is told otherwise.
const USUAL_ADDRESS: &str = "http://127.0.0.1:11434";
/// Nanoseconds in a second.
const NANOSECONDS: f64 = 1e9;
/// The tag of a model that is named without one.
const USUAL_TAG: &str = ":latest";

/// An Ollama that runs already.
#[derive(Debug)]
pub(super) struct OllamaServer {
    client: HttpClient,
    model: String,
    limits: Limits,
    /// Tokens of context that the model was loaded with by this program.
    loaded_context: Option<usize>,
}

impl OllamaServer {
    /// The one that `side` names.
    ///
    /// # Errors
    /// Its settings contradict each other.
    pub(super) fn new(side: &Side, surroundings: &Surroundings) -> Result<Self, Failure> {
        refuse_command(side)?;
        let address = named_or_usual(side, USUAL_ADDRESS)?;
        Ok(Self {
            client: connect(address, side, surroundings)?,
            model: side.model.clone(),
            limits: surroundings.limits,
            loaded_context: None,
        })
    }

    /// Models in memory.
    fn running(&self) -> Result<Vec<Value>, Failure> {
        let running = self.client.request("/api/ps", None, QUESTION)?.json()?;
        Ok(items(&running, "models")?.to_vec())
    }

    /// Loads or unloads, by a request without a prompt.
    fn generate_nothing(&self, client: &HttpClient, more: Value) -> Result<Value, Failure> {
        let mut body = Map::new();
        body.insert("model".to_owned(), self.model.as_str().into());
        body.insert("stream".to_owned(), false.into());
        if let Value::Object(more) = more {
            body.extend(more);
        }
        let reply = client.request("/api/generate", Some(&Value::Object(body)), self.limits.load)?;
        reply.json().map_err(|failure| match failure.kind {
            FailureKind::Refused | FailureKind::ServerError if reply.status != 401 => Failure {
                kind: FailureKind::NotLoaded,
                ..failure.with_hint(format!("`ollama pull {}`", self.model))
            },
            _ => failure,
        })
    }

    fn load_model(&self, request: &LoadRequest) -> Result<Loaded, Failure> {
        let began = Instant::now();
        let more = json!({ "keep_alive": OLLAMA_KEEP_ALIVE, "options": { "num_ctx": request.context_length } });
        let loaded = self.generate_nothing(&self.client, more)?;
        let ready = began.elapsed().as_secs_f64();
        Ok(Loaded {
            server: self.describe(request)?,
            ready_seconds: Some(ready),
            told_seconds: duration(&loaded, "load_duration", NANOSECONDS)?,
        })
    }

    fn unload_model(&self) -> Result<(), Failure> {
        let client = self.client.uninterrupted();
        self.generate_nothing(&client, json!({ "keep_alive": 0 })).map(|_| ())
    }

    fn is_ours(&self, model: &Value) -> Result<bool, Failure> {
        let name = text_of(model, "name")?.unwrap_or("");
        Ok(name == self.model || name.strip_suffix(USUAL_TAG) == Some(&self.model))
    }

    fn describe(&self, request: &LoadRequest) -> Result<ServerDescription, Failure> {
        let version = self.client.request("/api/version", None, QUESTION)?.json()?;
        let mut description = ServerDescription {
            kind: ServerKind::Ollama,
            version: text_of(&version, "version")?.map(str::to_owned),
            address: self.client.server().to_string(),
            command: None,
            model: self.model.clone(),
            quantisation: None,
            context_length: Some(request.context_length),
            start: Start::Load,
            details: BTreeMap::new(),
        };
        let details = &mut description.details;
        if !request.prompt_cache {
            details.insert("prompt-cache".to_owned(), "on: it has no way to turn it off".to_owned());
        }
        let mut others = Vec::new();
        for model in self.running()? {
            if !self.is_ours(&model)? {
                others.push(text_of(&model, "name")?.unwrap_or("a model without a name").to_owned());
                continue;
            }
            let file = model.get("details").unwrap_or(&Value::Null);
            description.quantisation = text_of(file, "quantization_level")?.map(str::to_owned);
            if let Some(format) = text_of(file, "format")? {
                details.insert("format".to_owned(), format.to_owned());
            }
            if let Some(context) = count_of(&model, "context_length")? {
                description.context_length = Some(context);
            }
        }
        if !others.is_empty() {
            others.sort_unstable();
            details.insert("also-loaded".to_owned(), others.join(", "));
        }
        Ok(description)
    }
}

impl Server for OllamaServer {
    fn kind(&self) -> ServerKind {
        ServerKind::Ollama
    }

    fn load(&mut self, request: &LoadRequest) -> Result<Loaded, Failure> {
        for model in self.running()? {
            // Loaded already, it would neither have the context that is asked for nor show how long loading takes.
            if self.is_ours(&model)? {
                self.unload_model()?;
            }
        }
        self.loaded_context = Some(request.context_length);
        let loaded = self.load_model(request);
        if loaded.is_err() {
            // What was loaded in vain is unloaded; the first failure is the one to tell.
            let _ = self.unload();
        }
        loaded
    }

    fn unload(&mut self) -> Result<(), Failure> {
        match self.loaded_context.take() {
            Some(_) => self.unload_model(),
            None => Ok(()),
        }
    }

    fn ask(&self, request: &ChatRequest, clock: Clock) -> Answer {
        let mut options = Map::new();
        options.insert("temperature".to_owned(), 0.into());
        options.insert("num_predict".to_owned(), request.max_tokens.into());
        if let Some(context) = self.loaded_context {
            // Another context than that it was loaded with would load it anew.
            options.insert("num_ctx".to_owned(), context.into());
        }
        let mut body = json!({
            "model": self.model,
            "messages": messages(request),
            "stream": true,
            "keep_alive": OLLAMA_KEEP_ALIVE,
            "options": options,
        });
        if let Value::Object(body) = &mut body {
            body.extend(request.more.iter().cloned());
        }
        self.client.ask("/api/chat", &body, &mut OllamaStream, clock)
    }

    fn next_tokens(&self, text: &str, count: usize) -> Result<NextTokens, Failure> {
        let mut options = json!({ "temperature": 0, "num_predict": 1 });
        if let Some(context) = self.loaded_context {
            options["num_ctx"] = context.into();
        }
        let body = json!({
            "model": self.model,
            "prompt": text,
            "raw": true,
            "stream": false,
            "keep_alive": OLLAMA_KEEP_ALIVE,
            "logprobs": true,
            "top_logprobs": count,
            "options": options,
        });
        let answer = self
            .client
            .request("/api/generate", Some(&body), self.limits.request)?
            .json()?;
        match items(&answer, "logprobs")?.first() {
            Some(first) => from_entries(items(first, "top_logprobs")?),
            None => Err(unsupported("this version of Ollama")),
        }
    }

    fn processes(&self) -> Arc<dyn Processes> {
        processes_at(self.client.server())
    }

    fn log(&self) -> Option<&Path> {
        None
    }
}

impl Drop for OllamaServer {
    fn drop(&mut self) {
        // Nobody is left to be told; the model goes by itself after a while.
        let _ = self.unload();
    }
}

/// A streamed chat: a JSON object on each line, the last of which has `done`.
#[derive(Debug)]
struct OllamaStream;

impl AnswerReader for OllamaStream {
    fn framing(&self) -> Framing {
        Framing::JsonLines
    }

    fn read(&mut self, event: &Event, at: f64, answer: &mut Answer) -> Result<Step, Failure> {
        let line = parse(&event.data)?;
        if let Some(message) = error_of(&line) {
            return Err(told(&message));
        }
        let message = line.get("message").unwrap_or(&Value::Null);
        let mut piece = String::new();
        for name in ["thinking", "content"] {
            piece.push_str(text_of(message, name)?.unwrap_or(""));
        }
        for call in items(message, "tool_calls")? {
            piece.push_str(&call.to_string());
        }
        answer.add_piece(&piece, at);
        if line.get("done") != Some(&Value::Bool(true)) {
            return Ok(Step::More);
        }
        answer.finish_reason = text_of(&line, "done_reason")?.map(str::to_owned);
        let seconds = |name: &str| duration(&line, name, NANOSECONDS);
        let (prompt_tokens, generated) = (count_of(&line, "prompt_eval_count")?, count_of(&line, "eval_count")?);
        if let (Some(prompt_tokens), Some(completion_tokens)) = (prompt_tokens, generated) {
            answer.usage = Some(Usage {
                prompt_tokens,
                completion_tokens,
                cached_tokens: None,
            });
        }
        answer.timings = Some(ServerTimings {
            prompt_tokens,
            prompt: seconds("prompt_eval_duration")?,
            generated_tokens: generated,
            generation: seconds("eval_duration")?,
            load: seconds("load_duration")?,
            ..ServerTimings::default()
        });
        Ok(Step::Last)
    }
}
