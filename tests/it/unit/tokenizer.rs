//! Tokenizers, chat templates and stop sets against what Python's transformers makes of the same files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::golden;
use mlx_diagnose::model::{
    ChatTemplate, ChatTemplateError, GgufHeader, Message, StopSet, TEMPLATE_TIME, Tokenizer, read_gguf_tokenizer,
};
use rstest::rstest;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

type TestError = Box<dyn std::error::Error>;
type TestResult = Result<(), TestError>;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn golden(path: &str) -> PathBuf {
    repository().join("fixtures/golden").join(path)
}

fn read_json(path: &Path) -> Result<Value, TestError> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn message<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(value) => panic!("accepted as {value:?}"),
        Err(error) => error.to_string(),
    }
}

fn array<'json>(value: &'json Value, key: &str) -> Result<&'json Vec<Value>, TestError> {
    Ok(value[key].as_array().ok_or_else(|| format!("no `{key}`"))?)
}

fn ids(value: &Value) -> Result<Vec<u32>, serde_json::Error> {
    serde_json::from_value(value.clone())
}

fn messages(value: &Value) -> Result<Vec<Message>, serde_json::Error> {
    serde_json::from_value(value.clone())
}

/// The GGUF file of the real test model; `None` when it was not fetched.
fn smollm2() -> Result<Option<Tokenizer>, TestError> {
    let Some(path) = golden::smollm2() else { return Ok(None) };
    Ok(Some(Tokenizer::from_gguf(&GgufHeader::read(&path)?)?))
}

/// A copy of a small tokenizer's folder, to be spoilt.
fn small_folder() -> Result<TempDir, TestError> {
    let folder = tempfile::tempdir()?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(golden("tokenizers/smollm").join(file), folder.path().join(file))?;
    }
    Ok(folder)
}

/// The same with one key of `tokenizer_config.json` changed.
fn folder_with_setting(key: &str, value: Value) -> Result<TempDir, TestError> {
    let folder = small_folder()?;
    let path = folder.path().join("tokenizer_config.json");
    let mut settings = read_json(&path)?;
    settings[key] = value;
    fs::write(&path, settings.to_string())?;
    Ok(folder)
}

