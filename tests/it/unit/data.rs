//! Training data: reading rows, and making examples as mlx-lm makes them.

use std::fs;
use std::path::{Path, PathBuf};

use mlx_diagnose::data::{
    DataError, DataFiles, DataFormat, Dataset, Example, ExampleSettings, Record, RecordFile, Supervision,
};
use mlx_diagnose::model::{Message, Tokenizer};
use rstest::rstest;
use serde_json::{Value, json};

type TestError = Box<dyn std::error::Error>;
type TestResult = Result<(), TestError>;

const WHOLE: ExampleSettings = ExampleSettings {
    supervision: Supervision::AllTokens,
    max_sequence_length: 2048,
};
const MASKED: ExampleSettings = ExampleSettings {
    supervision: Supervision::LastAnswer,
    ..WHOLE
};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden").join(path)
}

fn smollm() -> Result<Tokenizer, TestError> {
    Ok(Tokenizer::from_folder(&golden("tokenizers/smollm"))?)
}

/// The same tokenizer with another chat template.
fn with_template(template: &str) -> Result<Tokenizer, TestError> {
    let folder = tempfile::tempdir()?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(golden("tokenizers/smollm").join(file), folder.path().join(file))?;
    }
    fs::write(folder.path().join("chat_template.jinja"), template)?;
    Ok(Tokenizer::from_folder(folder.path())?)
}

fn parse(text: impl AsRef<[u8]>) -> Result<RecordFile, DataError> {
    RecordFile::parse(Path::new("some/rows.jsonl"), text.as_ref())
}

fn message<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(value) => panic!("accepted as {value:?}"),
        Err(error) => error.to_string(),
    }
}

fn example(record: &Record, tokenizer: &Tokenizer, settings: ExampleSettings) -> Result<Example, TestError> {
    Ok(Example::new(record, tokenizer, settings)?.ok_or("no tokens")?)
}

fn completion(prompt: &str, completion: &str) -> Record {
    Record::Completions {
        prompt: prompt.to_owned(),
        completion: completion.to_owned(),
        tools: None,
    }
}

