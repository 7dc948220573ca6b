//! LM Studio's protocol, from the shapes that it documents: both interfaces, and what is known to go wrong.

use mlx_diagnose::compare::client::{Answer, ChatMessage, Clock};
use mlx_diagnose::compare::servers::{LoadRequest, Server, open};
use mlx_diagnose::compare::{Failure, FailureKind, Loaded, ServerKind, Start, Usage};
use serde_json::{Value, json};

use crate::compare::client::{question, side, surroundings};
use crate::support::replay_server::{ReplayServer, Script};
use crate::support::skip;

const MODELS: &str = "GET /api/v1/models";
const LOAD: &str = "POST /api/v1/models/load";
const UNLOAD: &str = "POST /api/v1/models/unload";
const CHAT: &str = "POST /api/v1/chat";
const MODELS_V0: &str = "GET /api/v0/models";
const CHAT_V0: &str = "POST /api/v0/chat/completions";
const KEY: &str = "gemma-3-270m-it-qat";

const REQUEST: LoadRequest = LoadRequest {
    context_length: 4096,
    parallel: 1,
    prompt_cache: true,
};

/// <https://lmstudio.ai/docs/developer/rest/list>, with these instances.
fn models(instances: &[&str]) -> Script {
    let instances: Vec<Value> = instances
        .iter()
        .map(|id| json!({ "id": id, "config": { "context_length": 4096, "flash_attention": true } }))
        .collect();
    Script::json(
        200,
        &json!({ "models": [
            {
                "type": "llm", "publisher": "lmstudio-community", "key": KEY, "display_name": "Gemma 3 270m Instruct Qat",
                "architecture": "gemma3", "quantization": { "name": "Q4_0", "bits_per_weight": 4 }, "size_bytes": 241_410_208,
                "params_string": "270M", "loaded_instances": instances, "max_context_length": 32768, "format": "gguf",
                "capabilities": { "vision": false, "trained_for_tool_use": false }, "description": null,
            },
            {
                "type": "embedding", "publisher": "gaianet", "key": "text-embedding-nomic", "display_name": "Nomic",
                "quantization": null, "size_bytes": 274_290_560, "params_string": null, "loaded_instances": [],
                "max_context_length": 2048, "format": "gguf",
            },
        ] }),
    )
}

/// <https://lmstudio.ai/docs/developer/rest/load>.
fn loaded() -> Script {
    Script::json(
        200,
        &json!({ "type": "llm", "instance_id": KEY, "load_time_seconds": 9.099, "status": "loaded", "load_config": { "context_length": 4096 } }),
    )
}

fn unloaded() -> Script {
    Script::json(200, &json!({ "instance_id": KEY }))
}

fn result(instance: &str) -> Value {
    json!({ "result": {
        "model_instance_id": instance,
        "output": [{ "type": "message", "content": "The current" }],
        "stats": {
            "input_tokens": 329, "total_output_tokens": 268, "reasoning_output_tokens": 5, "tokens_per_second": 43.5,
            "time_to_first_token_seconds": 0.75,
        },
    } })
}

/// <https://lmstudio.ai/docs/developer/rest/streaming-events>.
fn chat() -> Script {
    Script::events()
        .event("chat.start", json!({ "model_instance_id": KEY }))
        .event("prompt_processing.start", json!({}))
        .event("prompt_processing.progress", json!({ "progress": 0.5 }))
        .event("prompt_processing.end", json!({}))
        .event("reasoning.start", json!({}))
        .event("reasoning.delta", json!({ "content": "Need to" }))
        .event("reasoning.end", json!({}))
        .event("message.start", json!({}))
        .event("message.delta", json!({ "content": "" }))
        .event("message.delta", json!({ "content": "The current" }))
        .event("message.end", json!({}))
        .event("chat.end", result(KEY))
}

/// The routes of an LM Studio that loads, answers by `chat` and unloads.
fn working(chat: Script) -> Vec<(&'static str, Script)> {
    vec![
        (MODELS, models(&[])),
        (MODELS, models(&[KEY])),
        (MODELS, models(&[KEY])),
        (MODELS, models(&[])),
        (LOAD, loaded()),
        (UNLOAD, unloaded()),
        (CHAT, chat),
    ]
}