#[rstest]
fn ids_and_texts_are_those_of_transformers(
    #[values("gpt-2", "smollm", "qwen2", "llama-bpe", "surrounded")] family: &str,
    #[values("folder", "gguf")] origin: &str,
) -> TestResult {
    let folder = golden("tokenizers").join(family);
    let tokenizer = match origin {
        "folder" => Tokenizer::from_folder(&folder)?,
        _ => Tokenizer::from_gguf(&GgufHeader::read(&folder.join("header.gguf"))?)?,
    };
    let expected = read_json(&folder.join("golden.json"))?;
    assert_eq!(json!(tokenizer.vocabulary_size()), expected["vocabulary_size"]);
    for case in array(&expected, "strings")? {
        let (name, text) = (&case["name"], case["text"].as_str().ok_or("no text")?);
        let plain = ids(&case["ids"])?;
        assert_eq!(tokenizer.encode(text, false)?, plain, "{name}");
        // The GGUF file of this family asks for both tokens, which its folder cannot.
        let with_special = if (family, origin) == ("surrounded", "gguf") {
            [&[0], plain.as_slice(), &[2]].concat()
        } else {
            ids(&case["ids_with_special"])?
        };
        assert_eq!(tokenizer.encode(text, true)?, with_special, "{name}");
        assert_eq!(json!(tokenizer.decode(&plain, false)?), case["decoded"], "{name}");
        assert_eq!(
            json!(tokenizer.decode(&plain, true)?),
            case["decoded_without_special"],
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn a_gguf_tokenizer_written_as_a_definition_reads_back_the_same() -> TestResult {
    let header = GgufHeader::read(&golden("tokenizers/llama-bpe/header.gguf"))?;
    let folder = tempfile::tempdir()?;
    fs::write(
        folder.path().join("tokenizer.json"),
        Tokenizer::from_gguf(&header)?.definition()?,
    )?;
    let tokenizer = Tokenizer::from_folder(folder.path())?;
    for case in array(&read_json(&golden("tokenizers/llama-bpe/golden.json"))?, "strings")? {
        let text = case["text"].as_str().ok_or("no text")?;
        assert_eq!(
            tokenizer.encode(text, true)?,
            ids(&case["ids_with_special"])?,
            "{}",
            case["name"]
        );
    }
    Ok(())
}

#[test]
fn the_real_tokenizer_of_smollm2_gives_the_ids_of_transformers() -> TestResult {
    let Some(tokenizer) = smollm2()? else { return Ok(()) };
    let expected = read_json(&golden("smollm2-tokens.json"))?;
    for case in array(&expected, "strings")? {
        let text = case["text"].as_str().ok_or("no text")?;
        assert_eq!(tokenizer.encode(text, false)?, ids(&case["ids"])?, "{}", case["name"]);
        assert_eq!(tokenizer.decode(&ids(&case["ids"])?, false)?, text, "{}", case["name"]);
    }
    for case in array(&expected, "conversations")? {
        let conversation = messages(&case["messages"])?;
        let prompt = case["add_generation_prompt"].as_bool().ok_or("no flag")?;
        assert_eq!(
            json!(tokenizer.render_chat(&conversation, None, prompt)?),
            case["rendered"],
            "{}",
            case["name"]
        );
        assert_eq!(
            tokenizer.encode_chat(&conversation, None, prompt)?,
            ids(&case["ids"])?,
            "{}",
            case["name"]
        );
    }
    Ok(())
}

#[test]
fn the_stop_set_of_smollm2_names_its_sources() -> TestResult {
    let Some(tokenizer) = smollm2()? else { return Ok(()) };
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(1), Some(2)));
    assert_eq!(tokenizer.vocabulary_size(), 49152);
    let stops = StopSet::of(&tokenizer)?;
    assert_eq!(stops.ids(), [2]);
    assert_eq!(stops.tokens()[0].text, "<|im_end|>");
    assert_eq!(
        stops.tokens()[0].sources,
        ["GGUF tokenizer.ggml.eos_token_id", "chat template"]
    );
    Ok(())
}

#[test]
fn the_stop_set_is_the_union_of_all_files_and_the_template() -> TestResult {
    let folder = small_folder()?;
    fs::write(folder.path().join("config.json"), r#"{"eos_token_id": 5}"#)?;
    fs::write(
        folder.path().join("generation_config.json"),
        r#"{"eos_token_id": [0, 2, 9999]}"#,
    )?;
    // The answer ends with token 1 here; tokenizer_config.json names token 2.
    fs::write(
        folder.path().join("chat_template.jinja"),
        "{% for message in messages %}{{ message.content }} \n<|turn|><|end|>{% endfor %}",
    )?;
    let stops = StopSet::of(&Tokenizer::from_folder(folder.path())?)?;
    let found: Vec<(u32, &str, Vec<&str>)> = stops
        .tokens()
        .iter()
        .map(|token| {
            (
                token.id,
                token.text.as_str(),
                token.sources.iter().map(String::as_str).collect(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (0, "<|text|>", vec!["generation_config.json eos_token_id"]),
            (1, "<|turn|>", vec!["chat template"]),
            (
                2,
                "<|end|>",
                vec!["generation_config.json eos_token_id", "tokenizer_config.json eos_token"]
            ),
            (5, "\"", vec!["config.json eos_token_id"]),
            (
                9999,
                "(not in the vocabulary)",
                vec!["generation_config.json eos_token_id"]
            ),
        ]
    );
    assert!(stops.contains(9999));
    assert!(!stops.contains(3));
    Ok(())
}

#[rstest]
#[case::words_follow("{% for message in messages %}{{ message.content }} and more<|end|>{% endfor %}")]
#[case::nothing_follows("{% for message in messages %}{{ message.content }}{% endfor %}")]
#[case::answers_are_left_out("{{ messages[0].content }}<|end|>")]
fn a_template_that_ends_no_answer_adds_no_stop(#[case] template: &str) -> TestResult {
    let folder = folder_with_setting("chat_template", json!(template))?;
    let stops = StopSet::of(&Tokenizer::from_folder(folder.path())?)?;
    assert_eq!(stops.ids(), [2]);
    assert_eq!(stops.tokens()[0].sources, ["tokenizer_config.json eos_token"]);
    Ok(())
}

#[test]
fn a_template_file_goes_before_the_settings() -> TestResult {
    let folder = folder_with_setting("chat_template", json!("from the settings"))?;
    fs::write(folder.path().join("chat_template.jinja"), "from the file")?;
    let tokenizer = Tokenizer::from_folder(folder.path())?;
    assert_eq!(tokenizer.render_chat(&[], None, false)?, "from the file");
    assert_eq!(
        tokenizer.chat_template().ok_or("no template")?.name(),
        "chat_template.jinja"
    );
    Ok(())
}

#[test]
fn named_templates_are_chosen_by_the_presence_of_tools() -> TestResult {
    let named = json!([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]);
    let folder = folder_with_setting("chat_template", named)?;
    let tokenizer = Tokenizer::from_folder(folder.path())?;
    assert_eq!(tokenizer.render_chat(&[], None, false)?, "plain");
    assert_eq!(tokenizer.render_chat(&[], Some(&[json!({})]), false)?, "with tools");
    Ok(())
}

#[test]
fn templates_are_told_about_thinking_as_mlx_lm_tells_them() -> TestResult {
    let template = "{{ enable_thinking }} {{ bos_token }} {{ eos_token }}";
    let folder = folder_with_setting("chat_template", json!(template))?;
    assert_eq!(
        Tokenizer::from_folder(folder.path())?.render_chat(&[], None, false)?,
        "False <|text|> <|end|>"
    );
    let path = folder.path().join("tokenizer_config.json");
    let mut settings = read_json(&path)?;
    settings["added_tokens_decoder"] = json!({
        "420": {"content": "<think>", "special": false}, "421": {"content": "</think>", "special": false}
    });
    fs::write(&path, settings.to_string())?;
    let tokenizer = Tokenizer::from_folder(folder.path())?;
    assert_eq!(tokenizer.render_chat(&[], None, false)?, "True <|text|> <|end|>");
    assert_eq!(tokenizer.encode("<think>", false)?, [420]);
    assert_eq!(tokenizer.vocabulary_size(), 422);
    Ok(())
}

#[test]
fn cutting_left_over_from_training_does_not_cut_prompts() -> TestResult {
    let folder = small_folder()?;
    let path = folder.path().join("tokenizer.json");
    let text = "The keeper's boats came in at 5 o'clock.";
    let whole = Tokenizer::from_folder(folder.path())?.encode(text, false)?;
    let mut definition = read_json(&path)?;
    definition["truncation"] = json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    definition["padding"] = json!({
        "strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<|text|>"
    });
    fs::write(&path, definition.to_string())?;
    assert_eq!(Tokenizer::from_folder(folder.path())?.encode(text, false)?, whole);
    Ok(())
}

#[test]
fn a_folder_without_a_tokenizer_says_where_to_get_one() -> TestResult {
    let folder = tempfile::tempdir()?;
    let absent = message(Tokenizer::from_folder(folder.path()));
    assert!(absent.contains("has no tokenizer"), "{absent}");
    assert!(absent.contains("hint: copy tokenizer.json"), "{absent}");
    fs::write(folder.path().join("tokenizer.model"), "sentencepiece")?;
    let older = message(Tokenizer::from_folder(folder.path()));
    assert!(older.contains("AutoTokenizer.from_pretrained"), "{older}");
    assert!(older.contains("from tokenizer.model"), "{older}");
    Ok(())
}

#[rstest]
#[case::cut("tokenizer.json", br#"{"version": "1.0", "model": {"type": "B"#.as_slice(), "is broken")]
#[case::empty("tokenizer.json", b"", "is broken")]
#[case::not_utf8("tokenizer.json", b"{\"version\": \"\xff\"}", "is broken")]
#[case::other_json("tokenizer.json", b"{}", "is broken")]
#[case::settings_cut("tokenizer_config.json", b"{\"bos_token\": ", "EOF while parsing a value")]
#[case::settings_list("tokenizer_config.json", b"[1]", "found: an array")]
#[case::unknown_end(
    "tokenizer_config.json",
    b"{\"eos_token\": \"</s>\"}",
    "eos_token: found `</s>`, expected a token of tokenizer.json"
)]
#[case::numeric_end(
    "tokenizer_config.json",
    b"{\"eos_token\": 7}",
    "eos_token: found 7, expected a text"
)]
#[case::end_without_content(
    "tokenizer_config.json",
    b"{\"eos_token\": {\"special\": true}}",
    "eos_token.content: found no value"
)]
#[case::token_elsewhere(
    "tokenizer_config.json",
    b"{\"added_tokens_decoder\": {\"7\": {\"content\": \"<|end|>\"}}}",
    "added_tokens_decoder.7: found `<|end|>` with id 2"
)]
#[case::template_kind("tokenizer_config.json", b"{\"chat_template\": 7}", "chat_template: found 7")]
#[case::template_syntax(
    "chat_template.jinja",
    b"\n{% for x in %}",
    "chat template `chat_template.jinja` is not valid at line 2"
)]
#[case::template_bytes("chat_template.jinja", b"\xff", "UTF-8 text")]
#[case::generation_cut("generation_config.json", b"{", "EOF while parsing an object")]
#[case::generation_end(
    "generation_config.json",
    b"{\"eos_token_id\": \"x\"}",
    "eos_token_id: found the text `x`"
)]
fn a_broken_file_is_named_with_what_is_wrong(
    #[case] file: &str,
    #[case] content: &[u8],
    #[case] part: &str,
) -> TestResult {
    let folder = small_folder()?;
    fs::write(folder.path().join(file), content)?;
    let message = message(Tokenizer::from_folder(folder.path()));
    assert!(message.contains(part), "{message}");
    assert!(message.contains(file), "{message}");
    Ok(())
}

