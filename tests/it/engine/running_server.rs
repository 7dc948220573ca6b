//! A server on a port of its own, and how it is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mlx_diagnose::adapter::{LoraSettings, save_adapter};
use mlx_diagnose::device::Backend;
use mlx_diagnose::engine::{CompleteAnswer, Engine, EngineSettings, Request, SamplingSettings};
use mlx_diagnose::model::{Message, ModelSource, TemplateChoice, Tokenizer};
use mlx_diagnose::serving::{Listener, ServedModel, Server, ServerError, ServerSettings, Stopper};
use serde_json::{Value, json};

use crate::support::golden::{EXACT_PRECISION, root};
use crate::support::moved_adapter::attach_moved;

pub const CHAT: &str = "/v1/chat/completions";

pub const COMPLETIONS: &str = "/v1/completions";

/// Difference allowed between log-probabilities of the same computation among others, as in the engine's tests.
pub const LOG_PROBABILITIES: f64 = 2e-4;

/// Long enough for any test on a busy machine.
pub const SOON: Duration = Duration::from_mins(1);

/// Tokens that the embedded model holds.
pub const CONTEXT: usize = 256;

/// A server in this process.
pub struct Running {
    pub address: SocketAddr,
    pub engine: Engine,
    pub tokenizer: std::sync::Arc<Tokenizer>,
    pub stop_ids: BTreeSet<u32>,
    pub stopper: Stopper,
    pub thread: Option<JoinHandle<Result<(), ServerError>>>,
}

impl Running {
    pub fn end(&mut self) -> Result<(), ServerError> {
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopper.stop();
        self.stopper.stop();
        // A test that failed says more than what its server says at the end.
        let _ = self.end();
    }
}

pub fn embedded() -> ModelSource {
    ModelSource::Folder(root().join("fixtures/embedded/model"))
}

/// An adapter that changes what the embedded model says.
pub fn adapter() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut model = embedded().load(EXACT_PRECISION).unwrap().model;
    let settings = LoraSettings::default();
    attach_moved(&mut model, &settings);
    save_adapter(&model, &settings, "embedded", folder.path()).unwrap();
    folder
}

pub fn serve_with(
    adapters: &BTreeMap<String, std::path::PathBuf>,
    change: impl FnOnce(&mut EngineSettings, &mut ServerSettings),
) -> Running {
    let (mut engine, mut settings) = (EngineSettings::default(), ServerSettings::new("embedded"));
    change(&mut engine, &mut settings);
    let model = ServedModel::start(
        embedded().open().unwrap(),
        adapters,
        TemplateChoice::Own,
        Backend::select(),
        engine,
    )
    .unwrap();
    let (engine, tokenizer, stop_ids) = (model.engine.clone(), model.tokenizer.clone(), model.stop_ids.clone());
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &settings).unwrap();
    let address = listener.address();
    let server = Server::new(listener, model, settings).unwrap();
    let stopper = server.stopper();
    let thread = std::thread::spawn(move || server.run());
    Running {
        address,
        engine,
        tokenizer,
        stop_ids,
        stopper,
        thread: Some(thread),
    }
}

pub fn serve(change: impl FnOnce(&mut EngineSettings, &mut ServerSettings)) -> Running {
    serve_with(&BTreeMap::new(), change)
}

pub fn agent() -> ureq::Agent {
    let configuration = ureq::Agent::config_builder()
        .timeout_global(Some(SOON))
        .http_status_as_error(false)
        .proxy(None);
    configuration.build().into()
}

/// Status, the header `retry-after`, and body of an answer.
pub struct Answered {
    pub status: u16,
    pub retry_after: Option<String>,
    pub text: String,
}

