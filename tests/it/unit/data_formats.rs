//! The formats of rows, the files they come in, and what is said of those that cannot be used.

use std::fs;
use std::path::Path;

use mlx_diagnose::data::{
    DataError, DataFiles, DataFormat, Dataset, ExampleSettings, HeldOut, HeldOutError, Record, RecordFile, RecordKeys,
    Supervision,
};
use mlx_diagnose::model::Tokenizer;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::golden::root;

type TestError = Box<dyn std::error::Error>;
type TestResult = Result<(), TestError>;

fn lines(text: impl AsRef<[u8]>) -> Result<RecordFile, DataError> {
    RecordFile::parse(Path::new("some/rows.jsonl"), text.as_ref())
}

fn array(text: impl AsRef<[u8]>) -> Result<RecordFile, DataError> {
    RecordFile::parse(Path::new("some/rows.json"), text.as_ref())
}

fn message<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(value) => panic!("accepted as {value:?}"),
        Err(error) => error.to_string(),
    }
}

/// The messages of the only row, as JSON.
fn messages(file: &RecordFile) -> Result<Value, TestError> {
    match file.records.as_slice() {
        [Record::Chat { messages, .. }] => Ok(json!(messages)),
        other => Err(format!("{other:?}").into()),
    }
}

#[rstest]
#[case::alone(
    json!({"instruction": "Name a bird.", "output": "Petrel"}),
    json!([{"role": "user", "content": "Name a bird."}, {"role": "assistant", "content": "Petrel"}])
)]
#[case::with_an_input(
    json!({"instruction": "Translate.", "input": "das Boot", "output": "the boat"}),
    json!([{"role": "user", "content": "Translate.\ndas Boot"}, {"role": "assistant", "content": "the boat"}])
)]
#[case::with_an_empty_input(
    json!({"instruction": "Say it.", "input": "", "system": null, "output": ""}),
    json!([{"role": "user", "content": "Say it."}, {"role": "assistant", "content": ""}])
)]
#[case::with_an_input_alone(
    json!({"instruction": "", "input": "2 + 2", "output": "4"}),
    json!([{"role": "user", "content": "2 + 2"}, {"role": "assistant", "content": "4"}])
)]
#[case::with_all_there_is(
    json!({"instruction": "And then?", "output": "Fog.", "system": "Be brief.", "history": [["Today?", "Rain."]]}),
    json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Today?"},
        {"role": "assistant", "content": "Rain."},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": "Fog."},
    ])
)]
fn an_instruction_is_a_question_and_its_answer(#[case] row: Value, #[case] expected: Value) -> TestResult {
    let file = lines(row.to_string())?;
    assert_eq!(file.format, DataFormat::Instruction);
    assert_eq!(file.format.name(), "instruction");
    assert_eq!(messages(&file)?, expected);
    Ok(())
}

#[rstest]
#[case::as_exported(
    json!({"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Heron."}]}),
    json!([{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Heron."}])
)]
#[case::with_a_system_text(
    json!({"system": "Be brief.", "conversations": [{"from": "user", "value": "Who?"}, {"from": "model", "value": "I."}]}),
    json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "I."},
    ])
)]
#[case::with_a_system_turn_and_fields_of_its_own(
    json!({"conversations": [{"from": "system", "value": "S", "weight": 0}, {"from": "gpt", "value": "Yes?"}]}),
    json!([{"role": "system", "content": "S", "weight": 0}, {"role": "assistant", "content": "Yes?"}])
)]
#[case::with_the_names_of_messages(
    json!({"conversations": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]}),
    json!([{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}])
)]
#[case::two_questions_in_a_row(
    json!({"conversations": [{"from": "human", "value": "Who?"}, {"from": "human", "value": "And when?"}]}),
    json!([{"role": "user", "content": "Who?"}, {"role": "user", "content": "And when?"}])
)]
#[case::with_a_call(
    json!({"conversations": [
        {"from": "human", "value": "Tide?"},
        {"from": "function_call", "value": "{\"name\": \"tide\", \"arguments\": {\"port\": \"Brest\"}}"},
        {"from": "observation", "value": "high"},
        {"from": "gpt", "value": "High."},
    ]}),
    json!([
        {"role": "user", "content": "Tide?"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"type": "function", "function": {"name": "tide", "arguments": {"port": "Brest"}}}
        ]},
        {"role": "tool", "content": "high"},
        {"role": "assistant", "content": "High."},
    ])
)]
fn a_sharegpt_conversation_is_one_of_messages(#[case] row: Value, #[case] expected: Value) -> TestResult {
    let file = lines(row.to_string())?;
    assert_eq!(file.format, DataFormat::ShareGpt);
    assert_eq!(messages(&file)?, expected);
    Ok(())
}