#[test]
fn a_conversation_without_a_template_is_an_error_that_names_the_model() -> TestResult {
    let folder = folder_with_setting("chat_template", Value::Null)?;
    let tokenizer = Tokenizer::from_folder(folder.path())?;
    let message = message(tokenizer.render_chat(&[Message::new("user", "hello")], None, true));
    assert!(message.contains("has no chat template"), "{message}");
    assert!(message.contains(&folder.path().display().to_string()), "{message}");
    assert_eq!(StopSet::of(&tokenizer)?.ids(), [2]);
    Ok(())
}

#[test]
fn tokens_have_the_text_they_are_written_with() -> TestResult {
    let tokenizer = Tokenizer::from_folder(&golden("tokenizers/smollm"))?;
    assert_eq!(tokenizer.token_text(2).as_deref(), Some("<|end|>"));
    assert_eq!(tokenizer.token_id("<|end|>"), Some(2));
    // Token 280 is spelt with a letter for its space in the vocabulary.
    let [with_space] = tokenizer.encode(" the", false)?[..] else {
        return Err("` the` is not one token".into());
    };
    assert_eq!(tokenizer.token_text(with_space).as_deref(), Some(" the"));
    assert_eq!(tokenizer.token_text(420), None);
    Ok(())
}

/// The tokenizer metadata of a small GGUF file with one value changed by `spoil`.
fn spoilt(spoil: impl FnOnce(&mut GgufHeader)) -> Result<String, TestError> {
    let mut header = GgufHeader::read(&golden("tokenizers/smollm/header.gguf"))?;
    spoil(&mut header);
    Ok(message(read_gguf_tokenizer(&header)))
}