#[test]
fn tokens_and_masks_are_those_of_mlx_lm() -> TestResult {
    let expected: Value = serde_json::from_slice(&fs::read(golden("data/golden.json"))?)?;
    for case in expected["cases"].as_array().ok_or("no cases")? {
        let name = format!("{} {}", case["tokenizer"], case["rows"]);
        let tokenizer = Tokenizer::from_folder(&golden(case["tokenizer"].as_str().ok_or("no tokenizer")?))?;
        let file = golden("data").join(format!("{}.jsonl", case["rows"].as_str().ok_or("no rows")?));
        let records = RecordFile::read(&file)?;
        for (key, settings) in [("whole", WHOLE), ("masked", MASKED)] {
            let Some(rows) = case[key].as_array() else { continue };
            let dataset = Dataset::new(&records, &tokenizer, settings)?;
            assert_eq!(dataset.examples.len(), rows.len(), "{name}");
            for (found, row) in dataset.examples.iter().zip(rows) {
                let offset = row["offset"].as_u64().ok_or("no offset")? as usize;
                assert_eq!(json!(found.tokens), row["tokens"], "{name}");
                assert!(!found.boundary_moved, "{name}");
                // The first token is never predicted, and mlx-lm's targets begin at the second.
                let trained: Vec<bool> = (0..found.tokens.len()).map(|index| index >= offset.max(1)).collect();
                assert_eq!(found.supervised, trained, "{name}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_prompt_whose_last_token_melts_into_the_answer_has_its_boundary_moved_back() -> TestResult {
    // The generation prompt ends in a space, which is a token of its own there and part of ` the` in the row.
    let tokenizer = with_template(
        "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    )?;
    let found = example(&completion("Who?", "the keeper"), &tokenizer, MASKED)?;
    let before = tokenizer.encode("user: Who?\nassistant:", false)?;
    assert!(found.boundary_moved);
    assert_eq!(found.prompt_boundary, before.len());
    assert_eq!(found.tokens[..before.len()], before);
    let trained: Vec<u32> = found.targets().collect();
    assert_eq!(tokenizer.decode(&trained, false)?, " the keeper\n");
    Ok(())
}

#[test]
fn a_template_that_rewrites_earlier_turns_moves_the_boundary_to_where_they_part() -> TestResult {
    // Only the last message is introduced by its number.
    let tokenizer = with_template(
        "{% for message in messages %}{% if loop.last %}{{ loop.index }}{% endif %}{{ message.content + '|' }}{% endfor %}",
    )?;
    let found = example(&completion("ask", "tell"), &tokenizer, MASKED)?;
    assert!(found.boundary_moved);
    assert_eq!(found.prompt_boundary, 0);
    assert_eq!(found.supervised_tokens(), found.tokens.len() - 1);
    Ok(())
}

#[test]
fn only_the_last_answer_is_trained_on_when_prompts_are_masked() -> TestResult {
    let tokenizer = smollm()?;
    let record = Record::Chat {
        messages: vec![
            Message::new("user", "Who?"),
            Message::new("assistant", "Heron."),
            Message::new("user", "When?"),
            Message::new("assistant", "At 5."),
        ],
        tools: None,
    };
    let found = example(&record, &tokenizer, MASKED)?;
    let trained: Vec<u32> = found.targets().collect();
    assert_eq!(tokenizer.decode(&trained, false)?, "At 5.<|end|>\n");
    let reference = found.reference.ok_or("no reference")?;
    assert_eq!(reference.answer, "At 5.");
    assert_eq!(reference.messages.len(), 3);
    Ok(())
}

#[test]
fn a_conversation_that_does_not_end_with_an_answer_has_no_reference() -> TestResult {
    let record = Record::Chat {
        messages: vec![Message::new("assistant", "Yes?"), Message::new("user", "Who?")],
        tools: None,
    };
    let found = example(&record, &smollm()?, MASKED)?;
    assert_eq!(found.reference, None);
    assert!(!found.boundary_moved);
    Ok(())
}

#[test]
fn plain_text_cannot_be_masked_and_says_so() -> TestResult {
    let records = parse(r#"{"text": "The harbour was quiet."}"#)?;
    let tokenizer = smollm()?;
    let dataset = Dataset::new(&records, &tokenizer, MASKED)?;
    let found = &dataset.examples[0];
    assert_eq!(found.supervised_tokens(), found.tokens.len() - 1);
    assert_eq!(found.tokens.last(), tokenizer.eos_id().as_ref());
    assert_eq!(dataset.notes.len(), 1);
    assert!(Dataset::new(&records, &tokenizer, WHOLE)?.notes.is_empty());
    Ok(())
}

#[test]
fn a_row_that_is_too_long_loses_its_end_and_says_so() -> TestResult {
    let tokenizer = smollm()?;
    let record = completion("Name a bird.", "Petrel");
    let whole = example(&record, &tokenizer, MASKED)?;
    assert!(!whole.truncated);
    let cut = example(
        &record,
        &tokenizer,
        ExampleSettings {
            max_sequence_length: 25,
            ..MASKED
        },
    )?;
    assert!(cut.truncated);
    assert_eq!(cut.original_length, whole.tokens.len());
    assert_eq!(cut.tokens, whole.tokens[..25]);
    assert_eq!(cut.supervised, whole.supervised[..25]);

    let within_prompt = example(
        &record,
        &tokenizer,
        ExampleSettings {
            max_sequence_length: 10,
            ..MASKED
        },
    )?;
    assert_eq!(within_prompt.supervised_tokens(), 0);
    Ok(())
}

#[test]
fn a_row_without_tokens_is_an_error_that_names_its_line() -> TestResult {
    let records = parse("\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}\n")?;
    let message = message(Dataset::new(&records, &with_template("")?, WHOLE));
    assert!(message.contains("row 1 (line 3) has no tokens"), "{message}");
    Ok(())
}

#[test]
fn a_row_that_the_template_refuses_is_an_error_that_names_its_line() -> TestResult {
    let records = parse("{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"c\", \"completion\": \"d\"}")?;
    let template = "{% if messages[0].content == 'c' %}{{ raise_exception('not this') }}{% endif %}x";
    let message = message(Dataset::new(&records, &with_template(template)?, WHOLE));
    assert!(
        message.contains("row 2 (line 2) cannot be made into tokens"),
        "{message}"
    );
    assert!(message.contains("not this"), "{message}");
    Ok(())
}

#[test]
fn a_folder_is_its_train_file_and_perhaps_its_valid_file() -> TestResult {
    let folder = tempfile::tempdir()?;
    let missing = message(DataFiles::read(folder.path()));
    assert!(missing.contains("train.jsonl"), "{missing}");
    fs::write(folder.path().join("train.jsonl"), "{\"text\": \"a\"}\n")?;
    assert_eq!(DataFiles::read(folder.path())?.valid, None);
    fs::write(
        folder.path().join("valid.jsonl"),
        "{\"text\": \"b\"}\n{\"text\": \"c\"}\n",
    )?;
    let files = DataFiles::read(folder.path())?;
    assert_eq!(files.train.records, [Record::Text("a".to_owned())]);
    assert_eq!(files.valid.ok_or("no valid file")?.records.len(), 2);
    assert_eq!(DataFiles::read(&folder.path().join("train.jsonl"))?.valid, None);
    Ok(())
}

#[test]
fn a_byte_order_mark_blank_lines_and_windows_newlines_are_passed_over() -> TestResult {
    let file = parse(b"\xef\xbb\xbf\r\n{\"text\": \"a\"}\r\n  \t\r\n{\"text\": \"b\"}")?;
    assert_eq!(file.format, DataFormat::Text);
    assert_eq!(file.records.len(), 2);
    assert_eq!(file.lines, [2, 4]);
    Ok(())
}

#[test]
fn a_line_of_megabytes_is_read() -> TestResult {
    let text = "harbour ".repeat(1 << 20);
    let file = parse(json!({ "text": text }).to_string())?;
    assert_eq!(file.records, [Record::Text(text)]);
    Ok(())
}

#[rstest]
#[case::nothing("")]
#[case::blank_lines("\n  \n\r\n")]
fn a_file_without_rows_is_refused(#[case] text: &str) {
    let message = message(parse(text));
    assert!(message.contains("data `some/rows.jsonl` is empty"), "{message}");
}

#[rstest]
#[case::cut(br#"{"text": "The har"#.as_slice(), "rows.jsonl:2: found `{\"text\": \"The har`, EOF while parsing a string at column 17, expected one JSON object")]
#[case::no_object(b"[1, 2]", "rows.jsonl:2: found `[1, 2]`, expected an object with `messages`")]
#[case::two_objects(b"{} {}", "trailing characters at column 4")]
#[case::not_utf8(b"{\"text\": \"\xff\"}", "rows.jsonl:2: found bytes that are not UTF-8 at column 11")]
#[case::unknown_keys(
    br#"{"question": 1, "answer": 2}"#,
    "rows.jsonl:2: found an object with answer, question"
)]
#[case::half_a_completion(br#"{"prompt": "a"}"#, "found an object with prompt")]
#[case::text_kind(br#"{"text": 7}"#, "rows.jsonl:2 text: found a number, expected a text")]
#[case::empty_text(br#"{"text": ""}"#, "rows.jsonl:2 text: found an empty text")]
#[case::completion_kind(
    br#"{"prompt": "a", "completion": null}"#,
    "rows.jsonl:2 completion: found null, expected a text"
)]
#[case::no_messages(br#"{"messages": []}"#, "rows.jsonl:2 messages: found an empty array")]
#[case::messages_kind(br#"{"messages": "hello"}"#, "rows.jsonl:2 messages: found a text")]
#[case::message_kind(
    br#"{"messages": ["hello"]}"#,
    "rows.jsonl:2 messages[0]: found a text, expected an object with a role and a content"
)]
#[case::unknown_role(
    br#"{"messages": [{"role": "human", "content": "a"}]}"#,
    "rows.jsonl:2 messages[0].role: found `human`, expected `system`"
)]
#[case::no_role(
    br#"{"messages": [{"from": "human", "value": "a"}]}"#,
    "rows.jsonl:2 messages[0].role: found no value"
)]
#[case::no_content(
    br#"{"messages": [{"role": "user"}]}"#,
    "rows.jsonl:2 messages[0].content: found no value"
)]
#[case::content_kind(
    br#"{"messages": [{"role": "user", "content": 7}]}"#,
    "rows.jsonl:2 messages[0].content: found 7"
)]
#[case::tools_kind(
    br#"{"messages": [{"role": "user", "content": "a"}], "tools": {}}"#,
    "rows.jsonl:2 tools: found an object"
)]
fn a_bad_line_is_named_with_what_was_expected(#[case] line: &[u8], #[case] part: &str) {
    let good = br#"{"text": "a"}"#;
    let message = message(parse([good.as_slice(), line].join(&b'\n')));
    assert!(message.contains(part), "{message}");
    assert!(message.contains("(1 of 2)"), "{message}");
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    let message = message(parse("[".repeat(1 << 20)));
    assert!(message.contains("recursion limit exceeded"), "{message}");
}