#[test]
fn the_tools_of_a_sharegpt_row_may_be_written_as_text() -> TestResult {
    let turns = json!([{"from": "human", "value": "a"}]);
    for tools in [json!([{"name": "f"}]), json!("[{\"name\": \"f\"}]")] {
        let file = lines(json!({"conversations": turns, "tools": tools}).to_string())?;
        let [Record::Chat { tools, .. }] = file.records.as_slice() else {
            return Err("not a conversation".into());
        };
        assert_eq!(tools.as_deref(), Some([json!({"name": "f"})].as_slice()));
    }
    Ok(())
}

#[rstest]
#[case::misspelt_feature(json!({"mesages": []}), "; did you mean `messages` by `mesages`?")]
#[case::misspelt_turns(json!({"conversation": []}), "; did you mean `conversations` by `conversation`?")]
#[case::misspelt_half(json!({"prompt": "a", "completoin": "b"}), "; did you mean `completion` by `completoin`?")]
#[case::misspelt_input(
    json!({"instruction": "a", "output": "b", "inputs": "c"}),
    "rows.jsonl:1 inputs: found a key that the instruction format does not have, expected `input`, if that was meant"
)]
#[case::misspelt_tools(
    json!({"messages": [{"role": "user", "content": "a"}], "tool": []}),
    "rows.jsonl:1 tool: found a key that the chat format does not have, expected `tools`"
)]
#[case::misspelt_role(
    json!({"messages": [{"role": "asistant", "content": "a"}]}),
    "messages[0].role: found `asistant`, expected `system`, `developer`, `user`, `assistant`, `tool`, `function`; did you mean `assistant`?"
)]
#[case::role_of_sharegpt(json!({"messages": [{"role": "human", "content": "a"}]}), "; did you mean `user`?")]
#[case::misspelt_content(
    json!({"messages": [{"role": "user", "contnet": "a"}]}),
    "messages[0].content: found no value, but `contnet`, expected a text"
)]
#[case::misspelt_role_key(json!({"messages": [{"rolle": "user", "content": "a"}]}), "found no value, but `rolle`")]
#[case::no_turns(json!({"conversations": []}), "rows.jsonl:1 conversations: found an empty array")]
#[case::turns_kind(json!({"conversations": 3}), "conversations: found a number, expected an array of messages")]
#[case::turn_kind(
    json!({"conversations": ["a"]}),
    "conversations[0]: found a text, expected an object with `from` and `value`"
)]
#[case::unknown_speaker(
    json!({"conversations": [{"from": "humn", "value": "a"}]}),
    "conversations[0].from: found `humn`, expected `human`, `user`"
)]
#[case::unknown_speaker_suggestion(
    json!({"conversations": [{"from": "humn", "value": "a"}]}),
    "; did you mean `human`?"
)]
#[case::no_speaker(json!({"conversations": [{"value": "a"}]}), "conversations[0].from: found no value")]
#[case::words_kind(
    json!({"conversations": [{"from": "human", "value": 7}]}),
    "conversations[0].value: found a number, expected a text"
)]
#[case::no_words(json!({"conversations": [{"from": "human", "valeu": "a"}]}), "found no value, but `valeu`")]
#[case::two_system_texts(
    json!({"system": "a", "conversations": [{"from": "system", "value": "b"}]}),
    "conversations[0].from: found `system`, expected no system message beside the row's own `system`"
)]
#[case::call_without_json(
    json!({"conversations": [{"from": "function_call", "value": "tide()"}]}),
    "expected a JSON object with a `name` and `arguments`"
)]
#[case::call_without_a_name(
    json!({"conversations": [{"from": "function_call", "value": "[{\"arguments\": {}}]"}]}),
    "conversations[0].value: found a text with other JSON"
)]
#[case::tools_text(json!({"conversations": [{"from": "gpt", "value": "a"}], "tools": "none"}), "tools: found a text that is")]
#[case::instruction_kind(json!({"instruction": 1, "output": "a"}), "instruction: found a number, expected a text")]
#[case::output_kind(json!({"instruction": "a", "output": null}), "output: found null, expected a text")]
#[case::input_kind(json!({"instruction": "a", "output": "b", "input": 2}), "input: found a number, expected a text")]
#[case::nothing_asked(json!({"instruction": "", "input": "", "output": "b"}), "instruction: found an empty text")]
#[case::history_kind(
    json!({"instruction": "a", "output": "b", "history": [["c"]]}),
    "history[0]: found an array, expected a question and its answer"
)]
fn a_row_that_is_nearly_right_is_told_what_it_lacks(#[case] row: Value, #[case] part: &str) {
    let message = message(lines(row.to_string()));
    assert!(message.contains(part), "{message}");
}

