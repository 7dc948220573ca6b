//! Ollama's protocol, from the shapes that it documents.

use mlx_diagnose::compare::client::Clock;
use mlx_diagnose::compare::servers::{LoadRequest, Server, open};
use mlx_diagnose::compare::{FailureKind, ServerKind, ServerTimings, Start, Usage};
use serde_json::{Value, json};

use crate::compare::client::{question, side, surroundings};
use crate::support::replay_server::{ReplayServer, Script};

const RUNNING: &str = "GET /api/ps";
const GENERATE: &str = "POST /api/generate";
const CHAT: &str = "POST /api/chat";
const VERSION: &str = "GET /api/version";

const REQUEST: LoadRequest = LoadRequest {
    context_length: 2048,
    parallel: 1,
    prompt_cache: true,
};

fn running(models: &[&str]) -> Script {
    let models: Vec<Value> = models
        .iter()
        .map(|name| {
            json!({
                "name": name, "model": name, "size": 5_137_025_024_u64, "digest": "2ae6", "context_length": 2048,
                "details": { "format": "gguf", "family": "llama", "parameter_size": "7.2B", "quantization_level": "Q4_0" },
                "expires_at": "2024-06-04T14:38:31.83753-07:00", "size_vram": 5_137_025_024_u64,
            })
        })
        .collect();
    Script::json(200, &json!({ "models": models }))
}

fn chunk(content: &str) -> Value {
    json!({ "model": "llama3.2", "created_at": "2023-08-04T08:52:19.385406455-07:00", "message": { "role": "assistant", "content": content, "images": null }, "done": false })
}

fn last() -> Value {
    json!({
        "model": "llama3.2", "created_at": "2023-08-04T19:22:45.499127Z", "message": { "role": "assistant", "content": "" },
        "done": true, "done_reason": "stop", "total_duration": 4_883_583_458_u64, "load_duration": 1_334_875,
        "prompt_eval_count": 26, "prompt_eval_duration": 342_546_000, "eval_count": 282, "eval_duration": 4_535_599_000_u64,
    })
}

fn generated() -> Script {
    let answer = json!({ "model": "llama3.2", "response": "", "done": true, "done_reason": "load", "load_duration": 2_500_000_000_u64 });
    Script::json(200, &answer)
}

fn ollama(chat: Script) -> ReplayServer {
    ReplayServer::start([
        (RUNNING, running(&["llama3.2:latest"])),
        (RUNNING, running(&["llama3.2:latest", "other:7b"])),
        (GENERATE, generated()),
        (VERSION, Script::json(200, &json!({ "version": "0.5.1" }))),
        (CHAT, chat),
    ])
}

fn client(server: &ReplayServer) -> Box<dyn Server> {
    open(
        &side(ServerKind::Ollama, "llama3.2", Some(server.address())),
        &surroundings(),
    )
    .unwrap()
}

#[test]
fn a_model_is_unloaded_loaded_with_its_context_and_unloaded_again() {
    let server = ollama(Script::lines());
    let mut ollama = client(&server);
    let loaded = ollama.load(&REQUEST).unwrap();
    assert_eq!(loaded.told_seconds, Some(2.5));
    assert_eq!(
        (loaded.server.start, loaded.server.context_length),
        (Start::Load, Some(2048))
    );
    assert_eq!(loaded.server.version.as_deref(), Some("0.5.1"));
    assert_eq!(loaded.server.quantisation.as_deref(), Some("Q4_0"));
    assert_eq!(loaded.server.details["also-loaded"], "other:7b");
    let body = server.last_body(GENERATE);
    assert_eq!(
        (&body["options"]["num_ctx"], &body["prompt"]),
        (&json!(2048), &Value::Null)
    );
    ollama.unload().unwrap();
    assert_eq!(server.last_body(GENERATE)["keep_alive"], json!(0));
    assert_eq!(
        server.routes(),
        [RUNNING, GENERATE, GENERATE, VERSION, RUNNING, GENERATE]
    );
}

#[test]
fn lines_are_read_to_the_last_with_their_durations() {
    let lines = Script::lines().line(&chunk("The")).line(&chunk(" sky")).line(&last());
    let server = ollama(lines);
    let mut ollama = client(&server);
    ollama.load(&REQUEST).unwrap();
    let answer = ollama.ask(&question(), Clock::start());
    assert_eq!(answer.failure, None);
    assert_eq!((answer.text.as_str(), answer.times.pieces.len()), ("The sky", 2));
    let usage = Usage {
        prompt_tokens: 26,
        completion_tokens: 282,
        cached_tokens: None,
    };
    assert_eq!(answer.usage, Some(usage));
    let timings = ServerTimings {
        prompt_tokens: Some(26),
        prompt: Some(0.342_546),
        generated_tokens: Some(282),
        generation: Some(4.535_599),
        load: Some(0.001_334_875),
        ..ServerTimings::default()
    };
    assert_eq!(answer.timings, Some(timings));
    // Another context would load the model anew.
    let options = &server.last_body(CHAT)["options"];
    assert_eq!(*options, json!({ "temperature": 0, "num_predict": 8, "num_ctx": 2048 }));
}

#[test]
fn a_last_line_needs_no_end() {
    let server = ollama(Script::lines().line(&chunk("The")).send(last().to_string()));
    let answer = client(&server).ask(&question(), Clock::start());
    assert_eq!((answer.failure, answer.text.as_str()), (None, "The"));
}

#[test]
fn what_goes_wrong_in_the_middle_is_told() {
    let cases = [
        (Script::lines().line(&chunk("The")).break_off(), FailureKind::BrokenOff),
        (Script::lines().line(&chunk("The")), FailureKind::BrokenOff),
        (
            Script::lines().line(&json!({ "error": "an error was encountered" })),
            FailureKind::ServerError,
        ),
        (Script::lines().send("{\"model\":\n"), FailureKind::Malformed),
        (Script::lines().line(&last()), FailureKind::Empty),
        (
            Script::json(404, &json!({ "error": "model 'llama3.2' not found" })),
            FailureKind::Refused,
        ),
    ];
    for (script, expected) in cases {
        let server = ollama(script);
        let answer = client(&server).ask(&question(), Clock::start());
        assert_eq!(answer.failure.map(|failure| failure.kind), Some(expected));
    }
}

#[test]
fn a_model_that_is_not_there_is_told() {
    let error = json!({ "error": "model 'llama3.2' not found, try pulling it first" });
    let server = ReplayServer::start([(RUNNING, running(&[])), (GENERATE, Script::json(404, &error))]);
    let failure = client(&server).load(&REQUEST).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotLoaded);
    assert!(failure.hint.unwrap().contains("ollama pull llama3.2"));
}

#[test]
fn the_next_tokens_come_with_log_probabilities_where_it_has_them() {
    let top = json!([{ "token": " the", "logprob": -2.5 }, { "token": " Paris", "logprob": -0.25 }]);
    let told = json!({ "response": " Paris", "done": true, "logprobs": [{ "token": " Paris", "logprob": -0.25, "top_logprobs": top }] });
    let server = ReplayServer::start([(GENERATE, Script::json(200, &told)), (GENERATE, generated())]);
    let ollama = client(&server);
    let next = ollama.next_tokens("The capital of France is", 2).unwrap();
    assert_eq!(next.tokens, [(" Paris".to_owned(), -0.25), (" the".to_owned(), -2.5)]);
    assert_eq!(server.last_body(GENERATE)["raw"], json!(true));
    assert_eq!(ollama.next_tokens("The", 2).unwrap_err().kind, FailureKind::Unsupported);
}