#[rstest]
#[case::sentencepiece("tokenizer.ggml.model", "llama", "found: `llama` (SentencePiece)")]
#[case::wordpiece("tokenizer.ggml.model", "bert", "found: `bert`")]
#[case::unknown_splitting("tokenizer.ggml.pre", "tekken", "found: the splitting `tekken`")]
fn a_tokenizer_that_is_not_made_is_refused_by_name(
    #[case] key: &str,
    #[case] value: &str,
    #[case] part: &str,
) -> TestResult {
    use mlx_diagnose::model::GgufValue;
    let message = spoilt(|header| {
        header
            .metadata
            .insert(key.to_owned(), GgufValue::Text(value.to_owned()));
    })?;
    assert!(message.contains("unsupported tokenizer"), "{message}");
    assert!(message.contains(part), "{message}");
    Ok(())
}

#[test]
fn metadata_that_contradicts_itself_is_listed_at_once() -> TestResult {
    use mlx_diagnose::model::{GgufArray, GgufValue};
    let message = spoilt(|header| {
        let texts = |texts: &[&str]| GgufValue::Array(GgufArray::Text(texts.iter().map(ToString::to_string).collect()));
        header
            .metadata
            .insert("tokenizer.ggml.tokens".to_owned(), texts(&["a", "b", "ab", "a"]));
        header
            .metadata
            .insert("tokenizer.ggml.merges".to_owned(), texts(&["a b", "ab", "b a"]));
        header
            .metadata
            .insert("tokenizer.ggml.eos_token_id".to_owned(), GgufValue::Unsigned(1 << 60));
        header.metadata.insert(
            "tokenizer.ggml.add_bos_token".to_owned(),
            GgufValue::Text("yes".to_owned()),
        );
    })?;
    for part in [
        "tokenizer.ggml.tokens[3]: found `a`, which is also token 0",
        "tokenizer.ggml.merges[1]: found `ab`",
        "tokenizer.ggml.merges[2]: found `b a`",
        "tokenizer.ggml.token_type: found 420 types, expected one for each of 4 tokens",
        "tokenizer.ggml.eos_token_id: found 1152921504606846976, expected the id of one of 4 tokens",
        "tokenizer.ggml.add_bos_token: found the text `yes`",
    ] {
        assert!(message.contains(part), "{part}\n{message}");
    }
    Ok(())
}

