//! How requests wait, end and are given up in `diagnose serve`, and how it ends itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use mlx_diagnose::engine::Request;
use rstest::rstest;
use serde_json::json;

use crate::engine::running_server::{
    CHAT, COMPLETIONS, SOON, adapter, agent, answered, assert_becomes_idle, begun, chat, diagnose, get, post,
    post_text, raw, serve,
};
use crate::support::golden::root;

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
    let request = Request::greedy(vec![5], 5);
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
