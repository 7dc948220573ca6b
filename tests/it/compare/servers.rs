//! Server processes that are started, watched and ended, and servers that run already.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mlx_diagnose::compare::client::Clock;
use mlx_diagnose::compare::servers::{LoadRequest, Server, Surroundings, open};
use mlx_diagnose::compare::{Failure, FailureKind, ServerKind, Side, Start};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::compare::client::{question, side, surroundings};
use crate::support::replay_server::{ReplayServer, Script};
use crate::support::skip;

const REQUEST: LoadRequest = LoadRequest {
    context_length: 256,
    parallel: 2,
    prompt_cache: true,
};

/// A server as llama.cpp's is seen from outside: `sys.argv[1]` is the port, `sys.argv[2]` what it does when it is asked.
const TOY: &str = r#"
import json, os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
port, way = int(sys.argv[1]), sys.argv[2]
print("starting with", os.environ.get("TOY_COLOUR"), flush=True)
child = subprocess.Popen(["sleep", "60"])
print("child", child.pid, flush=True)
if way == "dies":
    child.kill()
    print("error: not enough memory for this model", flush=True)
    sys.exit(3)
class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        status = 503 if way == "never" else 200
        if self.path == "/v1/models":
            body = {"data": [{"id": "toy"}, {"id": "other"}]}
            self.send_response(200)
            self.end_headers()
            return self.wfile.write(json.dumps(body).encode())
        if way == "open-ai":
            self.send_response(404)
            return self.end_headers()
        body = {"build_info": "b1-toy", "model_ftype": "Q4_1", "total_slots": 2, "default_generation_settings": {"n_ctx": 256}}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        for text in ["In", " France"]:
            self.wfile.write(("data: " + json.dumps({"choices": [{"delta": {"content": text}}]}) + "\n\n").encode())
            self.wfile.flush()
            if way == "killed":
                time.sleep(0.05)
                os._exit(9)
        self.wfile.write(b"data: [DONE]\n\n")
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"#;

struct Toy {
    folder: TempDir,
    surroundings: Surroundings,
    side: Side,
}

/// `None` where there is no python to run it.
fn toy(way: &str) -> Option<Toy> {
    let python = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output();
    let Some(python) = python.ok().filter(|output| output.status.success()) else {
        skip::because("there is no python3");
        return None;
    };
    let python = String::from_utf8(python.stdout).unwrap().trim().to_owned();
    let folder = TempDir::new().unwrap();
    let mut surroundings = surroundings();
    surroundings.logs = folder.path().join("logs");
    let mut side = side(ServerKind::LlamaServer, "toy", None);
    side.command = Some([&python, "-c", TOY, "{port}", way].map(str::to_owned).to_vec());
    side.environment.insert("TOY_COLOUR".to_owned(), "green".to_owned());
    Some(Toy {
        folder,
        surroundings,
        side,
    })
}

impl Toy {
    fn open(&self) -> Box<dyn Server> {
        open(&self.side, &self.surroundings).unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("logs").join("llama-server-1.log")).unwrap()
    }

    /// Whether the process that the server started itself is gone, or never was.
    fn grandchild_ends(&self) -> bool {
        let log = self.log();
        let line = log.lines().find_map(|line| line.strip_prefix("child "));
        line.is_none_or(|id| ends(id.parse().unwrap()))
    }
}

