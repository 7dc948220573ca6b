//! `diagnose serve`: OpenAI's HTTP interface says what the engine says, and outlives whatever is sent to it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mlx_diagnose::adapter::{LoraSettings, attach, save_adapter};
use mlx_diagnose::device::Backend;
use mlx_diagnose::engine::{CompleteAnswer, Engine, EngineSettings, FinishReason, Request, SamplingSettings};
use mlx_diagnose::model::{Message, ModelSource, TemplateChoice, Tokenizer};
use mlx_diagnose::serving::{ApiKey, Listener, ServedModel, Server, ServerError, ServerSettings, Stopper};
use mlx_rs::Array;
use mlx_rs::module::Param;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::golden::{EXACT_PRECISION, root};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
/// Difference allowed between log-probabilities of the same computation among others, as in the engine's tests.
const LOG_PROBABILITIES: f64 = 2e-4;
/// Long enough for any test on a busy machine.
const SOON: Duration = Duration::from_mins(1);
/// Tokens that the embedded model holds.
const CONTEXT: usize = 256;

/// A server in this process.
struct Running {
    address: SocketAddr,
    engine: Engine,
    tokenizer: std::sync::Arc<Tokenizer>,
    stop_ids: BTreeSet<u32>,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

impl Running {
    fn end(&mut self) -> Result<(), ServerError> {
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

fn embedded() -> ModelSource {
    ModelSource::Folder(root().join("fixtures/embedded/model"))
}

/// An adapter that changes what the embedded model says.
fn adapter() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut model = embedded().load(EXACT_PRECISION).unwrap().model;
    let settings = LoraSettings::default();
    attach(&mut model, &settings, 3).unwrap();
    for (_, linear) in model.linears_mut() {
        if let Some(lora_b) = &linear.lora_b.value {
            let ramp: Vec<f32> = (0..lora_b.size())
                .map(|place| (place % 7) as f32 * 0.01 - 0.03)
                .collect();
            linear.lora_b = Param::new(Some(Array::from_slice(&ramp, lora_b.shape())));
        }
    }
    save_adapter(&model, &settings, "embedded", folder.path()).unwrap();
    folder
}

fn serve_with(
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

fn serve(change: impl FnOnce(&mut EngineSettings, &mut ServerSettings)) -> Running {
    serve_with(&BTreeMap::new(), change)
}

fn agent() -> ureq::Agent {
    let configuration = ureq::Agent::config_builder()
        .timeout_global(Some(SOON))
        .http_status_as_error(false)
        .proxy(None);
    configuration.build().into()
}

/// Status, the header `retry-after`, and body of an answer.
struct Answered {
    status: u16,
    retry_after: Option<String>,
    text: String,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

fn answered(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answered {
    let mut response = response.unwrap();
    let retry_after = response.headers().get("retry-after");
    Answered {
        status: response.status().as_u16(),
        retry_after: retry_after.map(|value| value.to_str().unwrap().to_owned()),
        text: response.body_mut().read_to_string().unwrap(),
    }
}

fn get(server: &Running, path: &str) -> Answered {
    answered(agent().get(format!("http://{}{path}", server.address)).call())
}

fn post_text(server: &Running, path: &str, body: &str) -> Answered {
    let request = agent().post(format!("http://{}{path}", server.address));
    answered(request.header("content-type", "application/json").send(body))
}

fn post(server: &Running, path: &str, body: &Value) -> Value {
    let answered = post_text(server, path, &body.to_string());
    assert_eq!(answered.status, 200, "{}", answered.text);
    answered.json()
}

/// The chunks of a stream that ends as it should.
fn chunks(text: &str) -> Vec<Value> {
    let mut events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.pop(), Some("data: [DONE]"), "{text}");
    let data = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
    events.into_iter().map(data).collect()
}

fn stream(server: &Running, path: &str, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = true.into();
    body["stream_options"] = json!({ "include_usage": true });
    let answered = post_text(server, path, &body.to_string());
    assert_eq!(answered.status, 200, "{}", answered.text);
    chunks(&answered.text)
}

fn chat(text: &str) -> Value {
    json!({ "model": "embedded", "messages": [{ "role": "user", "content": text }] })
}

fn with(body: &Value, fields: &Value) -> Value {
    let mut body = body.clone();
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// What the engine says to a chat of one question, greedily.
fn asked_directly(server: &Running, question: &str, max_tokens: usize, adapter: Option<&str>) -> CompleteAnswer {
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
fn assert_close(place: &str, found: &Value, expected: &Value) {
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
fn assert_becomes_idle(engine: &Engine) {
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
fn endless(server: &Running, max_tokens: usize) -> Value {
    let never: serde_json::Map<String, Value> = server
        .stop_ids
        .iter()
        .map(|id| (id.to_string(), json!(-1000)))
        .collect();
    json!({ "prompt": "The sea is", "max_tokens": max_tokens, "logit_bias": never, "temperature": 0 })
}

#[test]
fn a_chat_is_answered_with_the_tokens_and_log_probabilities_of_the_engine() {
    let server = serve(|_, _| ());
    let question = "What colour is the Blue Gull?";
    let expected = asked_directly(&server, question, 30, None);
    assert!(expected.text.len() > 5, "{}", expected.text);
    let fields = json!({ "temperature": 0, "max_completion_tokens": 30, "logprobs": true, "top_logprobs": 3 });
    let found = post(&server, CHAT, &with(&chat(question), &fields));
    assert_eq!(found["object"], "chat.completion");
    assert_eq!(found["model"], "embedded");
    let choice = &found["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["content"], expected.text.as_str());
    assert_eq!(expected.finished.reason, FinishReason::Stop);
    assert_eq!(choice["finish_reason"], "stop");
    let name = |id: u32| server.tokenizer.token_text(id).unwrap();
    let entries: Vec<Value> = expected
        .tokens
        .iter()
        .zip(&expected.log_probabilities)
        .map(|(&id, found)| {
            let entry =
                |id: u32, value: f32| json!({ "token": name(id), "logprob": value, "bytes": name(id).as_bytes() });
            let mut chosen = entry(id, found.chosen);
            chosen["top_logprobs"] = found.top.iter().map(|&(id, value)| entry(id, value)).collect();
            chosen
        })
        .collect();
    assert_close("logprobs", &choice["logprobs"]["content"], &Value::from(entries));
    let usage = expected.finished.usage;
    assert_eq!(
        found["usage"],
        json!({
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.generated_tokens,
            "total_tokens": usage.prompt_tokens + usage.generated_tokens,
            "prompt_tokens_details": { "cached_tokens": 0 },
        })
    );
}

#[rstest]
#[case::chat(CHAT, json!({ "messages": [{ "role": "user", "content": "Who is the harbour keeper?" }], "logprobs": true, "top_logprobs": 2 }))]
#[case::completion(COMPLETIONS, json!({ "prompt": ["The sea is", "Tom lives in"], "logprobs": 2 }))]
fn a_stream_says_what_the_whole_answer_says(#[case] path: &str, #[case] question: Value) {
    let server = serve(|_, _| ());
    let settings = json!({ "seed": 11, "temperature": 0.9, "max_tokens": 24, "n": 2, "stop": ["zzz"] });
    let question = with(&question, &settings);
    let whole = post(&server, path, &question);
    let mut chunks = stream(&server, path, &question);
    let last = chunks.pop().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"], whole["usage"]);
    let ids: BTreeSet<&str> = chunks.iter().map(|chunk| chunk["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1);
    let choices = whole["choices"].as_array().unwrap();
    let mut all_tokens = 0;
    for (index, expected) in choices.iter().enumerate() {
        assert_eq!(expected["index"], index);
        let (mut text, mut reasons, mut tokens) = (String::new(), Vec::new(), Vec::new());
        for chunk in &chunks {
            assert_eq!(chunk["usage"], Value::Null);
            let part = &chunk["choices"][0];
            if part["index"] != index {
                continue;
            }
            let piece = if path == CHAT {
                &part["delta"]["content"]
            } else {
                &part["text"]
            };
            text.push_str(piece.as_str().unwrap_or(""));
            reasons.extend(part["finish_reason"].as_str());
            let told = if path == CHAT {
                &part["logprobs"]["content"]
            } else {
                &part["logprobs"]["tokens"]
            };
            tokens.extend(told.as_array().into_iter().flatten().cloned());
        }
        let whole_text = if path == CHAT {
            &expected["message"]["content"]
        } else {
            &expected["text"]
        };
        assert_eq!(whole_text, text.as_str());
        assert_eq!(reasons, [expected["finish_reason"].as_str().unwrap()]);
        let told = if path == CHAT {
            &expected["logprobs"]["content"]
        } else {
            &expected["logprobs"]["tokens"]
        };
        all_tokens += tokens.len();
        assert_close("logprobs", &Value::from(tokens), told);
    }
    assert_eq!(choices.len(), if path == CHAT { 2 } else { 4 });
    assert!(all_tokens > 20, "{all_tokens}");
    assert_becomes_idle(&server.engine);
}

#[test]
fn a_completion_takes_its_prompt_in_four_forms() {
    let server = serve(|_, _| ());
    let (first, second) = ("The sea is", "Tom lives in");
    let ids = |text: &str| server.tokenizer.encode(text, true).unwrap();
    let texts = |prompt: Value| -> Vec<String> {
        let question = json!({ "prompt": prompt, "temperature": 0, "max_tokens": 8 });
        let answer = post(&server, COMPLETIONS, &question);
        assert_eq!(answer["object"], "text_completion");
        let choices = answer["choices"].as_array().unwrap();
        choices
            .iter()
            .map(|choice| choice["text"].as_str().unwrap().to_owned())
            .collect()
    };
    let one = texts(json!(first));
    assert_eq!(texts(json!(ids(first))), one);
    assert_eq!(texts(json!([first])), one);
    let both = texts(json!([first, second]));
    assert_eq!(both.len(), 2);
    assert_eq!(texts(json!([ids(first), ids(second)])), both);
    assert_eq!(both[0], one[0]);
    assert_ne!(both[0], both[1]);
}

#[test]
fn the_log_probabilities_of_a_completion_name_every_token_and_its_place() {
    let server = serve(|_, _| ());
    let question = json!({ "prompt": "The sea is", "temperature": 0, "max_tokens": 8, "logprobs": 2 });
    let answer = post(&server, COMPLETIONS, &question);
    let choice = &answer["choices"][0];
    let told = &choice["logprobs"];
    let tokens: Vec<&str> = told["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token.as_str().unwrap())
        .collect();
    assert_eq!(tokens.concat(), choice["text"].as_str().unwrap());
    let mut offset = 0;
    for (index, token) in tokens.iter().enumerate() {
        assert_eq!(told["text_offset"][index], offset);
        offset += token.chars().count();
        let top = told["top_logprobs"][index].as_object().unwrap();
        assert_eq!(top.len(), 2);
        assert_eq!(top[*token], told["token_logprobs"][index]);
        assert!(
            top.values()
                .all(|value| value.as_f64() <= told["token_logprobs"][index].as_f64())
        );
    }
}

#[test]
fn the_model_that_is_named_answers() {
    let folder = adapter();
    let adapters = BTreeMap::from([("org/pirate".to_owned(), folder.path().to_owned())]);
    let server = serve_with(&adapters, |_, _| ());
    let question = "Who is the harbour keeper?";
    let asked = |model: &str| -> Value {
        let fields = json!({ "model": model, "temperature": 0, "max_tokens": 12 });
        post(&server, CHAT, &with(&chat(question), &fields))
    };
    let expected = |adapter| asked_directly(&server, question, 12, adapter).text;
    let (base, pirate) = (asked("embedded"), asked("org/pirate"));
    assert_eq!(base["choices"][0]["message"]["content"], expected(None).as_str());
    assert_eq!(
        pirate["choices"][0]["message"]["content"],
        expected(Some("org/pirate")).as_str()
    );
    assert_eq!(pirate["model"], "org/pirate");
    assert_ne!(
        base["choices"][0]["message"]["content"],
        pirate["choices"][0]["message"]["content"]
    );
    let models = get(&server, "/v1/models").json();
    let ids: Vec<&Value> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| &model["id"])
        .collect();
    assert_eq!(ids, ["embedded", "org/pirate"]);
    assert_eq!(get(&server, "/v1/models/org/pirate").json(), models["data"][1]);
    let unknown = get(&server, "/v1/models/org/pirat");
    assert_eq!(unknown.status, 404);
    assert!(unknown.text.contains("did you mean `org/pirate`?"), "{}", unknown.text);
    let unknown = post_text(
        &server,
        CHAT,
        &with(&chat("Hi"), &json!({ "model": "gpt-4o" })).to_string(),
    );
    assert_eq!(unknown.status, 404);
    let error = &unknown.json()["error"];
    assert_eq!(
        (&error["code"], &error["param"]),
        (&json!("model_not_found"), &json!("model"))
    );
    assert!(
        unknown.text.contains("there are: embedded, org/pirate"),
        "{}",
        unknown.text
    );
}

#[test]
fn an_answer_ends_before_a_stop_string() {
    let server = serve(|_, _| ());
    let question = with(
        &chat("What happens on Saturday?"),
        &json!({ "temperature": 0, "max_tokens": 40 }),
    );
    let text = post(&server, CHAT, &question)["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned();
    let word = text.split_whitespace().nth(2).unwrap();
    for stop in [json!(word), json!(["zzz", word])] {
        let answer = post(&server, CHAT, &with(&question, &json!({ "stop": stop })));
        let choice = &answer["choices"][0];
        assert_eq!(choice["message"]["content"], text[..text.find(word).unwrap()]);
        assert_eq!(choice["finish_reason"], "stop");
    }
}

#[test]
fn a_seed_makes_an_answer_repeatable_and_another_seed_another_answer() {
    let server = serve(|_, _| ());
    let question = json!({ "prompt": "The sea is", "max_tokens": 20, "temperature": 2 });
    let asked = |fields: Value| post(&server, COMPLETIONS, &with(&question, &fields))["choices"].clone();
    let text = |choice: &Value| choice["text"].as_str().unwrap().to_owned();
    let (first, again, other) = (
        asked(json!({ "seed": 5 })),
        asked(json!({ "seed": 5 })),
        asked(json!({ "seed": -6 })),
    );
    assert_eq!(text(&first[0]), text(&again[0]));
    assert_ne!(text(&first[0]), text(&other[0]));
    let several = asked(json!({ "seed": 5, "n": 3 }));
    assert_eq!(text(&several[0]), text(&first[0]));
    let different: BTreeSet<String> = several.as_array().unwrap().iter().map(text).collect();
    assert_eq!(different.len(), 3);
}

#[rstest]
#[case(json!({ "temperature": 1e-45 }))]
#[case(json!({ "temperature": 3e38 }))]
#[case(json!({ "repetition_penalty": 0.01, "temperature": 1e-45 }))]
#[case(json!({ "repetition_penalty": 100, "presence_penalty": 2, "frequency_penalty": -2 }))]
#[case(json!({ "logit_bias": { "5": -1000, "6": 1000 }, "repetition_penalty": 100, "logprobs": 3 }))]
#[case(json!({ "min_p": 1, "top_p": 1e-45, "top_k": 18_446_744_073_709_551_615_u64 }))]
#[case(json!({ "repetition_context_size": 18_446_744_073_709_551_615_u64, "repetition_penalty": 1.2 }))]
fn settings_at_their_bounds_are_answered(#[case] settings: Value) {
    let server = serve(|_, _| ());
    let question = with(&json!({ "prompt": "The sea is", "max_tokens": 20, "n": 2 }), &settings);
    assert_eq!(
        post(&server, COMPLETIONS, &question)["choices"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn connections_beyond_the_limit_wait_until_one_ends() {
    let server = serve(|_, settings| settings.connections = 1);
    let first = begun(&server, true);
    let begun = Instant::now();
    let waiting = std::thread::scope(|scope| {
        let asked = scope.spawn(|| get(&server, "/health").status);
        std::thread::sleep(Duration::from_millis(100));
        assert!(!asked.is_finished());
        drop(first);
        asked.join().unwrap()
    });
    assert_eq!(waiting, 200);
    assert!(begun.elapsed() >= Duration::from_millis(100));
}

#[test]
fn a_prompt_that_was_there_before_is_counted_as_cached() {
    let server = serve(|engine, _| engine.prefix_bytes = 64 << 20);
    let question = with(
        &chat("Tell me about the bakery."),
        &json!({ "temperature": 0, "max_tokens": 10 }),
    );
    let first = post(&server, CHAT, &question);
    let second = post(&server, CHAT, &question);
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let prompt = first["usage"]["prompt_tokens"].as_u64().unwrap();
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap();
    assert!((1..prompt).contains(&cached), "{cached} of {prompt}");
    assert_eq!(server.engine.statistics().reused_tokens, cached);
    assert_eq!(first["choices"][0]["message"], second["choices"][0]["message"]);
}

#[test]
fn a_message_may_come_in_parts_and_with_fields_that_say_nothing() {
    let server = serve(|_, _| ());
    let greedy = json!({ "temperature": 0, "max_tokens": 12 });
    let plain = json!({ "messages": [
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": "What colour is the Blue Gull?" },
    ] });
    let parts = json!({
        "messages": [
            { "role": "developer", "content": "Be brief." },
            { "role": "user", "content": [{ "type": "text", "text": "What colour is " }, { "type": "text", "text": "the Blue Gull?" }] },
        ],
        "user": "me", "metadata": { "a": "b" }, "store": false, "tools": [], "tool_choice": "none", "top_p": null,
        "response_format": { "type": "text" },
    });
    let text = |question: &Value| post(&server, CHAT, &with(question, &greedy))["choices"][0]["message"].clone();
    assert_eq!(text(&plain), text(&parts));
}

#[test]
fn the_metrics_are_the_statistics_of_the_engine() {
    let server = serve(|_, _| ());
    post(
        &server,
        COMPLETIONS,
        &json!({ "prompt": "The sea is", "max_tokens": 7, "temperature": 0 }),
    );
    assert_eq!(post_text(&server, CHAT, "{").status, 400);
    assert_becomes_idle(&server.engine);
    let page = get(&server, "/metrics").text;
    let mut values: BTreeMap<&str, f64> = BTreeMap::new();
    let mut declared = BTreeSet::new();
    for line in page.lines() {
        if let Some(declaration) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declaration.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(declared.insert(name), "{name} twice");
        } else if !line.starts_with("# HELP ") {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            let is_declared = ["", "_bucket", "_sum", "_count"]
                .iter()
                .any(|end| name.strip_suffix(end).is_some_and(|name| declared.contains(name)));
            assert!(name.starts_with("mlx_diagnose_") && is_declared, "{line}");
            assert!(values.insert(sample, value.parse().unwrap()).is_none(), "{line} twice");
        }
    }
    let statistics = server.engine.statistics();
    for (name, expected) in [
        ("requests_total", statistics.requests),
        ("requests_finished_total", statistics.finished),
        ("generated_tokens_total", statistics.generated_tokens),
        ("prompt_tokens_total", statistics.prompt_tokens),
        ("between_tokens_seconds_count", statistics.between_tokens.count),
    ] {
        assert_eq!(
            values[format!("mlx_diagnose_{name}").as_str()],
            expected as f64,
            "{name}"
        );
    }
    let buckets: Vec<f64> = page
        .lines()
        .filter_map(|line| line.strip_prefix("mlx_diagnose_step_seconds_bucket"))
        .map(|rest| rest.rsplit_once(' ').unwrap().1.parse().unwrap())
        .collect();
    assert!(buckets.is_sorted());
    assert_eq!(buckets.last(), Some(&(statistics.step.count as f64)));
    let sample = "mlx_diagnose_http_responses_total{path=\"/v1/chat/completions\",status=\"400\"}";
    assert_eq!(values[sample], 1.0);
}

/// Bodies that are wrong as a whole: path, body, status, and what the error has to name.
fn bad_bodies() -> Vec<(&'static str, String, u16, &'static str)> {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let large = format!("{{\"messages\": \"{}\"}}", "x".repeat(10_000_000));
    let unknown = with(&chat("Hi"), &json!({ "model": "embeded" }));
    vec![
        (CHAT, "{".to_owned(), 400, "not JSON"),
        (CHAT, String::new(), 400, "not JSON"),
        (CHAT, "[1]".to_owned(), 400, "expected a JSON object"),
        (CHAT, deep.clone(), 400, "recursion limit"),
        (CHAT, format!("{{\"messages\": {deep}}}"), 400, "recursion limit"),
        (CHAT, "{}".to_owned(), 400, "`messages`"),
        (CHAT, unknown.to_string(), 404, "did you mean `embedded`?"),
        (COMPLETIONS, "{}".to_owned(), 400, "`prompt`"),
        ("/v1/embeddings", "{}".to_owned(), 404, "/v1/completions"),
        ("/v1/models", "{}".to_owned(), 405, "does not take POST"),
        (CHAT, large, 413, "2000000 bytes"),
    ]
}

/// Conversations that are wrong, and what the error has to name.
fn bad_conversations() -> Vec<(Value, &'static str)> {
    let image = json!([{ "type": "image_url", "image_url": {} }]);
    let long = "word ".repeat(CONTEXT + 10);
    vec![
        (json!([]), "`messages`"),
        (json!("Hi"), "`messages`"),
        (json!([{ "content": "Hi" }]), "`messages[0].role`"),
        (json!([{ "role": "wizard", "content": "Hi" }]), "`messages[0].role`"),
        (json!([{ "role": "tool", "content": "Hi" }]), "`messages[0].role`"),
        (json!([{ "role": "user", "content": 5 }]), "`messages[0].content`"),
        (json!([{ "role": "user" }]), "`messages[0].content`"),
        (
            json!([{ "role": "user", "content": image }]),
            "`messages[0].content[0].type`",
        ),
        (json!([{ "role": "user", "contents": "Hi" }]), "`messages[0].content`"),
        (json!([{ "role": "user", "content": long }]), "context_length_exceeded"),
    ]
}

/// Settings of a chat that are wrong, and what the error has to name.
fn bad_settings() -> Vec<(Value, &'static str)> {
    let huge = 18_446_744_073_709_551_615_u64;
    let misspelt = json!({ "stream": true, "stream_options": { "include_usag": true } });
    let schema = json!({ "response_format": { "type": "json_object" } });
    vec![
        (json!({ "max_tokens": -1 }), "`max_tokens`"),
        (json!({ "max_tokens": 0 }), "`max_tokens`"),
        (json!({ "max_tokens": 1.5 }), "`max_tokens`"),
        (json!({ "max_tokens": 100_000 }), "context_length_exceeded"),
        (json!({ "max_completion_tokens": huge }), "context_length_exceeded"),
        (json!({ "max_tokens": 5, "max_completion_tokens": 6 }), "one of the two"),
        (json!({ "temperature": "hot" }), "`temperature`"),
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "temperature": 1e300 }), "`temperature`"),
        (json!({ "top_p": 0 }), "`top_p`"),
        (json!({ "min_p": 2 }), "min_p"),
        (json!({ "repetition_penalty": 1e-38 }), "`repetition_penalty`"),
        (json!({ "presence_penalty": 3 }), "`presence_penalty`"),
        (json!({ "frequency_penalty": -1e300 }), "`frequency_penalty`"),
        (json!({ "logit_bias": { "5": 3e38 } }), "logit_bias.5"),
        (json!({ "logit_bias": { "99999999": 1 } }), "logit_bias.99999999"),
        (json!({ "logit_bias": { "word": 1 } }), "logit_bias.word"),
        (json!({ "seed": "x" }), "`seed`"),
        (json!({ "n": 1000 }), "`n`"),
        (json!({ "stop": [""] }), "`stop`"),
        (json!({ "stop": vec!["a"; 17] }), "`stop`"),
        (json!({ "stop": { "a": 1 } }), "`stop`"),
        (json!({ "logprobs": 3 }), "`logprobs`"),
        (json!({ "top_logprobs": 3 }), "`top_logprobs`"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "`top_logprobs`"),
        (json!({ "tools": [{ "type": "function" }] }), "`tools` is not supported"),
        (schema, "`response_format` is not supported"),
        (json!({ "stream_options": {} }), "`stream_options`"),
        (misspelt, "did you mean `stream_options.include_usage`?"),
        (json!({ "temprature": 1 }), "did you mean `temperature`?"),
        (json!({ "model": 7 }), "`model`"),
    ]
}

/// Fields of a completion that are wrong, and what the error has to name.
fn bad_completions() -> Vec<(Value, &'static str)> {
    vec![
        (json!({ "prompt": "" }), "prompt"),
        (json!({ "prompt": [] }), "`prompt`"),
        (json!({ "prompt": [1, "a"] }), "`prompt[0]`"),
        (json!({ "prompt": [-1] }), "`prompt[0]`"),
        (json!({ "prompt": [[1], [99_999_999]] }), "99999999"),
        (json!({ "prompt": vec!["a"; 65] }), "`prompt`"),
        (json!({ "prompt": ["a", "b"], "n": 64 }), "`prompt`"),
        (json!({ "prompt": vec![5; CONTEXT] }), "context_length_exceeded"),
        (json!({ "echo": true }), "`echo` is not supported"),
        (json!({ "suffix": "end" }), "`suffix` is not supported"),
        (json!({ "best_of": 3 }), "`best_of` is not supported"),
        (json!({ "messages": [] }), "`messages` is not known"),
    ]
}

#[test]
fn every_bad_request_has_its_answer_and_the_server_goes_on() {
    let server = serve(|_, _| ());
    let conversations = bad_conversations().into_iter();
    let conversations = conversations.map(|(messages, words)| (CHAT, json!({ "messages": messages }), words));
    let settings = bad_settings().into_iter();
    let settings = settings.map(|(fields, words)| (CHAT, with(&chat("Hi"), &fields), words));
    let completions = bad_completions().into_iter();
    let completions =
        completions.map(|(fields, words)| (COMPLETIONS, with(&json!({ "prompt": "Hi" }), &fields), words));
    let fields = conversations.chain(settings).chain(completions);
    let fields = fields.map(|(path, body, words)| (path, body.to_string(), 400, words));
    for (path, body, status, words) in bad_bodies().into_iter().chain(fields) {
        let shown: String = body.chars().take(120).collect();
        let answered = post_text(&server, path, &body);
        assert_eq!(answered.status, status, "{path} {shown}: {}", answered.text);
        let error = &answered.json()["error"];
        let message = error["message"].as_str().unwrap();
        let code = error["code"].as_str().unwrap_or("");
        assert!(message.contains(words) || code == words, "{path} {shown}: {error}");
        assert!(
            message.len() < 2000 && error["type"] == "invalid_request_error",
            "{error}"
        );
    }
    assert_eq!(get(&server, "/nowhere").status, 404);
    assert_eq!(get(&server, CHAT).status, 405);
    assert_eq!(server.engine.outstanding(), 0);
    post(&server, CHAT, &with(&chat("Hi"), &json!({ "max_tokens": 2 })));
    assert_becomes_idle(&server.engine);
    assert_eq!(server.engine.statistics().requests, 1);
}

/// What the server says to bytes as they are; the connection ends when it says so or `SOON` is over.
fn raw(server: &Running, bytes: &[u8]) -> String {
    let mut connection = TcpStream::connect(server.address).unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    connection.write_all(bytes).unwrap();
    let mut text = Vec::new();
    // A server that has said its last word may reset the connection.
    let _ = connection.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_request_that_a_foreign_page_could_make_is_refused() {
    let server = serve(|_, _| ());
    let asked = |head: &str| {
        let body = chat("Hi").to_string();
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n{head}\r\n",
            body.len()
        );
        raw(&server, format!("{head}{body}").as_bytes())
    };
    let local = "host: localhost:80\r\n";
    assert!(asked(&format!("{local}content-type: text/plain\r\n")).starts_with("HTTP/1.1 415 "));
    assert!(asked(local).starts_with("HTTP/1.1 415 "));
    let json = "content-type: application/json; charset=utf-8\r\n";
    let rebound = asked(&format!("host: evil.example\r\n{json}"));
    assert!(
        rebound.starts_with("HTTP/1.1 403 ") && rebound.contains("evil.example"),
        "{rebound}"
    );
    let packed = asked(&format!("{local}{json}content-encoding: gzip\r\n"));
    assert!(
        packed.starts_with("HTTP/1.1 415 ") && packed.contains("gzip"),
        "{packed}"
    );
    for host in ["localhost", "127.0.0.1:99", "[::1]:99", "192.168.1.7"] {
        let answer = asked(&format!("host: {host}\r\n{json}"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
}

#[test]
fn a_slow_request_is_given_up() {
    let server = serve(|_, settings| settings.read_time = Duration::from_millis(200));
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n");
    let body = format!("{head}content-type: application/json\r\ncontent-length: 1000\r\n\r\n{{");
    let answer = raw(&server, body.as_bytes());
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"),
        "{answer}"
    );
    // A head that does not end is no request that could be answered.
    assert!(!raw(&server, head.as_bytes()).contains(" 200 "));
    assert_eq!(get(&server, "/health").status, 200);
}

/// The client has 30 seconds for its body; the server does not wait for it.
#[test]
fn a_request_that_is_not_asked_yet_does_not_hold_up_the_end() {
    let mut server = serve(|_, settings| settings.grace = SOON);
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    let mut connection = TcpStream::connect(server.address).unwrap();
    connection
        .write_all(format!("{head}content-length: 1000\r\n\r\n{{").as_bytes())
        .unwrap();
    // Until it is read, the connection is idle and closed as such.
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    server.stopper.stop();
    server.end().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[test]
fn a_body_that_is_announced_as_huge_is_refused_before_it_is_sent() {
    let server = serve(|_, _| ());
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    let answer = raw(&server, format!("{head}content-length: 99999999999\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[test]
fn a_key_opens_everything_but_the_health_which_is_open() {
    let server = serve(|_, settings| settings.api_key = ApiKey::new("s3cret"));
    assert_eq!(get(&server, "/health").status, 200);
    let asked = |path: &str, authorization: Option<&str>| {
        let mut request = agent().get(format!("http://{}{path}", server.address));
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        answered(request.call())
    };
    for path in ["/v1/models", "/metrics", "/nowhere", CHAT] {
        for wrong in [
            None,
            Some("Bearer "),
            Some("Bearer s3cre"),
            Some("Bearer s3crets"),
            Some("Basic s3cret"),
            Some("s3cret"),
        ] {
            let refused = asked(path, wrong);
            assert_eq!(refused.status, 401, "{path} {wrong:?}");
            assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
            assert!(!refused.text.contains("s3cre"), "{}", refused.text);
        }
    }
    assert_eq!(asked("/v1/models", Some("Bearer s3cret")).status, 200);
    assert_eq!(asked("/v1/models", Some("bearer s3cret")).status, 200);
    assert_eq!(format!("{:?}", ApiKey::new("s3cret").unwrap()), "ApiKey(..)");
    for unusable in ["", "two words", "line\n", "\u{e9}"] {
        assert!(ApiKey::new(unusable).is_none(), "{unusable:?}");
    }
}

#[test]
fn other_machines_need_a_key() {
    let address = "0.0.0.0:0".parse().unwrap();
    let mut settings = ServerSettings::new("embedded");
    let refused = Listener::bind(address, &settings).unwrap_err();
    assert!(refused.to_string().contains("MLX_DIAGNOSE_API_KEY"), "{refused}");
    settings.api_key = ApiKey::new("s3cret");
    assert!(Listener::bind(address, &settings).is_ok());
}

/// A connection on which a long answer has begun.
fn begun(server: &Running, streams: bool) -> TcpStream {
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

#[rstest]
fn a_connection_that_is_closed_frees_its_place(#[values(true, false)] streams: bool) {
    let server = serve(|engine, _| engine.limits.max_sequences = 1);
    for round in 1..=3 {
        let connection = begun(&server, streams);
        while server.engine.statistics().running == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(connection);
        assert_becomes_idle(&server.engine);
        assert_eq!(server.engine.statistics().cancelled, round);
    }
    post(
        &server,
        COMPLETIONS,
        &json!({ "prompt": "The sea is", "max_tokens": 2 }),
    );
}

#[test]
fn a_request_beyond_the_queue_is_told_to_come_again() {
    let server = serve(|engine, _| {
        engine.limits.max_sequences = 1;
        engine.limits.max_waiting = 1;
    });
    let _held = [begun(&server, true), begun(&server, false)];
    while server.engine.outstanding() < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let refused = post_text(&server, COMPLETIONS, &json!({ "prompt": "The sea is" }).to_string());
    assert_eq!(refused.status, 429, "{}", refused.text);
    assert_eq!(refused.retry_after.as_deref(), Some("1"));
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    // Of several answers all are taken or none.
    let several = json!({ "prompt": "The sea is", "n": 3 });
    assert_eq!(post_text(&server, COMPLETIONS, &several.to_string()).status, 429);
}

#[test]
fn a_server_that_is_stopped_ends_its_answers_and_takes_no_more() {
    let mut server = serve(|_, _| ());
    let mut connection = begun(&server, true);
    server.stopper.stop();
    let mut rest = String::new();
    connection.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("\"finish_reason\":\"length\"") && rest.contains("data: [DONE]"),
        "{rest}"
    );
    server.end().unwrap();
    assert!(TcpStream::connect(server.address).is_err());
    assert_becomes_idle(&server.engine);
    assert_eq!(server.engine.statistics().finished, 1);
}

#[rstest]
fn an_answer_that_outlives_the_grace_is_cancelled_with_an_error(#[values(true, false)] streams: bool) {
    let mut server = serve(|_, settings| settings.grace = Duration::ZERO);
    let mut connection = begun(&server, streams);
    while server.engine.outstanding() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    server.stopper.stop();
    let mut rest = String::new();
    connection.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("\"code\":\"shutting_down\"") && !rest.contains("[DONE]"),
        "{rest}"
    );
    assert_eq!(rest.starts_with("HTTP/1.1 503 "), !streams, "{rest}");
    server.end().unwrap();
    assert_becomes_idle(&server.engine);
}

#[rstest]
fn an_engine_that_has_died_is_told_to_whoever_waits_and_to_whoever_watches(#[values(true, false)] streams: bool) {
    let server = serve(|_, _| ());
    let mut connection = begun(&server, streams);
    while server.engine.statistics().running == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let request = Request {
        prompt: vec![5],
        max_tokens: 5,
        stop_ids: BTreeSet::new(),
        stop_strings: Vec::new(),
        sampling: SamplingSettings::default(),
        top_log_probabilities: None,
        adapter: None,
        priority: 0,
    };
    let _ticket = server.engine.submit_to(request, |_| panic!("on purpose")).unwrap();
    let mut rest = Vec::new();
    // Where nothing is streamed, the connection stays open for the next request.
    connection.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let _ = connection.read_to_end(&mut rest);
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(
        rest.contains("\"code\":\"engine_stopped\"") && !rest.contains("[DONE]"),
        "{rest}"
    );
    let health = get(&server, "/health");
    assert_eq!(health.status, 503, "{}", health.text);
    let refused = post_text(&server, CHAT, &chat("Hi").to_string());
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert_eq!(get(&server, "/v1/models").status, 200);
}

fn diagnose() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diagnose"));
    command.env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
    command
}

#[test]
fn the_program_serves_until_it_is_told_to_end() {
    let folder = adapter();
    let mut child = diagnose()
        .args([
            "serve",
            "fixtures/embedded/model",
            "--port",
            "0",
            "--model-id",
            "gull",
            "--kv-bits",
            "8",
        ])
        .args(["--adapter", &format!("pirate={}", folder.path().display())])
        .current_dir(root())
        .env("MLX_DIAGNOSE_API_KEY", "s3cret")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let address = line.strip_prefix("listening on ").unwrap();
    let models = agent()
        .get(format!("{address}/v1/models"))
        .header("authorization", "Bearer s3cret");
    let models = answered(models.call()).json();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][1]["id"]),
        (&json!("gull"), &json!("pirate"))
    );
    let question = json!({ "model": "pirate", "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 3 });
    let answer = agent()
        .post(format!("{address}/v1/chat/completions"))
        .header("authorization", "Bearer s3cret")
        .header("content-type", "application/json")
        .send(question.to_string());
    assert_eq!(answered(answer).json()["usage"]["completion_tokens"], 3);
    let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("serving gull, pirate") && !said.contains("s3cret"),
        "{said}"
    );
    assert!(lines.next().is_none());
}

#[rstest]
#[case::other_machines(&["--host", "0.0.0.0"], "without a key")]
#[case::no_such_host(&["--host", "no.such.host.invalid"], "no address of this machine")]
#[case::two_of_a_name(&["--adapter", "a=x", "--adapter", "a=y"], "two adapters have the same name")]
#[case::the_models_name(&["--adapter", "model=no-such-folder"], "an adapter has the model's name")]
#[case::no_adapter(&["--adapter", "a=no-such-folder"], "no-such-folder")]
#[case::no_folder(&["--adapter", "pirate"], "a name and a folder")]
#[case::no_size(&["--max-body", "big"], "a size")]
#[case::key(&["--api-key", "two words"], "`--api-key` cannot be used")]
#[case::bits(&["--kv-bits", "3"], "must be 4 or 8")]
fn a_server_that_cannot_begin_says_why(#[case] arguments: &[&str], #[case] words: &str) {
    let output = diagnose()
        .args(["serve", "fixtures/embedded/model", "--port", "0"])
        .args(arguments)
        .current_dir(root())
        .env_remove("MLX_DIAGNOSE_API_KEY")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains(words) && !error.contains("panicked"), "{error}");
    assert!(!error.contains("two words"), "{error}");
    assert!(output.stdout.is_empty());
}
