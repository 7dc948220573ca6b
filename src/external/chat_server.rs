use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::{Map, Value, json};
use thiserror::Error;
use ureq::http::Uri;

use super::generator::Reply;
use crate::excerpt::beginning;
use crate::interrupt::Interrupt;

/// How often the user's wish is looked at while a server computes.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes of a server's answer that are read at most.
const LONGEST_BODY: u64 = 16 << 20;

/// A server that speaks OpenAI's chat API: `mlx_lm.server`, `llama-server`, LM Studio, Ollama.
///
/// Source: <https://platform.openai.com/docs/api-reference/chat/create>.
#[derive(Debug)]
pub struct ChatServer<'run> {
    /// Its address, with or without `/v1`.
    pub address: &'run str,
    /// The model to ask for; `None` for the one that it serves anyway.
    pub model: Option<&'run str>,
    /// Longest time that one answer may take.
    pub timeout: Duration,
}

/// Why a server gave no answer.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The address is none.
    #[error("`{address}` is no address of a server\n  expected: for example `http://127.0.0.1:8080`")]
    Address {
        /// As given.
        address: String,
    },
    /// The server cannot be reached, or broke the connection.
    #[error(
        "the server at `{address}` gave no answer\n  found: {detail}\n  hint: start the server, and wait until its model is loaded"
    )]
    Unreachable {
        /// As given.
        address: String,
        /// What happened.
        detail: String,
    },
    /// The server takes too long.
    #[error("the server at `{address}` gave no answer in {} s\n  hint: give it more time with `--generator-timeout`", .timeout.as_secs_f64())]
    TooSlow {
        /// As given.
        address: String,
        /// Longest time that one answer may take.
        timeout: Duration,
    },
    /// The server refused.
    #[error("the server at `{address}` refused\n  found: status {status}, {detail}\n  hint: {hint}")]
    Refused {
        /// As given.
        address: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        detail: String,
        /// What may help.
        hint: String,
    },
    /// The answer is none of a chat.
    #[error(
        "the server at `{address}` does not answer as OpenAI's chat API does\n  found: {found}\n  expected: choices[0].message.content"
    )]
    Format {
        /// As given.
        address: String,
        /// The beginning of what it said.
        found: String,
    },
}

impl ChatServer<'_> {
    /// The answer to one prompt, decoded greedily; `None` when the user ended it.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or speaks another language.
    pub fn answer(&self, prompt: &str, max_tokens: usize, interrupt: &Interrupt) -> Result<Option<Reply>, ServerError> {
        let base = self.base()?;
        let mut body = Map::new();
        // mlx_lm.server answers with the model it was started with when none is named; others ignore the name.
        if let Some(model) = self.model {
            body.insert("model".to_owned(), model.into());
        }
        body.insert("messages".to_owned(), json!([{ "role": "user", "content": prompt }]));
        body.insert("max_tokens".to_owned(), max_tokens.into());
        body.insert("temperature".to_owned(), 0.into());
        body.insert("stream".to_owned(), false.into());
        let body = Value::Object(body).to_string();
        let agent = self.agent(&base);
        let address = format!("{base}/chat/completions");
        let (sender, receiver) = channel();
        // A thread of its own, since a call that waits for a server cannot be ended.
        std::thread::spawn(move || {
            let response = agent
                .post(&address)
                .header("content-type", "application/json")
                .send(&body)
                .and_then(|mut response| {
                    let status = response.status().as_u16();
                    let reader = response.body_mut().with_config().limit(LONGEST_BODY);
                    Ok((status, reader.read_to_string()?))
                });
            // Nobody listens any more when the user ended it.
            let _ = sender.send(response);
        });
        let response = loop {
            match receiver.recv_timeout(LOOK) {
                Ok(response) => break response,
                Err(RecvTimeoutError::Timeout) if interrupt.is_requested() => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.unreachable("the call ended without a word")),
            }
        };
        let (status, text) = response.map_err(|error| match error {
            ureq::Error::Timeout(_) => ServerError::TooSlow {
                address: self.address.to_owned(),
                timeout: self.timeout,
            },
            error => self.unreachable(&error.to_string()),
        })?;
        if !(200..300).contains(&status) {
            return Err(self.refused(&base, status, &text));
        }
        self.reply(&text).map(Some)
    }

    /// The address of the API, which ends in `/v1` unless the user says otherwise.
    fn base(&self) -> Result<String, ServerError> {
        let address = self.address.trim_end_matches('/');
        let wrong = || ServerError::Address {
            address: self.address.to_owned(),
        };
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        if uri.host().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        let has_no_path = uri.path().trim_matches('/').is_empty();
        Ok(if has_no_path {
            format!("{address}/v1")
        } else {
            address.to_owned()
        })
    }

    fn agent(&self, base: &str) -> ureq::Agent {
        let mut configuration = ureq::Agent::config_builder()
            .timeout_global(Some(self.timeout))
            .http_status_as_error(false);
        let host = base.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
        if host.is_some_and(|host| host == "localhost" || host == "[::1]" || host.starts_with("127.")) {
            // A proxy of the environment would look for the server on another machine.
            configuration = configuration.proxy(None);
        }
        configuration.build().into()
    }

    fn reply(&self, text: &str) -> Result<Reply, ServerError> {
        let wrong = || ServerError::Format {
            address: self.address.to_owned(),
            found: beginning(text),
        };
        let value: Value = serde_json::from_str(text).map_err(|_| wrong())?;
        let choice = &value["choices"][0];
        let message = choice["message"].as_object().ok_or_else(wrong)?;
        let content = match message.get("content") {
            Some(Value::String(content)) => content.as_str(),
            // An answer of no token, or of thoughts alone.
            Some(Value::Null) | None => "",
            Some(_) => return Err(wrong()),
        };
        Ok(Reply {
            text: content.trim().to_owned(),
            ended: choice["finish_reason"].as_str().map(|reason| reason != "length"),
        })
    }

    fn refused(&self, base: &str, status: u16, text: &str) -> ServerError {
        let is_its_own_failure = status >= 500;
        let hint = match (self.model, self.listed(base)) {
            _ if is_its_own_failure => "look into the server's own log".to_owned(),
            (None, Some(listed)) => format!("name one of its models with `--generator-model`: {listed}"),
            (Some(_), Some(listed)) => format!("it has these models: {listed}"),
            (None, None) => "name its model with `--generator-model`".to_owned(),
            (Some(_), None) => "look into the server's own log".to_owned(),
        };
        ServerError::Refused {
            address: self.address.to_owned(),
            status,
            detail: beginning(text),
            hint,
        }
    }

    /// The models that the server lists; `None` when it lists none.
    fn listed(&self, base: &str) -> Option<String> {
        let mut response = self.agent(base).get(format!("{base}/models")).call().ok()?;
        let text = response
            .body_mut()
            .with_config()
            .limit(LONGEST_BODY)
            .read_to_string()
            .ok()?;
        let value: Value = serde_json::from_str(&text).ok()?;
        let mut names: Vec<&str> = value["data"]
            .as_array()?
            .iter()
            .filter_map(|model| model["id"].as_str())
            .collect();
        names.sort_unstable();
        (!names.is_empty()).then(|| beginning(&names.join(", ")))
    }

    fn unreachable(&self, detail: &str) -> ServerError {
        ServerError::Unreachable {
            address: self.address.to_owned(),
            detail: detail.to_owned(),
        }
    }
}