/// Whether a process is there; one that has ended and was not waited for is not.
fn is_running(id: u32) -> bool {
    let output = Command::new("ps")
        .args(["-o", "stat=", "-p", &id.to_string()])
        .output()
        .unwrap();
    let state = String::from_utf8(output.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

fn ends(id: u32) -> bool {
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(10) {
        if !is_running(id) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn a_process_is_started_asked_and_ended_with_all_that_it_started() {
    let Some(toy) = toy("answers") else { return };
    let mut server = toy.open();
    let loaded = server.load(&REQUEST).unwrap();
    assert_eq!(loaded.server.start, Start::Process);
    assert!(loaded.ready_seconds.is_some_and(|seconds| seconds > 0.0));
    assert_eq!(loaded.server.version.as_deref(), Some("b1-toy"));
    assert_eq!(loaded.server.quantisation.as_deref(), Some("Q4_1"));
    assert_eq!(loaded.server.context_length, Some(256));
    let answer = server.ask(&question(), Clock::start());
    assert_eq!((answer.failure, answer.text.as_str()), (None, "In France"));
    let roots = server.processes().roots();
    assert!(roots.len() == 1 && is_running(roots[0]), "{roots:?}");
    let processes = server.processes();
    server.unload().unwrap();
    assert!(ends(roots[0]) && toy.grandchild_ends());
    assert!(processes.roots().is_empty());
    assert!(toy.log().contains("starting with green"));
    assert!(server.log().is_some_and(Path::is_file));
}

#[test]
fn dropping_a_server_ends_its_processes() {
    let Some(toy) = toy("answers") else { return };
    let mut server = toy.open();
    server.load(&REQUEST).unwrap();
    let root = server.processes().roots()[0];
    drop(server);
    assert!(ends(root) && toy.grandchild_ends());
}

/// The variable by which the test below knows that it is the program that is to be killed.
const TO_BE_KILLED: &str = "PROGRAM_TO_BE_KILLED";

/// A second Ctrl-C and SIGKILL let nothing be dropped.
#[test]
fn a_server_does_not_outlive_a_program_that_is_killed() {
    if std::env::var_os(TO_BE_KILLED).is_some() {
        let Some(toy) = toy("answers") else { return };
        let mut server = toy.open();
        server.load(&REQUEST).unwrap();
        println!("\nroot {}", server.processes().roots()[0]);
        println!("{}", toy.log());
        std::thread::sleep(Duration::from_mins(1));
        return;
    }
    let (_, module) = module_path!().split_once("::").unwrap();
    let name = format!("{module}::a_server_does_not_outlive_a_program_that_is_killed");
    // What it cannot clear away any more.
    let temporary = tempfile::tempdir().unwrap();
    for signal in ["KILL", "QUIT"] {
        let mut program = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(TO_BE_KILLED, "yes")
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(program.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let started: Vec<u32> = lines
            .filter_map(|line| line.strip_prefix("root ").or(line.strip_prefix("child "))?.parse().ok())
            .take(2)
            .collect();
        let signalled = Command::new("kill")
            .args(["-s", signal, &program.id().to_string()])
            .status();
        assert!(signalled.unwrap().success());
        program.wait().unwrap();
        if started.is_empty() {
            // There is no python, as the toy has said.
            return;
        }
        assert_eq!(started.len(), 2, "the server and what it started");
        for id in started {
            assert!(ends(id), "{id} outlives SIG{signal}");
        }
    }
}

#[test]
fn a_server_that_dies_in_the_middle_of_an_answer_is_told_with_the_text_that_came() {
    let Some(toy) = toy("killed") else { return };
    let mut server = toy.open();
    server.load(&REQUEST).unwrap();
    let answer = server.ask(&question(), Clock::start());
    assert_eq!(answer.text, "In");
    let failure = answer.failure.unwrap();
    assert_eq!(failure.kind, FailureKind::Died, "{failure:?}");
    assert_eq!(server.unload().unwrap_err().kind, FailureKind::Died);
    assert!(toy.grandchild_ends());
}

#[test]
fn a_model_that_does_not_load_is_told_with_the_last_words_of_its_server() {
    let Some(toy) = toy("dies") else { return };
    let failure = toy.open().load(&REQUEST).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Died);
    assert!(
        failure.reason.contains("not enough memory for this model"),
        "{failure:?}"
    );
    assert!(!failure.reason.contains('\n'));
}

#[test]
fn a_server_that_is_never_ready_is_ended() {
    let Some(mut toy) = toy("never") else { return };
    toy.surroundings.limits.load = 0.5;
    let failure = toy.open().load(&REQUEST).unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimedOut, "{failure:?}");
    assert!(toy.grandchild_ends());
}

#[test]
fn the_users_wish_ends_a_server_that_is_starting() {
    let Some(toy) = toy("never") else { return };
    let wish = toy.surroundings.interrupt.clone();
    let user = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        wish.request();
    });
    assert_eq!(toy.open().load(&REQUEST).unwrap_err().kind, FailureKind::Interrupted);
    user.join().unwrap();
    assert!(toy.grandchild_ends());
}

#[test]
fn loading_again_starts_anew_with_a_log_of_its_own() {
    let Some(toy) = toy("answers") else { return };
    let mut server = toy.open();
    server.load(&REQUEST).unwrap();
    let (first, first_log) = (server.processes().roots(), server.log().unwrap().to_owned());
    server.load(&REQUEST).unwrap();
    assert!(ends(first[0]));
    assert_ne!(server.log().unwrap(), first_log);
}

fn refused(side: &Side, surroundings: &Surroundings) -> Failure {
    match open(side, surroundings) {
        Ok(mut server) => server.load(&REQUEST).unwrap_err(),
        Err(failure) => failure,
    }
}

#[test]
fn a_command_that_is_not_there_is_told() {
    let folder = TempDir::new().unwrap();
    let mut surroundings = surroundings();
    surroundings.logs = folder.path().to_owned();
    let mut side = side(ServerKind::LlamaServer, "m", None);
    side.command = Some(vec!["/nowhere/llama-server".to_owned()]);
    let failure = refused(&side, &surroundings);
    assert_eq!(failure.kind, FailureKind::NotStarted);
    assert!(failure.reason.contains("/nowhere/llama-server"));
}

#[test]
fn a_log_that_cannot_be_written_is_told() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut surroundings = surroundings();
    surroundings.logs = file.join("logs");
    let mut side = side(ServerKind::LlamaServer, "m", None);
    side.command = Some(vec!["true".to_owned()]);
    assert_eq!(refused(&side, &surroundings).kind, FailureKind::NotWritten);
}

