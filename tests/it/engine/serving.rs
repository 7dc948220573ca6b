//! `diagnose serve`: OpenAI's HTTP interface says what the engine says.

use std::collections::{BTreeMap, BTreeSet};

use mlx_diagnose::engine::FinishReason;
use rstest::rstest;
use serde_json::{Value, json};

use crate::engine::running_server::{
    CHAT, COMPLETIONS, adapter, asked_directly, assert_becomes_idle, assert_close, chat, get, post, post_text, serve,
    serve_with, stream, with,
};

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
