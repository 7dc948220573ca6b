//! What a client makes of a stream, whole and broken.

use std::time::{Duration, Instant};

use mlx_diagnose::compare::client::{Answer, ChatMessage, ChatRequest, Clock, Event, EventStream};
use mlx_diagnose::compare::servers::{Server, Surroundings, open};
use mlx_diagnose::compare::{FailureKind, Limits, ServerKind, ServerTimings, Side, Usage};
use mlx_diagnose::interrupt::Interrupt;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::replay_server::{ReplayServer, Script};

const CHAT: &str = "POST /v1/chat/completions";

pub fn surroundings() -> Surroundings {
    Surroundings {
        limits: Limits {
            load: 10.0,
            request: 10.0,
            stall: 5.0,
            test: 60.0,
        },
        interrupt: Interrupt::default(),
        program: "mlx-diagnose".into(),
        logs: std::env::temp_dir(),
        scripts: std::env::temp_dir(),
    }
}

pub fn side(server: ServerKind, model: &str, address: Option<String>) -> Side {
    Side {
        server,
        model: model.to_owned(),
        address,
        command: None,
        environment: std::collections::BTreeMap::new(),
        api_key_variable: None,
    }
}

pub fn question() -> ChatRequest {
    let message = |role, content: &str| ChatMessage {
        role,
        content: content.to_owned(),
    };
    ChatRequest {
        messages: vec![message("system", "17 Be brief."), message("user", "Where is Paris?")],
        max_tokens: 8,
        more: Vec::new(),
    }
}

fn open_ai(address: String, surroundings: &Surroundings) -> Box<dyn Server> {
    open(&side(ServerKind::OpenAi, "m", Some(address)), surroundings).unwrap()
}

fn ask(script: Script) -> Answer {
    ask_with(script, &surroundings())
}

fn ask_with(script: Script, surroundings: &Surroundings) -> Answer {
    let server = ReplayServer::start([(CHAT, script)]);
    open_ai(server.address(), surroundings).ask(&question(), Clock::start())
}

fn delta(delta: &Value) -> Value {
    json!({ "object": "chat.completion.chunk", "model": "m", "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] })
}

fn kind(answer: &Answer) -> Option<FailureKind> {
    answer.failure.as_ref().map(|failure| failure.kind)
}

fn reason(answer: &Answer) -> &str {
    answer.failure.as_ref().map_or("", |failure| &failure.reason)
}

fn events_of(stream: &str) -> Vec<(String, String)> {
    let events = EventStream::default().push(stream.as_bytes()).unwrap();
    events.into_iter().map(|event| (event.name, event.data)).collect()
}

fn message(data: &str) -> (String, String) {
    ("message".to_owned(), data.to_owned())
}

#[test]
fn the_examples_of_the_specification_are_read_as_it_says() {
    // https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    assert_eq!(
        events_of("data: YHOO\ndata: +2\ndata: 10\n\n"),
        [message("YHOO\n+2\n10")]
    );
    assert_eq!(
        events_of(": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"),
        [message("first event"), message("second event"), message(" third event")]
    );
    assert_eq!(events_of("data\n\ndata\ndata\n\ndata:"), [message(""), message("\n")]);
    assert_eq!(
        events_of("data:test\n\ndata: test\n\n"),
        [message("test"), message("test")]
    );
}

#[test]
fn every_end_of_line_ends_a_line_and_a_byte_order_mark_is_no_field() {
    assert_eq!(
        events_of("\u{feff}data: a\r\ndata: b\r\rdata: c\n\n"),
        [message("a\nb"), message("c")]
    );
    assert_eq!(events_of("data: a\n\n\u{feff}data: b\n\n"), [message("a")]);
}

#[test]
fn an_event_keeps_its_name_and_the_next_one_has_none() {
    let named = ("chat.end".to_owned(), "{}".to_owned());
    assert_eq!(
        events_of("event: chat.end\ndata: {}\n\ndata: x\n\n"),
        [named, message("x")]
    );
    assert_eq!(events_of("event: without.data\n\ndata: x\n\n"), [message("x")]);
}

#[test]
fn a_line_without_an_end_is_an_error() {
    let mut stream = EventStream::default();
    let piece = vec![b'a'; 1 << 20];
    let result = (0..16).try_for_each(|_| stream.push(&piece).map(|events| assert!(events.is_empty())));
    assert!(result.is_err());
}

#[test]
fn an_event_without_an_end_is_an_error() {
    let mut stream = EventStream::default();
    let line = format!("data: {}\n", "a".repeat(1 << 20));
    let result = (0..16).try_for_each(|_| stream.push(line.as_bytes()).map(|events| assert!(events.is_empty())));
    assert!(result.is_err());
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_gives_the_same_events(
        stream in "(\u{feff})?((data|event|id|:|x)(: ?)?[aé日 ]{0,4}(\n|\r|\r\n){1,2}){0,8}",
        cuts in prop::collection::vec(0_usize..64, 0..8),
    ) {
        let whole = EventStream::default().push(stream.as_bytes()).unwrap();
        let bytes = stream.as_bytes();
        let mut places: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let mut split = EventStream::default();
        let mut events: Vec<Event> = Vec::new();
        for pair in places.windows(2) {
            events.extend(split.push(&bytes[pair[0]..pair[1]]).unwrap());
        }
        prop_assert_eq!(events, whole);
    }
}

#[test]
fn the_first_piece_is_text_and_neither_a_role_nor_progress() {
    let progress = json!({ "choices": [{ "index": 0, "delta": { "role": "assistant", "content": null } }], "prompt_progress": { "total": 9, "cache": 0, "processed": 4, "time_ms": 3 } });
    let script = Script::events()
        .data(&progress)
        .data(&delta(&json!({ "content": "" })))
        .wait(Duration::from_millis(60))
        .data(&delta(&json!({ "content": "In " })))
        .data(&delta(&json!({ "content": "France" })))
        .data(&json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] }))
        .done();
    let answer = ask(script);
    assert_eq!(answer.failure, None);
    assert_eq!(answer.text, "In France");
    assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
    let times = &answer.times;
    assert_eq!(times.pieces.len(), 2);
    assert!(times.headers.unwrap() + 0.05 < times.pieces[0], "{times:?}");
    assert!(
        times.sent <= times.headers.unwrap() && times.pieces[1] <= times.ended,
        "{times:?}"
    );
}