#[test]
fn a_model_file_that_is_not_there_is_told_before_anything_is_started() {
    let failure = refused(
        &side(ServerKind::LlamaServer, "/nowhere/model.gguf", None),
        &surroundings(),
    );
    assert_eq!(failure.kind, FailureKind::NotLoaded);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let address = || Some("http://127.0.0.1:1".to_owned());
    let mut both = side(ServerKind::LlamaServer, "m", address());
    both.command = Some(vec!["true".to_owned()]);
    let mut never_started = side(ServerKind::Ollama, "m", address());
    never_started.command = Some(vec!["true".to_owned()]);
    let without_address = side(ServerKind::OpenAi, "m", None);
    let wrong_address = side(ServerKind::LmStudio, "m", Some("localhost".to_owned()));
    for side in [both, never_started, without_address, wrong_address] {
        assert!(open(&side, &surroundings()).is_err(), "{side:?}");
    }
}

#[test]
fn a_server_that_runs_already_is_taken_and_left_alone() {
    let properties = json!({ "build_info": "b7", "model_ftype": "Q4_1", "total_slots": 1, "default_generation_settings": { "n_ctx": 512 } });
    let server = ReplayServer::start([
        ("GET /health", Script::json(200, &json!({ "status": "ok" }))),
        ("GET /props", Script::json(200, &properties)),
    ]);
    let mut llama = open(
        &side(ServerKind::LlamaServer, "m", Some(server.address())),
        &surroundings(),
    )
    .unwrap();
    let loaded = llama.load(&REQUEST).unwrap();
    assert_eq!((loaded.server.start, loaded.ready_seconds), (Start::Already, None));
    assert_eq!(loaded.server.context_length, Some(512));
    assert_eq!(llama.processes().roots(), [std::process::id()]);
    llama.unload().unwrap();
    assert_eq!(server.routes(), ["GET /health", "GET /props"]);
}

