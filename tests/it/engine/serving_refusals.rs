//! `diagnose serve` refuses what it cannot do, and goes on.

use mlx_diagnose::serving::{ApiKey, Listener, ServerSettings};
use rstest::rstest;
use serde_json::{Value, json};

use crate::engine::running_server::{
    CHAT, COMPLETIONS, CONTEXT, agent, answered, assert_becomes_idle, chat, diagnose, get, post, post_text, raw, serve,
    with,
};
use crate::support::golden::root;

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