fn studio(server: &ReplayServer) -> Box<dyn Server> {
    open(
        &side(ServerKind::LmStudio, KEY, Some(server.address())),
        &surroundings(),
    )
    .unwrap()
}

fn load(scripts: Vec<(&'static str, Script)>) -> (ReplayServer, Box<dyn Server>, Result<Loaded, Failure>) {
    let server = ReplayServer::start(scripts);
    let mut studio = studio(&server);
    let loaded = studio.load(&REQUEST);
    (server, studio, loaded)
}

fn ask(chat: Script) -> Answer {
    let (_server, studio, loaded) = load(working(chat));
    loaded.unwrap();
    studio.ask(&question(), Clock::start())
}

fn kind(answer: &Answer) -> Option<FailureKind> {
    answer.failure.as_ref().map(|failure| failure.kind)
}

fn reason(answer: &Answer) -> &str {
    answer.failure.as_ref().map_or("", |failure| &failure.reason)
}

#[test]
fn a_model_is_loaded_with_its_context_and_unloaded() {
    let (server, mut studio, loaded) = load(working(chat()));
    let loaded = loaded.unwrap();
    assert_eq!(loaded.told_seconds, Some(9.099));
    assert!(loaded.ready_seconds.is_some());
    let description = &loaded.server;
    assert_eq!((description.start, description.model.as_str()), (Start::Load, KEY));
    assert_eq!(description.quantisation.as_deref(), Some("Q4_0"));
    assert_eq!(description.context_length, Some(4096));
    assert_eq!(description.details["format"], "gguf");
    assert_eq!(description.details["interface"], "v1");
    let asked = server.last_body(LOAD);
    assert_eq!((&asked["model"], &asked["context_length"]), (&json!(KEY), &json!(4096)));
    studio.unload().unwrap();
    assert_eq!(server.last_body(UNLOAD), json!({ "instance_id": KEY }));
    assert_eq!(server.routes(), [MODELS, LOAD, MODELS, MODELS, UNLOAD, MODELS]);
}

#[test]
fn dropping_it_unloads_the_model() {
    let (server, studio, loaded) = load(working(chat()));
    loaded.unwrap();
    drop(studio);
    assert!(server.routes().contains(&UNLOAD.to_owned()));
}

#[test]
fn an_instance_of_the_user_makes_way_so_that_loading_is_measured() {
    let mut scripts = working(chat());
    scripts[0] = (MODELS, models(&["mine"]));
    let (server, _studio, loaded) = load(scripts);
    loaded.unwrap();
    assert_eq!(server.routes()[..3], [MODELS, UNLOAD, LOAD]);
    assert_eq!(server.last_body(UNLOAD), json!({ "instance_id": "mine" }));
}

#[test]
fn named_events_are_read_to_the_last() {
    let answer = ask(chat());
    assert_eq!(answer.failure, None);
    assert_eq!(
        (answer.text.as_str(), answer.times.pieces.len()),
        ("Need toThe current", 2)
    );
    let usage = Usage {
        prompt_tokens: 329,
        completion_tokens: 268,
        cached_tokens: None,
    };
    assert_eq!(answer.usage, Some(usage));
    let timings = answer.timings.unwrap();
    assert_eq!(
        (timings.first_token, timings.tokens_per_second),
        (Some(0.75), Some(43.5))
    );
}

#[test]
fn a_chat_is_not_stored_and_goes_to_the_instance() {
    let (server, studio, loaded) = load(working(chat()));
    loaded.unwrap();
    studio.ask(&question(), Clock::start());
    let expected = json!({
        "model": KEY, "input": "Where is Paris?", "system_prompt": "17 Be brief.", "stream": true, "store": false,
        "temperature": 0, "max_output_tokens": 8,
    });
    assert_eq!(server.last_body(CHAT), expected);
}

#[test]
fn a_longer_conversation_goes_to_the_interface_that_takes_one() {
    let mut scripts = working(chat());
    let chunk = json!({ "model": KEY, "choices": [{ "index": 0, "delta": { "content": "a" } }] });
    scripts.push(("POST /v1/chat/completions", Script::events().data(&chunk).done()));
    let (server, studio, loaded) = load(scripts);
    loaded.unwrap();
    let mut request = question();
    for role in ["assistant", "user"] {
        let content = "More".to_owned();
        request.messages.push(ChatMessage { role, content });
    }
    let answer = studio.ask(&request, Clock::start());
    assert_eq!(answer.failure, None);
    assert_eq!(
        server.last_body("POST /v1/chat/completions")["messages"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
}

#[test]
fn an_error_event_is_told_with_what_came_after_it() {
    let error = json!({ "error": { "type": "internal_error", "message": "the model crashed" } });
    let answer = ask(Script::events()
        .event("message.delta", json!({ "content": "The" }))
        .event("error", error.clone())
        .event("chat.end", result(KEY)));
    assert_eq!(kind(&answer), Some(FailureKind::ServerError));
    assert!(reason(&answer).contains("the model crashed"), "{answer:?}");
    assert!(answer.usage.is_some());
    let answer = ask(Script::events().event("error", error).break_off());
    assert!(reason(&answer).contains("the model crashed"), "{answer:?}");
}

#[test]
fn an_error_event_outlives_a_stream_without_a_last_event() {
    let error = json!({ "error": { "type": "unknown", "message": "the model crashed" } });
    let answer = ask(Script::events().event("error", error));
    assert_eq!(kind(&answer), Some(FailureKind::ServerError), "{answer:?}");
}

#[test]
fn a_stream_without_its_last_event_is_broken_off() {
    let answer = ask(Script::events().event("message.delta", json!({ "content": "The" })));
    assert_eq!(kind(&answer), Some(FailureKind::BrokenOff));
    assert_eq!(answer.text, "The");
}

#[test]
fn a_success_with_nothing_hints_at_a_prompt_that_is_too_long() {
    let answer = ask(Script::events()
        .event("chat.start", json!({ "model_instance_id": KEY }))
        .event("chat.end", result(KEY)));
    let failure = answer.failure.unwrap();
    assert_eq!(failure.kind, FailureKind::Empty);
    assert!(failure.hint.unwrap().contains("longer than the context"));
}

#[test]
fn another_instance_that_answers_is_told() {
    let answer = ask(Script::events()
        .event("chat.start", json!({ "model_instance_id": "qwen3-4b" }))
        .event("message.delta", json!({ "content": "The" }))
        .event("chat.end", result("qwen3-4b")));
    assert_eq!(kind(&answer), Some(FailureKind::NotLoaded));
    assert!(reason(&answer).contains("`qwen3-4b`"), "{answer:?}");
}

#[test]
fn a_duplicate_that_was_loaded_on_demand_is_unloaded_and_named() {
    let duplicate = "gemma-3-270m-it-qat:2";
    let mut scripts = working(chat());
    scripts[2] = (MODELS, models(&[KEY, duplicate]));
    let (server, mut studio, loaded) = load(scripts);
    loaded.unwrap();
    let failure = studio.unload().unwrap_err();
    assert!(failure.reason.contains(duplicate), "{failure:?}");
    assert_eq!(server.last_body(UNLOAD), json!({ "instance_id": duplicate }));
    assert_eq!(server.routes().iter().filter(|route| *route == UNLOAD).count(), 2);
}

#[test]
fn a_model_that_stays_in_memory_is_told() {
    let mut scripts = working(chat());
    scripts[3] = (MODELS, models(&[KEY]));
    let (_server, mut studio, loaded) = load(scripts);
    loaded.unwrap();
    assert_eq!(studio.unload().unwrap_err().kind, FailureKind::ServerError);
}

#[test]
fn a_model_that_does_not_load_is_told() {
    let error = json!({ "error": { "type": "internal_error", "message": "Failed to load model: not enough memory" } });
    let (server, _studio, loaded) = load(vec![(MODELS, models(&[])), (LOAD, Script::json(500, &error))]);
    let failure = loaded.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotLoaded);
    assert!(failure.reason.contains("not enough memory"), "{failure:?}");
    assert!(!server.routes().contains(&UNLOAD.to_owned()));
}

#[test]
fn a_model_that_is_loaded_but_not_listed_is_told_and_unloaded() {
    let scripts = vec![
        (MODELS, models(&[])),
        (MODELS, models(&[])),
        (MODELS, models(&[KEY])),
        (MODELS, models(&[])),
        (LOAD, loaded()),
        (UNLOAD, unloaded()),
    ];
    let (server, _studio, loaded) = load(scripts);
    assert_eq!(loaded.unwrap_err().kind, FailureKind::NotLoaded);
    assert!(server.routes().contains(&UNLOAD.to_owned()));
}

#[test]
fn a_model_that_is_not_there_gets_a_suggestion() {
    let server = ReplayServer::start([(MODELS, models(&[]))]);
    let wrong = side(ServerKind::LmStudio, "gemma-3-270m-it-qad", Some(server.address()));
    let failure = open(&wrong, &surroundings()).unwrap().load(&REQUEST).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotLoaded);
    assert!(failure.hint.unwrap().contains(KEY));
}

#[test]
fn a_server_that_wants_a_key_is_told() {
    let error = json!({ "error": { "message": "Invalid API key" } });
    let (_server, _studio, loaded) = load(vec![(MODELS, Script::json(401, &error))]);
    let failure = loaded.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(failure.reason.contains("Invalid API key") && failure.hint.unwrap().contains("api-key-variable"));
}

#[test]
fn the_key_goes_with_every_request() {
    let server = ReplayServer::start(working(chat()));
    let mut with_key = side(ServerKind::LmStudio, KEY, Some(server.address()));
    // A variable that every process has stands for the one that a user would set.
    with_key.api_key_variable = Some("HOME".to_owned());
    let mut studio = open(&with_key, &surroundings()).unwrap();
    studio.load(&REQUEST).unwrap();
    studio.ask(&question(), Clock::start());
    let key = format!("Bearer {}", std::env::var("HOME").unwrap());
    let asked = server.asked();
    assert!(asked.len() > 3 && asked.iter().all(|asked| asked.authorization.as_ref() == Some(&key)));
}

#[test]
fn a_variable_without_a_key_is_told_before_anything_is_asked() {
    let mut without = side(ServerKind::LmStudio, KEY, None);
    without.api_key_variable = Some("MLX_DIAGNOSE_NO_SUCH_VARIABLE".to_owned());
    let failure = open(&without, &surroundings()).err().unwrap();
    assert!(failure.reason.contains("MLX_DIAGNOSE_NO_SUCH_VARIABLE"));
}

/// <https://lmstudio.ai/docs/developer/rest/endpoints>.
fn models_v0(state: &str) -> Script {
    Script::json(
        200,
        &json!({ "object": "list", "data": [
            { "id": "other", "object": "model", "type": "llm", "publisher": "p", "arch": "llama", "compatibility_type": "mlx",
              "quantization": "4bit", "state": "not-loaded", "max_context_length": 131_072 },
            { "id": KEY, "object": "model", "type": "llm", "publisher": "p", "arch": "llama", "compatibility_type": "gguf",
              "quantization": "Q4_K_M", "state": state, "max_context_length": 131_072 },
        ] }),
    )
}

fn chat_v0(model: &str) -> Script {
    let chunk = |delta: Value| json!({ "object": "chat.completion.chunk", "model": model, "choices": [{ "index": 0, "delta": delta }] });
    let mut last = chunk(json!({}));
    last["choices"][0]["finish_reason"] = "stop".into();
    last["usage"] = json!({ "prompt_tokens": 24, "completion_tokens": 53, "total_tokens": 77 });
    last["stats"] = json!({ "tokens_per_second": 51.5, "time_to_first_token": 0.125, "generation_time": 0.75, "stop_reason": "eosFound" });
    Script::events()
        .data(&chunk(json!({ "role": "assistant", "content": "Greetings" })))
        .data(&last)
        .done()
}

/// What LM Studio says of a path that it does not know.
fn unknown_path() -> Script {
    let error = "Unexpected endpoint or method. (GET /api/v1/models). Returning 200 anyway";
    Script::json(200, &json!({ "error": error }))
}

#[test]
fn without_v1_a_loaded_model_is_asked_by_v0() {
    let server = ReplayServer::start([
        (MODELS, unknown_path()),
        (MODELS_V0, models_v0("loaded")),
        (CHAT_V0, chat_v0(KEY)),
    ]);
    let mut studio = studio(&server);
    let loaded = studio.load(&REQUEST).unwrap();
    assert_eq!((loaded.server.start, loaded.ready_seconds), (Start::Already, None));
    assert_eq!(loaded.server.quantisation.as_deref(), Some("Q4_K_M"));
    assert_eq!(loaded.server.context_length, None);
    let answer = studio.ask(&question(), Clock::start());
    assert_eq!(answer.failure, None);
    assert_eq!(
        (answer.text.as_str(), answer.finish_reason.as_deref()),
        ("Greetings", Some("stop"))
    );
    assert_eq!(answer.usage.unwrap().completion_tokens, 53);
    let timings = answer.timings.unwrap();
    assert_eq!((timings.first_token, timings.generation), (Some(0.125), Some(0.75)));
    studio.unload().unwrap();
}

#[test]
fn without_v1_and_without_the_command_a_model_is_loaded_on_demand_and_goes_by_itself() {
    if std::process::Command::new("lms").arg("version").output().is_ok() {
        skip::because("LM Studio's command `lms` is installed here");
        return;
    }
    let whole =
        json!({ "model": KEY, "choices": [{ "index": 0, "message": { "role": "assistant", "content": "a" } }] });
    let server = ReplayServer::start([
        (MODELS, Script::json(404, &json!({}))),
        (MODELS_V0, models_v0("not-loaded")),
        (MODELS_V0, models_v0("loaded")),
        (CHAT_V0, Script::json(200, &whole)),
        (CHAT_V0, chat_v0(KEY)),
    ]);
    let mut studio = studio(&server);
    let loaded = studio.load(&REQUEST).unwrap();
    assert_eq!(loaded.server.start, Start::Load);
    assert!(loaded.server.details["loading"].contains("on demand"));
    assert_eq!(studio.ask(&question(), Clock::start()).failure, None);
    assert!(server.last_body(CHAT_V0)["ttl"].is_number());
    assert_eq!(studio.unload().unwrap_err().kind, FailureKind::Unsupported);
}

#[test]
fn by_v0_a_wrong_model_that_answers_is_told() {
    let server = ReplayServer::start([
        (MODELS, unknown_path()),
        (MODELS_V0, models_v0("loaded")),
        (CHAT_V0, chat_v0("other")),
    ]);
    let mut studio = studio(&server);
    studio.load(&REQUEST).unwrap();
    let answer = studio.ask(&question(), Clock::start());
    assert_eq!(kind(&answer), Some(FailureKind::NotLoaded));
    assert!(reason(&answer).contains("`other`"), "{answer:?}");
}

#[test]
fn a_server_with_neither_interface_is_none() {
    let (_server, _studio, loaded) = load(vec![(MODELS, unknown_path()), (MODELS_V0, unknown_path())]);
    assert_eq!(loaded.unwrap_err().kind, FailureKind::Unsupported);
}

#[test]
fn log_probabilities_are_not_to_be_had() {
    let (_server, studio, loaded) = load(working(chat()));
    loaded.unwrap();
    assert_eq!(studio.next_tokens("The", 3).unwrap_err().kind, FailureKind::Unsupported);
}

#[test]
fn what_else_is_loaded_is_named() {
    let mut other = json!({ "models": [] });
    other["models"] = json!([
        { "key": KEY, "loaded_instances": [{ "id": KEY, "config": {} }] },
        { "key": "qwen3-4b", "loaded_instances": [{ "id": "qwen3-4b", "config": {} }] },
    ]);
    let mut scripts = working(chat());
    scripts[1] = (MODELS, Script::json(200, &other));
    let (_server, _studio, loaded) = load(scripts);
    assert_eq!(loaded.unwrap().server.details["also-loaded"], "qwen3-4b");
}