/// Nothing of theirs is turned off, and what is measured with them must not pass for measured without caches.
#[test]
fn no_server_that_nobody_configured_here_is_said_to_have_no_prompt_cache() {
    let without = LoadRequest {
        prompt_cache: false,
        ..REQUEST
    };
    let models = json!({ "data": [{ "id": "m" }] });
    let replay = ReplayServer::start([
        ("GET /health", Script::json(200, &json!({ "status": "ok" }))),
        ("GET /props", Script::json(200, &json!({}))),
        ("GET /v1/models", Script::json(200, &models)),
    ]);
    let mut refused = Vec::new();
    for kind in [
        ServerKind::OpenAi,
        ServerKind::LlamaServer,
        ServerKind::MlxLm,
        ServerKind::Diagnose,
    ] {
        let mut server = open(&side(kind, "m", Some(replay.address())), &surroundings()).unwrap();
        assert!(server.load(&REQUEST).is_ok(), "{kind:?}");
        refused.push(server.load(&without).unwrap_err());
    }
    if let Some(toy) = toy("answers") {
        refused.push(toy.open().load(&without).unwrap_err());
        assert!(!toy.folder.path().join("logs").exists(), "nothing was started");
    }
    for failure in refused {
        assert_eq!(failure.kind, FailureKind::Unsupported, "{failure:?}");
    }
}

#[test]
fn a_command_may_turn_caches_of_prompts_off() {
    let Some(mut toy) = toy("answers") else { return };
    toy.side.command.as_mut().unwrap().push("{prompt-cache}".to_owned());
    let mut server = toy.open();
    for (prompt_cache, word) in [(true, "on"), (false, "off")] {
        let loaded = server
            .load(&LoadRequest {
                prompt_cache,
                ..REQUEST
            })
            .unwrap();
        let command = loaded.server.command.unwrap();
        assert_eq!(command.last().map(String::as_str), Some(word));
    }
}

#[test]
fn llama_server_tells_the_next_tokens_by_its_own_interface() {
    // https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md, `completion_probabilities`
    let token = |text: &str, logprob: f64| json!({ "id": 1, "token": text, "bytes": [32], "logprob": logprob });
    let mut first = token(" Paris", -0.25);
    first["top_logprobs"] = json!([token(" Paris", -0.25), token(" a", -3.5)]);
    let answer = json!({ "content": " Paris", "stop": true, "completion_probabilities": [first] });
    let server = ReplayServer::start([
        ("GET /health", Script::json(200, &json!({ "status": "ok" }))),
        ("GET /props", Script::json(200, &json!({}))),
        ("POST /completion", Script::json(200, &answer)),
    ]);
    let mut llama = open(
        &side(ServerKind::LlamaServer, "m", Some(server.address())),
        &surroundings(),
    )
    .unwrap();
    llama.load(&REQUEST).unwrap();
    let next = llama.next_tokens("The capital of France is", 2).unwrap();
    assert_eq!(next.tokens, [(" Paris".to_owned(), -0.25), (" a".to_owned(), -3.5)]);
    let expected = json!({ "prompt": "The capital of France is", "n_predict": 1, "n_probs": 2, "temperature": 0 });
    assert_eq!(server.last_body("POST /completion"), expected);
}

#[test]
fn mlx_lm_tells_the_next_tokens_as_its_vocabulary_writes_them() {
    let top = json!([
        { "id": 2, "token": "\u{120}a", "logprob": -3.5 },
        { "id": 1, "token": "\u{120}Paris", "logprob": -0.25 },
    ]);
    let answer = json!({ "choices": [{ "text": " Paris", "logprobs": { "content": [{ "id": 1, "token": "\u{120}Paris", "logprob": -0.25, "top_logprobs": top }] } }] });
    let server = ReplayServer::start([
        ("GET /health", Script::json(200, &json!({ "status": "ok" }))),
        ("POST /v1/completions", Script::json(200, &answer)),
    ]);
    let mut mlx = open(&side(ServerKind::MlxLm, "m", Some(server.address())), &surroundings()).unwrap();
    mlx.load(&REQUEST).unwrap();
    let next = mlx.next_tokens("The capital of France is", 50).unwrap();
    assert_eq!(next.tokens, [(" Paris".to_owned(), -0.25), (" a".to_owned(), -3.5)]);
    // The server refuses to tell more.
    assert_eq!(server.last_body("POST /v1/completions")["top_logprobs"], json!(10));
}