#[test]
fn a_gguf_file_without_a_tokenizer_is_refused() -> TestResult {
    let message = spoilt(|header| header.metadata.retain(|key, _| !key.starts_with("tokenizer.")))?;
    assert!(message.contains("tokenizer.ggml.model: found no value"), "{message}");
    assert!(message.contains("tokenizer.ggml.tokens: found no value"), "{message}");
    Ok(())
}

#[test]
fn every_kind_of_end_in_a_gguf_file_is_a_stop() -> TestResult {
    use mlx_diagnose::model::GgufValue;
    let mut header = GgufHeader::read(&golden("tokenizers/smollm/header.gguf"))?;
    for (key, id) in [("eos", 0), ("eot", 2), ("eom", 1)] {
        header
            .metadata
            .insert(format!("tokenizer.ggml.{key}_token_id"), GgufValue::Unsigned(id));
    }
    let stops = StopSet::of(&Tokenizer::from_gguf(&header)?)?;
    assert_eq!(stops.ids(), [0, 1, 2]);
    assert_eq!(stops.tokens()[1].sources, ["GGUF tokenizer.ggml.eom_token_id"]);
    assert_eq!(
        stops.tokens()[2].sources,
        ["GGUF tokenizer.ggml.eot_token_id", "chat template"]
    );
    Ok(())
}