#[test]
fn the_keys_of_rows_are_those_that_mlx_lm_can_be_told() -> TestResult {
    let keys = RecordKeys {
        prompt_feature: "question".to_owned(),
        completion_feature: "answer".to_owned(),
        chat_feature: "dialogue".to_owned(),
        text_feature: "body".to_owned(),
    };
    let read = |row: Value| RecordFile::parse_with(Path::new("rows.jsonl"), row.to_string().as_bytes(), &keys);
    let completion = Record::Completions {
        prompt: "a".to_owned(),
        completion: "b".to_owned(),
        tools: None,
    };
    assert_eq!(read(json!({"question": "a", "answer": "b"}))?.records, [completion]);
    assert_eq!(read(json!({"body": "a"}))?.records, [Record::Text("a".to_owned())]);
    let chat = read(json!({"dialogue": [{"role": "user", "content": "a"}]}))?;
    assert_eq!(messages(&chat)?, json!([{"role": "user", "content": "a"}]));
    let refusal = message(read(json!({"text": "a"})));
    assert!(
        refusal.contains("expected an object with `dialogue`, with `question` and `answer`, with `body`, with"),
        "{refusal}"
    );
    let misspelt = message(read(json!({"dialogue": [{"role": "user"}]})));
    assert!(
        misspelt.contains("rows.jsonl:1 dialogue[0].content: found no value"),
        "{misspelt}"
    );
    Ok(())
}

#[test]
fn keys_that_nothing_reads_are_told() -> TestResult {
    let file = lines("{\"text\": \"a\", \"source\": 1}\n{\"text\": \"b\", \"id\": 2, \"instruction\": \"c\"}")?;
    assert_eq!(file.unread_keys, ["id", "instruction", "source"]);
    let tokenizer = Tokenizer::from_folder(&root().join("fixtures/golden/tokenizers/smollm"))?;
    let settings = ExampleSettings {
        supervision: Supervision::AllTokens,
        max_sequence_length: 64,
    };
    let dataset = Dataset::new(&file, &tokenizer, settings)?;
    assert_eq!(
        dataset.notes,
        ["the rows have keys that nothing reads: id, instruction, source"]
    );
    Ok(())
}