fn open_ai(completion: Script) -> Result<Vec<(String, f64)>, FailureKind> {
    let server = ReplayServer::start([("POST /v1/completions", completion)]);
    let open_ai = open(&side(ServerKind::OpenAi, "m", Some(server.address())), &surroundings()).unwrap();
    let next = open_ai.next_tokens("The capital of France is", 2);
    next.map(|next| next.tokens).map_err(|failure| failure.kind)
}

#[test]
fn any_server_tells_the_next_tokens_where_it_has_completions_with_log_probabilities() {
    let logprobs = json!({ "tokens": [" Paris"], "token_logprobs": [-0.25], "top_logprobs": [{ " a": -3.5, " Paris": -0.25 }], "text_offset": [0] });
    let told = json!({ "choices": [{ "text": " Paris", "index": 0, "logprobs": logprobs }] });
    assert_eq!(
        open_ai(Script::json(200, &told)),
        Ok(vec![(" Paris".to_owned(), -0.25), (" a".to_owned(), -3.5)])
    );
    let untold = json!({ "choices": [{ "text": " Paris", "index": 0, "logprobs": null }] });
    assert_eq!(open_ai(Script::json(200, &untold)), Err(FailureKind::Unsupported));
    assert_eq!(open_ai(Script::json(404, &json!({}))), Err(FailureKind::Unsupported));
    assert_eq!(open_ai(Script::json(500, &json!({}))), Err(FailureKind::ServerError));
}

#[test]
fn any_server_can_be_started_by_a_command_and_has_to_list_the_model() {
    let Some(mut toy) = toy("open-ai") else { return };
    toy.side.server = ServerKind::OpenAi;
    let mut server = toy.open();
    let loaded = server.load(&REQUEST).unwrap();
    assert_eq!(
        (loaded.server.kind, loaded.server.start),
        (ServerKind::OpenAi, Start::Process)
    );
    assert!(loaded.ready_seconds.is_some());
    let answer = server.ask(&question(), Clock::start());
    assert_eq!((answer.failure, answer.text.as_str()), (None, "In France"));
    let root = server.processes().roots()[0];
    server.unload().unwrap();
    assert!(ends(root));
    toy.side.model = "tox".to_owned();
    let failure = toy.open().load(&REQUEST).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotLoaded);
    assert_eq!(failure.hint.as_deref(), Some("did you mean `toy`?"));
}

#[test]
fn any_server_has_to_list_the_model() {
    let list = |ids: &[&str]| {
        let models: Vec<Value> = ids.iter().map(|id| json!({ "id": id, "object": "model" })).collect();
        Script::json(200, &json!({ "object": "list", "data": models }))
    };
    for (ids, is_there) in [(&["a", "m"][..], true), (&["a", "b"][..], false)] {
        let server = ReplayServer::start([("GET /v1/models", list(ids))]);
        let mut open_ai = open(&side(ServerKind::OpenAi, "m", Some(server.address())), &surroundings()).unwrap();
        let loaded = open_ai.load(&REQUEST);
        assert_eq!(loaded.is_ok(), is_there);
        assert!(is_there || loaded.unwrap_err().kind == FailureKind::NotLoaded);
    }
}

#[test]
fn mlx_lm_that_cannot_load_its_model_says_so_by_its_health() {
    let Some(mut toy) = toy("never") else { return };
    toy.side.server = ServerKind::MlxLm;
    let failure = toy.open().load(&REQUEST).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotLoaded);
    assert!(failure.reason.contains("starting with green"), "{failure:?}");
}