#[test]
fn templates_render_as_transformers_renders_them() -> TestResult {
    let expected = read_json(&golden("templates.json"))?;
    assert_eq!(expected["time"], json!(TEMPLATE_TIME));
    for case in array(&expected, "cases")? {
        let name = case["name"].as_str().ok_or("no name")?;
        let variables: Map<String, Value> = serde_json::from_value(case["variables"].clone())?;
        let template = ChatTemplate::new(name, case["template"].as_str().ok_or("no template")?, variables)?;
        let rendered = template.render(
            &messages(&case["messages"])?,
            case["tools"].as_array().map(Vec::as_slice),
            case["add_generation_prompt"].as_bool().ok_or("no flag")?,
        );
        match rendered {
            Ok(text) => assert_eq!(json!(text), case["rendered"], "{name}"),
            Err(ChatTemplateError::Refused { template, detail, .. }) => {
                assert_eq!(json!(detail), case["refusal"], "{name}");
                assert_eq!(template, name);
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
    Ok(())
}

fn failure(source: &str) -> ChatTemplateError {
    let rendered = ChatTemplate::new("some.jinja", source, Map::new())
        .and_then(|template| template.render(&[Message::new("user", "hello")], None, false));
    match rendered {
        Ok(text) => panic!("rendered as {text}"),
        Err(error) => error,
    }
}

#[test]
fn a_template_without_an_end_is_stopped() {
    let endless = "{% macro again() %}{% for x in range(9999) %}{% for y in range(9999) %}{{ x }}{% endfor %}{% endfor %}{% endmacro %}\n{{ again() }}";
    let error = failure(endless);
    assert!(matches!(error, ChatTemplateError::Endless { .. }), "{error}");
    assert!(
        error.to_string().contains("`some.jinja` does not come to an end"),
        "{error}"
    );
}

#[test]
fn a_template_may_be_nested_as_deeply_as_its_length_allows() {
    let source = format!("{{{{ {}1 }}}}", "not ".repeat(65_000));
    let template = ChatTemplate::new("deep.jinja", &source, Map::new()).unwrap();
    assert_eq!(
        template.render(&[Message::new("user", "hello")], None, false).unwrap(),
        "True"
    );
}

#[test]
fn a_template_that_calls_itself_for_ever_is_stopped() {
    let error = failure("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}");
    assert!(error.to_string().contains("some.jinja"), "{error}");
}

#[rstest]
#[case::refusal(
    "\n\n{{ raise_exception('no users') }}",
    "refuses the conversation at line 3\n  found: no users"
)]
#[case::missing_function("\n{{ fetch('http://') }}", "failed at line 2")]
#[case::missing_attribute("{{ messages[0].tool.name }}", "failed at line 1")]
#[case::bad_date("{{ strftime_now('%Q') }}", "`%Q` is not a date format")]
#[case::inclusion("{% include '/etc/passwd' %}", "failed at line 1")]
fn a_failure_names_the_template_and_the_line(#[case] source: &str, #[case] part: &str) {
    let message = failure(source).to_string();
    assert!(message.contains(part), "{message}");
    assert!(message.contains("`some.jinja`"), "{message}");
}

#[test]
fn the_clock_of_templates_stands_where_it_is_set() -> TestResult {
    let source = "{{ strftime_now('%d %b %Y') }}";
    let set = ChatTemplate::at_time("clock", source, Map::new(), 951_782_400)?;
    assert_eq!(set.render(&[], None, false)?, "29 Feb 2000");
    let left_alone = ChatTemplate::new("clock", source, Map::new())?;
    assert_eq!(left_alone.render(&[], None, false)?, "26 Jul 2024");
    Ok(())
}