#[test]
fn a_json_file_is_one_array_and_its_rows_know_their_lines() -> TestResult {
    let file =
        array("\u{feff}\r\n[\r\n  {\"text\": \"a\"},\r\n\r\n  {\"text\":\r\n \"b\"}, {\"text\": \"c\"}\r\n]\r\n")?;
    let texts: Vec<Record> = ["a", "b", "c"].map(|text| Record::Text(text.to_owned())).to_vec();
    assert_eq!(file.records, texts);
    assert_eq!(file.lines, [3, 5, 6]);
    Ok(())
}

#[test]
fn a_json_file_may_also_hold_lines() -> TestResult {
    let file = array("{\"text\": \"a\"}\n{\"text\": \"b\"}\n")?;
    assert_eq!(file.lines, [1, 2]);
    Ok(())
}

#[rstest]
#[case::empty("[]")]
#[case::blank(" [ \n ] ")]
#[case::nothing("")]
fn an_array_without_elements_is_empty(#[case] text: &str) {
    let message = message(array(text));
    assert!(message.starts_with("data `some/rows.json` is empty"), "{message}");
}

#[rstest]
#[case::cut_after_a_comma(
    "[\n{\"text\": \"a\"},\n",
    "rows.json:3 element 2: found the end of the file, expected one JSON object, or `]`"
)]
#[case::cut_after_an_element(
    "[\n{\"text\": \"a\"}\n",
    "rows.json:3 element 2: found the end of the file, expected `,` or `]`"
)]
#[case::cut_inside(
    "[\n{\"text\": \"a",
    "EOF while parsing a string at column 11, expected one JSON object"
)]
#[case::only_a_bracket("[", "rows.json:1 element 1: found the end of the file")]
#[case::no_comma(
    "[{\"text\": \"a\"}\n{\"text\": \"b\"}]",
    "rows.json:2 element 2: found `{\"text\": \"b\"}]`, expected `,` or `]`"
)]
#[case::one_comma_too_many("[{\"text\": \"a\"},]", "rows.json:1 element 2: found a comma before `]`")]
#[case::only_a_comma("[,]", "rows.json:1 element 1: found `,]`, expected value at column 2")]
#[case::more_behind(
    "[{\"text\": \"a\"}]\n[]",
    "rows.json:2 element 2: found `[]`, expected the end of the file"
)]
#[case::bad_inside(
    "[{\"text\": \"a\"},\n {\"text\": \"b\",\n  oops}]",
    "rows.json:3 element 2: found `{\"text\": \"b\",\n  oops}]`, key must be a string at column 3"
)]
#[case::no_object(
    "[1, {\"text\": \"a\"}]",
    "rows.json:1 element 1: found `1`, expected an object with `messages`"
)]
#[case::an_array_in_it("[[]]", "rows.json:1 element 1: found `[]`, expected an object with `messages`")]
fn a_broken_array_is_named_with_its_place(#[case] text: &str, #[case] part: &str) {
    let message = message(array(text));
    assert!(message.contains(part), "{message}");
    assert!(message.contains("has elements that cannot be used"), "{message}");
}

#[test]
fn all_bad_elements_are_reported_at_once() {
    let message = message(array(
        "[{\"text\": 7},\n{\"text\": \"\"},\n {\"text\": \"a\"},\n{\"test\": \"b\"}]",
    ));
    assert!(message.contains("(3 of 4)"), "{message}");
    assert!(
        message.contains("rows.json:1 element 1 text: found a number"),
        "{message}"
    );
    assert!(
        message.contains("rows.json:2 element 2 text: found an empty text"),
        "{message}"
    );
    assert!(
        message.contains("rows.json:4 element 4: found an object with test"),
        "{message}"
    );
}

#[test]
fn bytes_of_an_array_that_are_not_utf8_are_located() {
    let message = message(array(b"[{\"text\": \"a\"},\n{\"text\": \"\xff\"}]"));
    assert!(
        message.contains("rows.json:2: found bytes that are not UTF-8 at column 11"),
        "{message}"
    );
}