#[test]
fn all_bad_lines_are_reported_at_once_and_the_rest_counted() {
    let message = message(parse("{\"text\": \"a\"}\n".to_owned() + &"oops\n".repeat(14)));
    assert!(message.contains("(14 of 15)"), "{message}");
    assert!(message.contains("rows.jsonl:2:"), "{message}");
    assert!(message.contains("rows.jsonl:11:"), "{message}");
    assert!(!message.contains("rows.jsonl:12:"), "{message}");
    assert!(message.contains("and 4 more\n  hint:"), "{message}");
}

#[test]
fn mixed_formats_are_refused_with_the_lines_of_each() {
    let message = message(parse(
        "{\"text\": \"a\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n\n{\"text\": \"c\"}",
    ));
    assert!(
        message.contains("completions in lines 2; text in lines 1, 4"),
        "{message}"
    );
}

#[test]
fn a_row_with_both_a_completion_and_text_is_a_completion_as_in_mlx_lm() -> TestResult {
    let file = parse(r#"{"text": "t", "prompt": "p", "completion": "c", "messages": []}"#)?;
    assert_eq!(file.records, [completion("p", "c")]);
    Ok(())
}

#[test]
fn a_message_that_only_calls_a_tool_needs_no_content() -> TestResult {
    let row = json!({"messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
    ], "tools": [{"name": "f"}]});
    let file = parse(row.to_string())?;
    let Record::Chat { messages, tools } = &file.records[0] else {
        return Err("not a conversation".into());
    };
    assert_eq!(messages[1].content(), None);
    assert_eq!(json!(messages[1]), row["messages"][1]);
    assert_eq!(tools.as_deref(), Some([json!({"name": "f"})].as_slice()));
    Ok(())
}

#[test]
fn a_path_that_does_not_exist_is_an_error() {
    let message = message(DataFiles::read(Path::new("/nowhere/rows.jsonl")));
    assert!(
        message.contains("data `/nowhere/rows.jsonl` cannot be read"),
        "{message}"
    );
    assert!(message.contains("hint: give a .jsonl file"), "{message}");
}