#[test]
fn thoughts_and_tool_calls_are_pieces_too() {
    let call = json!({ "tool_calls": [{ "index": 0, "function": { "name": "look", "arguments": "{}" } }] });
    let script = Script::events()
        .data(&delta(&json!({ "reasoning_content": "hm" })))
        .data(&delta(&json!({ "reasoning": "!" })))
        .data(&delta(&call))
        .done();
    let answer = ask(script);
    assert_eq!((answer.text.as_str(), answer.times.pieces.len()), ("hm!look{}", 3));
}

#[test]
fn what_the_server_counts_and_measures_is_kept() {
    let last = json!({
        "choices": [],
        "usage": { "completion_tokens": 3, "prompt_tokens": 12, "total_tokens": 15, "prompt_tokens_details": { "cached_tokens": 4 } },
        "timings": { "cache_n": 4, "prompt_n": 8, "prompt_ms": 20.0, "prompt_per_second": 400.0, "predicted_n": 3, "predicted_ms": 30.0, "predicted_per_second": 100.0 },
    });
    let answer = ask(Script::events()
        .data(&delta(&json!({ "content": "a" })))
        .data(&last)
        .done());
    let usage = Usage {
        prompt_tokens: 12,
        completion_tokens: 3,
        cached_tokens: Some(4),
    };
    assert_eq!(answer.usage, Some(usage));
    let timings = ServerTimings {
        prompt_tokens: Some(8),
        prompt: Some(0.02),
        generated_tokens: Some(3),
        generation: Some(0.03),
        tokens_per_second: Some(100.0),
        ..ServerTimings::default()
    };
    assert_eq!(answer.timings, Some(timings));
}

#[test]
fn a_request_asks_for_a_greedy_stream_with_usage_and_what_was_added() {
    let server = ReplayServer::start([(CHAT, Script::events().data(&delta(&json!({ "content": "a" }))).done())]);
    let mut request = question();
    request.more.push(("cache_prompt".to_owned(), false.into()));
    let answer = open_ai(server.address(), &surroundings()).ask(&request, Clock::start());
    assert_eq!(answer.failure, None);
    let expected = json!({
        "model": "m",
        "messages": [{ "role": "system", "content": "17 Be brief." }, { "role": "user", "content": "Where is Paris?" }],
        "max_tokens": 8,
        "temperature": 0,
        "stream": true,
        "stream_options": { "include_usage": true },
        "cache_prompt": false,
    });
    assert_eq!(server.last_body(CHAT), expected);
}