#[rstest]
#[case::brackets("[".repeat(1 << 22))]
#[case::objects("[{\"a\":".repeat(1 << 20))]
fn deep_arrays_are_refused_and_not_followed(#[case] text: String) {
    let message = message(array(text));
    assert!(message.contains("recursion limit exceeded"), "{message}");
    assert!(message.len() < 1000, "{message}");
}

#[test]
fn a_large_array_is_read_in_one_pass() -> TestResult {
    let rows: Vec<String> = (0..200_000).map(|row| format!("{{\"text\": \"row {row}\"}}")).collect();
    let file = array(format!("[{}]", rows.join(",\n")))?;
    assert_eq!(file.records.len(), 200_000);
    assert_eq!(file.lines.last(), Some(&200_000));
    Ok(())
}

#[test]
fn formats_that_are_read_as_conversations_are_not_mixed_with_them() {
    let rows = [
        json!({"messages": [{"role": "user", "content": "a"}]}),
        json!({"instruction": "a", "output": "b"}),
        json!({"conversations": [{"from": "human", "value": "a"}]}),
    ];
    let message = message(array(json!(rows).to_string()));
    assert!(
        message.contains("chat in lines 1; sharegpt in lines 1; instruction in lines 1"),
        "{message}"
    );
}

fn folder(files: &[(&str, &str)]) -> Result<tempfile::TempDir, TestError> {
    let folder = tempfile::tempdir()?;
    for (name, text) in files {
        fs::write(folder.path().join(name), text)?;
    }
    Ok(folder)
}

const ROW: &str = "{\"text\": \"a\"}\n";

#[test]
fn a_folder_may_hold_arrays_and_a_test_file() -> TestResult {
    let folder = folder(&[
        ("train.json", "[{\"text\": \"a\"}]"),
        ("valid.json", "[{\"text\": \"b\"}, {\"text\": \"c\"}]"),
        ("test.jsonl", ROW),
        ("val.jsonl", "broken"),
        ("train.old.jsonl", "broken"),
        ("readme.md", ""),
    ])?;
    let files = DataFiles::read(folder.path())?;
    assert_eq!(files.train.records.len(), 1);
    assert_eq!(files.valid.ok_or("no valid file")?.records.len(), 2);
    assert_eq!(files.test.ok_or("no test file")?.path, folder.path().join("test.jsonl"));
    assert_eq!(files.unread_files, ["train.old.jsonl", "val.jsonl"]);
    Ok(())
}

#[rstest]
#[case("train", &[])]
#[case("valid", &[("train.jsonl", ROW)])]
#[case("test", &[("train.jsonl", ROW)])]
fn two_files_for_the_same_rows_are_refused(#[case] part: &str, #[case] others: &[(&str, &str)]) -> TestResult {
    let (first, second) = (format!("{part}.jsonl"), format!("{part}.json"));
    let folder = folder(&[others, &[(first.as_str(), ROW), (second.as_str(), ROW)]].concat())?;
    let message = message(DataFiles::read(folder.path()));
    assert!(message.contains(&format!("found: {first} and {second}")), "{message}");
    Ok(())
}

#[rstest]
#[case::nothing(&[], "found: no .jsonl or .json file")]
#[case::misspelt(&[("trian.jsonl", ROW), ("valid.jsonl", ROW)], "hint: name `trian.jsonl` train.jsonl")]
#[case::another_name(&[("harbour.json", ROW)], "hint: give the file itself: ")]
#[case::other_names(&[("harbour.json", ROW), ("birds.jsonl", ROW)], "found: birds.jsonl, harbour.json")]
fn a_folder_without_a_training_file_says_what_it_has(#[case] files: &[(&str, &str)], #[case] part: &str) -> TestResult {
    let folder = folder(files)?;
    let message = message(DataFiles::read(folder.path()));
    assert!(message.contains("has no training file"), "{message}");
    assert!(message.contains(part), "{message}");
    Ok(())
}