impl Answered {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

pub fn answered(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answered {
    let mut response = response.unwrap();
    let retry_after = response.headers().get("retry-after");
    Answered {
        status: response.status().as_u16(),
        retry_after: retry_after.map(|value| value.to_str().unwrap().to_owned()),
        text: response.body_mut().read_to_string().unwrap(),
    }
}

pub fn get(server: &Running, path: &str) -> Answered {
    answered(agent().get(format!("http://{}{path}", server.address)).call())
}

pub fn post_text(server: &Running, path: &str, body: &str) -> Answered {
    let request = agent().post(format!("http://{}{path}", server.address));
    answered(request.header("content-type", "application/json").send(body))
}

pub fn post(server: &Running, path: &str, body: &Value) -> Value {
    let answered = post_text(server, path, &body.to_string());
    assert_eq!(answered.status, 200, "{}", answered.text);
    answered.json()
}

/// The chunks of a stream that ends as it should.
pub fn chunks(text: &str) -> Vec<Value> {
    let mut events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.pop(), Some("data: [DONE]"), "{text}");
    let data = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
    events.into_iter().map(data).collect()
}

pub fn stream(server: &Running, path: &str, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = true.into();
    body["stream_options"] = json!({ "include_usage": true });
    let answered = post_text(server, path, &body.to_string());
    assert_eq!(answered.status, 200, "{}", answered.text);
    chunks(&answered.text)
}

pub fn chat(text: &str) -> Value {
    json!({ "model": "embedded", "messages": [{ "role": "user", "content": text }] })
}

pub fn with(body: &Value, fields: &Value) -> Value {
    let mut body = body.clone();
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// What the engine says to a chat of one question, greedily.
pub fn asked_directly(server: &Running, question: &str, max_tokens: usize, adapter: Option<&str>) -> CompleteAnswer {
    let prompt = server
        .tokenizer
        .encode_chat(&[Message::new("user", question)], None, true);
    let request = Request {
        prompt: prompt.unwrap(),
        max_tokens,
        stop_ids: server.stop_ids.clone(),
        stop_strings: Vec::new(),
        sampling: SamplingSettings::default(),
        top_log_probabilities: Some(3),
        adapter: adapter.map(str::to_owned),
        priority: 0,
    };
    server.engine.submit(request).unwrap().complete().unwrap()
}

/// The same JSON, up to the last digits of log-probabilities.
pub fn assert_close(place: &str, found: &Value, expected: &Value) {
    match (found, expected) {
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{place}");
            for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert_close(&format!("{place}[{index}]"), found, expected);
            }
        }
        (Value::Object(found), Value::Object(expected)) => {
            assert_eq!(
                found.keys().collect::<Vec<_>>(),
                expected.keys().collect::<Vec<_>>(),
                "{place}"
            );
            for (name, expected) in expected {
                assert_close(&format!("{place}.{name}"), &found[name], expected);
            }
        }
        (Value::Number(found), Value::Number(expected)) => {
            let difference = found.as_f64().unwrap() - expected.as_f64().unwrap();
            assert!(difference.abs() <= LOG_PROBABILITIES, "{place}: {found} and {expected}");
        }
        _ => assert_eq!(found, expected, "{place}"),
    }
}

/// Waits until nothing is asked of the engine any more, and it has counted what was: it counts an end after telling it.
pub fn assert_becomes_idle(engine: &Engine) {
    let begun = Instant::now();
    loop {
        let seen = engine.statistics();
        let is_counted = seen.running == 0 && seen.requests == seen.finished + seen.cancelled + seen.failed;
        if engine.outstanding() == 0 && is_counted {
            return;
        }
        assert!(
            begun.elapsed() < SOON,
            "{} requests were kept: {seen:?}",
            engine.outstanding()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A completion that goes on until its length is reached.
pub fn endless(server: &Running, max_tokens: usize) -> Value {
    let never: serde_json::Map<String, Value> = server
        .stop_ids
        .iter()
        .map(|id| (id.to_string(), json!(-1000)))
        .collect();
    json!({ "prompt": "The sea is", "max_tokens": max_tokens, "logit_bias": never, "temperature": 0 })
}

/// What the server says to bytes as they are; the connection ends when it says so or `SOON` is over.
pub fn raw(server: &Running, bytes: &[u8]) -> String {
    let mut connection = TcpStream::connect(server.address).unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    connection.write_all(bytes).unwrap();
    let mut text = Vec::new();
    // A server that has said its last word may reset the connection.
    let _ = connection.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// A connection on which a long answer has begun.
pub fn begun(server: &Running, streams: bool) -> TcpStream {
    let body = with(&endless(server, 200), &json!({ "stream": streams })).to_string();
    let mut connection = TcpStream::connect(server.address).unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    let head = format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    write!(connection, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    if streams {
        let mut first = [0; 256];
        assert!(connection.read(&mut first).unwrap() > 0);
    }
    connection
}

pub fn diagnose() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diagnose"));
    command.env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
    command
}