#[test]
fn a_stream_that_stalls_is_told() {
    let mut surroundings = surroundings();
    surroundings.limits.stall = 0.2;
    let answer = ask_with(
        Script::events().data(&delta(&json!({ "content": "a" }))).hang(),
        &surroundings,
    );
    assert_eq!(kind(&answer), Some(FailureKind::Stalled), "{answer:?}");
    assert_eq!((answer.text.as_str(), answer.times.pieces.len()), ("a", 1));
    assert!(answer.times.ended >= answer.times.pieces[0] + 0.2);
}

#[test]
fn comments_that_keep_a_connection_alive_are_no_text() {
    let mut surroundings = surroundings();
    surroundings.limits.stall = 0.2;
    let script = Script::events().repeat(": keepalive 1/9\n\n", Duration::from_millis(10));
    let server = ReplayServer::start([(CHAT, script)]);
    let answer = open_ai(server.address(), &surroundings).ask(&question(), Clock::start());
    assert_eq!(kind(&answer), Some(FailureKind::Stalled), "{answer:?}");
    assert!(server.wait_until_given_up(1), "the connection is still open");
}

#[test]
fn text_without_end_takes_too_long_as_a_whole() {
    let mut surroundings = surroundings();
    surroundings.limits.request = 0.3;
    let event = format!("data: {}\n\n", delta(&json!({ "content": "a" })));
    let answer = ask_with(
        Script::events().repeat(&event, Duration::from_millis(10)),
        &surroundings,
    );
    assert_eq!(kind(&answer), Some(FailureKind::TimedOut), "{answer:?}");
    assert!(!answer.text.is_empty());
}

#[test]
fn a_server_that_never_answers_stalls() {
    let mut surroundings = surroundings();
    surroundings.limits.stall = 0.2;
    let answer = ask_with(Script::silence(), &surroundings);
    assert_eq!(kind(&answer), Some(FailureKind::Stalled));
    assert_eq!(answer.times.headers, None);
}

#[test]
fn the_users_wish_is_seen_while_a_server_computes_and_closes_the_connection() {
    let surroundings = surroundings();
    let server = ReplayServer::start([(CHAT, Script::events().hang())]);
    let asked = open_ai(server.address(), &surroundings);
    let wish = surroundings.interrupt.clone();
    let user = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        wish.request();
    });
    let began = Instant::now();
    let answer = asked.ask(&question(), Clock::start());
    assert_eq!(kind(&answer), Some(FailureKind::Interrupted));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(server.wait_until_given_up(1), "the connection is still open");
    user.join().unwrap();
}

#[test]
fn a_connection_that_ends_in_the_middle_is_broken_off_and_keeps_its_text() {
    let answer = ask(Script::events().data(&delta(&json!({ "content": "a" }))).break_off());
    assert_eq!(kind(&answer), Some(FailureKind::BrokenOff), "{answer:?}");
    assert_eq!((answer.text.as_str(), answer.times.pieces.len()), ("a", 1));
}

#[test]
fn a_body_that_ends_without_a_last_event_is_broken_off() {
    let answer = ask(Script::events().data(&delta(&json!({ "content": "a" }))));
    assert_eq!(kind(&answer), Some(FailureKind::BrokenOff), "{answer:?}");
}

#[test]
fn a_closed_port_is_unreachable() {
    let address = ReplayServer::start([]).address();
    let answer = open_ai(address, &surroundings()).ask(&question(), Clock::start());
    assert_eq!(kind(&answer), Some(FailureKind::Unreachable), "{answer:?}");
}

#[test]
fn what_is_no_json_is_malformed() {
    for broken in [
        "data: {\"choices\": [\n\n",
        "data: <html>\n\n",
        "data: {\"choices\": 3}\n\n",
    ] {
        let answer = ask(Script::events().send(broken).done());
        assert_eq!(kind(&answer), Some(FailureKind::Malformed), "{broken}: {answer:?}");
    }
}

#[test]
fn an_error_in_the_middle_of_a_stream_is_the_servers() {
    let error = json!({ "error": { "code": 500, "message": "out of memory", "type": "server_error" } });
    let answer = ask(Script::events()
        .data(&delta(&json!({ "content": "a" })))
        .data(&error)
        .done());
    assert_eq!(kind(&answer), Some(FailureKind::ServerError));
    assert!(reason(&answer).contains("out of memory"), "{answer:?}");
    assert_eq!(answer.text, "a");
}

#[test]
fn a_success_that_is_an_error_is_the_servers() {
    let answer = ask(Script::json(200, &json!({ "error": "Unexpected endpoint or method" })));
    assert_eq!(kind(&answer), Some(FailureKind::ServerError), "{answer:?}");
}