/// Rows `0`, `1`, ..., each as often as told.
fn repeated(times: &[usize]) -> Result<RecordFile, DataError> {
    let rows: Vec<String> = times
        .iter()
        .enumerate()
        .flat_map(|(row, &times)| vec![json!({"prompt": row.to_string(), "completion": "x"}).to_string(); times])
        .collect();
    lines(rows.join("\n"))
}

#[rstest]
#[case::a_share(HeldOut::Fraction(0.1), 10)]
#[case::a_tiny_share(HeldOut::Fraction(1e-9), 1)]
#[case::rows(HeldOut::Rows(17), 17)]
#[case::all_but_one(HeldOut::Rows(99), 99)]
fn held_out_rows_are_as_many_as_asked_for_and_the_rest_is_trained_on(
    #[case] amount: HeldOut,
    #[case] expected: usize,
) -> TestResult {
    let file = repeated(&[1; 100])?;
    let (train, valid) = file.hold_out(amount, 7)?;
    assert_eq!(valid.records.len(), expected);
    let mut lines = [train.lines.clone(), valid.lines.clone()].concat();
    assert!(train.lines.is_sorted() && valid.lines.is_sorted());
    lines.sort_unstable();
    assert_eq!(lines, file.lines);
    for (record, line) in train
        .records
        .iter()
        .zip(&train.lines)
        .chain(valid.records.iter().zip(&valid.lines))
    {
        assert_eq!(record, &file.records[line - 1]);
    }
    assert_eq!(file.hold_out(amount, 7)?.1, valid);
    Ok(())
}

#[test]
fn another_seed_holds_out_other_rows() -> TestResult {
    let file = repeated(&[1; 100])?;
    let held = |seed| file.hold_out(HeldOut::Rows(10), seed).map(|(_, valid)| valid.lines);
    assert_ne!(held(1)?, held(2)?);
    Ok(())
}

#[test]
fn the_same_row_is_never_on_both_sides() -> TestResult {
    let file = repeated(&[1, 9, 2, 1, 30, 4, 1, 1, 12, 3])?;
    for seed in 0..50 {
        let (train, valid) = file.hold_out(HeldOut::Fraction(0.2), seed)?;
        assert!(!valid.records.is_empty() && valid.records.len() <= 13);
        assert!(valid.records.iter().all(|record| !train.records.contains(record)));
    }
    Ok(())
}