#[test]
fn an_answer_that_is_not_streamed_is_malformed() {
    let whole = json!({ "choices": [{ "message": { "content": "In France" } }] });
    assert_eq!(kind(&ask(Script::json(200, &whole))), Some(FailureKind::Malformed));
}

#[test]
fn the_status_and_the_name_of_another_model_are_kept() {
    let of_model = |model: &str| {
        let mut chunk = delta(&json!({ "content": "a" }));
        chunk["model"] = model.into();
        ask(Script::events().data(&chunk).done())
    };
    let (same, other) = (of_model("m"), of_model("other-model-7b"));
    assert_eq!((same.status, same.other_model), (Some(200), None));
    assert_eq!(
        (other.failure, other.other_model.as_deref()),
        (None, Some("other-model-7b"))
    );
    assert_eq!(ask(Script::json(422, &json!({}))).status, Some(422));
}

#[test]
fn a_page_where_a_stream_was_asked_for_is_shown() {
    let answer = ask(Script::page("<html>\n<title>Log in</title>\n\n</html>\n"));
    assert_eq!(kind(&answer), Some(FailureKind::Malformed));
    assert_eq!(
        reason(&answer),
        "the server does not stream its answer: <html> <title>Log in</title> </html>"
    );
}

#[test]
fn an_answer_with_a_reason_for_its_end_is_complete_without_a_last_event() {
    let last = json!({ "choices": [{ "index": 0, "delta": { "content": "b" }, "finish_reason": "stop" }] });
    let answer = ask(Script::events().data(&delta(&json!({ "content": "a" }))).data(&last));
    assert_eq!((answer.failure, answer.text.as_str()), (None, "ab"));
    let broken = ask(Script::events().data(&last).break_off());
    assert_eq!(kind(&broken), Some(FailureKind::BrokenOff), "its connection was cut");
}

#[test]
fn counts_and_times_that_cannot_be_are_malformed() {
    let usage = |tokens: &Value| json!({ "usage": { "prompt_tokens": 1, "completion_tokens": tokens } });
    let timings = |name: &str, value: f64| json!({ "timings": { name: value } });
    let with = |last: &Value| {
        ask(Script::events()
            .data(&delta(&json!({ "content": "a" })))
            .data(last)
            .done())
    };
    for wrong in [
        usage(&json!(1e300)),
        usage(&json!(18_446_744_073_709_551_615_u64)),
        usage(&json!(-1)),
        timings("prompt_ms", -150.0),
        timings("predicted_ms", 1e300),
        timings("predicted_per_second", -1.0),
    ] {
        assert_eq!(kind(&with(&wrong)), Some(FailureKind::Malformed), "{wrong}");
    }
    assert_eq!(with(&usage(&json!(12.0))).usage.unwrap().completion_tokens, 12);
}

#[test]
fn refusals_and_failures_are_told_apart_and_say_why() {
    let statuses = [
        (400, FailureKind::Refused),
        (401, FailureKind::Refused),
        (429, FailureKind::Refused),
        (500, FailureKind::ServerError),
        (503, FailureKind::ServerError),
    ];
    for (status, expected) in statuses {
        let answer = ask(Script::json(status, &json!({ "error": { "message": "because" } })));
        assert_eq!(kind(&answer), Some(expected));
        assert!(
            reason(&answer).contains(&format!("status {status}: because")),
            "{answer:?}"
        );
        assert!(answer.times.headers.is_some());
    }
}

#[test]
fn a_success_without_text_is_empty() {
    let script = Script::events()
        .data(&delta(&json!({ "role": "assistant", "content": "" })))
        .data(&json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] }))
        .done();
    assert_eq!(kind(&ask(script)), Some(FailureKind::Empty));
}

#[test]
fn several_requests_run_at_one_time() {
    let script = Script::events()
        .wait(Duration::from_millis(200))
        .data(&delta(&json!({ "content": "a" })))
        .done();
    let server = ReplayServer::start([(CHAT, script)]);
    let asked = open_ai(server.address(), &surroundings());
    let clock = Clock::start();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(|| asked.ask(&question(), clock))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let last_sent = answers.iter().map(|answer| answer.times.sent).fold(0.0, f64::max);
    let first_ended = answers
        .iter()
        .map(|answer| answer.times.ended)
        .fold(f64::INFINITY, f64::min);
    assert!(answers.iter().all(|answer| answer.failure.is_none()));
    assert!(last_sent < first_ended, "{answers:?}");
}