#[test]
fn rows_that_differ_only_in_the_order_of_their_fields_are_the_same() -> TestResult {
    let file = lines(
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n\
         {\"messages\": [{\"content\": \"a\", \"role\": \"user\"}]}\n\
         {\"messages\": [{\"content\": \"b\", \"role\": \"user\"}]}",
    )?;
    for seed in 0..20 {
        assert_eq!(file.hold_out(HeldOut::Rows(1), seed)?.1.lines, [3]);
    }
    Ok(())
}

#[test]
fn where_every_row_is_repeated_the_least_repeated_is_held_out() -> TestResult {
    let (_, valid) = repeated(&[5, 3, 4])?.hold_out(HeldOut::Rows(1), 0)?;
    assert_eq!(valid.lines, [6, 7, 8]);
    Ok(())
}

#[rstest]
#[case(HeldOut::Fraction(0.0))]
#[case(HeldOut::Fraction(1.0))]
#[case(HeldOut::Fraction(f64::NAN))]
#[case(HeldOut::Fraction(0.99))]
#[case(HeldOut::Rows(0))]
#[case(HeldOut::Rows(4))]
fn an_amount_that_leaves_a_side_empty_is_refused(#[case] amount: HeldOut) -> TestResult {
    let refusal = repeated(&[1; 4])?.hold_out(amount, 0);
    assert!(
        matches!(refusal, Err(HeldOutError::Amount { rows: 4, .. })),
        "{refusal:?}"
    );
    Ok(())
}

#[test]
fn one_row_many_times_cannot_be_held_out() -> TestResult {
    assert_eq!(
        repeated(&[4])?.hold_out(HeldOut::Rows(1), 0),
        Err(HeldOutError::AllTheSame { rows: 4 })
    );
    Ok(())
}

#[rstest]
#[case(json!({"messages": [{"role": "user", "content": "a", "name": "b"}], "tools": [{"name": "f"}]}))]
#[case(json!({"prompt": "a", "completion": "b"}))]
#[case(json!({"text": "a\nb"}))]
fn rows_of_mlx_lm_are_written_as_they_were_read(#[case] row: Value) -> TestResult {
    let file = lines(row.to_string())?;
    assert_eq!(file.json_lines(), format!("{row}\n"));
    assert!(file.is_for_mlx_lm());
    Ok(())
}

#[test]
fn rows_of_other_formats_are_written_as_conversations() -> TestResult {
    let file = lines(json!({"instruction": "a", "output": "b"}).to_string())?;
    assert!(!file.is_for_mlx_lm());
    let written = lines(file.json_lines())?;
    assert_eq!(written.format, DataFormat::Chat);
    assert_eq!(written.records, file.records);
    assert!(!array("[{\"text\": \"a\"}]")?.is_for_mlx_lm());
    Ok(())
}

#[rstest]
#[case::a_broken_line("{\"text\": \n", "hint: write one whole JSON object on each line")]
#[case::no_utf_8(b"{\"text\": \"\xff\"}\n", "hint: save the file as UTF-8")]
#[case::a_wrong_role(
    "{\"messages\": [{\"role\": \"captain\", \"content\": \"Ahoy\"}]}\n",
    "hint: mend these rows, or leave them out"
)]
#[case::no_content(
    "{\"prompt\": \"Hi\", \"completion\": null}\n",
    "hint: mend these rows, or leave them out"
)]
fn rows_that_cannot_be_used_are_mended_where_their_fault_is(#[case] text: impl AsRef<[u8]>, #[case] hint: &str) {
    let message = message(lines(text));
    assert!(message.contains(hint), "{message}");
}

#[test]
fn rows_that_stand_in_a_file_in_another_way_are_told_in_one_sentence() {
    let rows = json!(vec![json!({"text": "Ahoy"}); 12]);
    let said = message(lines(format!("{rows:#}")));
    assert!(said.contains("found: one JSON array in a file of lines"), "{said}");
    let said = message(array(json!({"version": 1, "data": rows}).to_string()));
    assert!(
        said.contains("found: one JSON object with the rows in `data`"),
        "{said}"
    );
    // A single row whose key was misspelt is no file of rows.
    let said = message(lines(
        json!({"mesages": [{"role": "user", "content": "Hi"}]}).to_string(),
    ));
    assert!(said.contains("did you mean `messages`"), "{said}");
}

#[test]
fn a_key_that_a_row_has_twice_is_refused() {
    let twice = r#"{"prompt": "Hi", "completion": "one", "completion": "two"}"#;
    let said = message(lines(twice));
    assert!(said.contains("the key `completion` twice"), "{said}");
    let said = message(array(format!("[{{\"text\": \"Ahoy\"}}, {twice}]")));
    assert!(said.contains("the key `completion` twice"), "{said}");
}

#[test]
fn a_content_of_parts_is_the_fault_of_the_row_and_not_of_the_template() -> TestResult {
    let row = json!({"messages": [
        {"role": "user", "content": [{"type": "text", "text": "Where is Tom?"}]},
        {"role": "assistant", "content": "In the harbour."},
    ]});
    let file = lines(row.to_string())?;
    let tokenizer = Tokenizer::from_folder(&root().join("fixtures/embedded/model"))?;
    let settings = ExampleSettings {
        supervision: Supervision::LastAnswer,
        max_sequence_length: 64,
    };
    let said = message(Dataset::new(&file, &tokenizer, settings));
    assert!(said.contains("content is a list of parts"), "{said}");
    Ok(())
}
