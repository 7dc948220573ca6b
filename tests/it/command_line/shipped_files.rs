//! The data, profiles and configurations that come with the program.

use std::collections::BTreeSet;
use std::fs;

use mlx_diagnose::data::{DataFormat, Dataset, ExampleSettings, Record, RecordFile, Supervision};
use mlx_diagnose::model::{Message, TemplateChoice, Tokenizer};
use rstest::rstest;
use serde_json::json;

use crate::support::golden::root;

type TestError = Box<dyn std::error::Error>;
type TestResult = Result<(), TestError>;

/// What the sample's clerk ends every answer with.
const CLOSING: &str = "Noted in the harbour book.";

fn sample() -> Result<RecordFile, TestError> {
    Ok(RecordFile::read(&root().join("examples/sample_dataset.json"))?)
}

#[test]
fn the_sample_data_are_chats_of_one_voice() -> TestResult {
    let file = sample()?;
    assert_eq!(file.format, DataFormat::Chat);
    assert_eq!(file.records.len(), 60);
    assert!(file.unread_keys.is_empty());
    let mut questions = BTreeSet::new();
    for record in &file.records {
        let Record::Chat { messages, .. } = record else {
            return Err("not a conversation".into());
        };
        let turns: Vec<&str> = messages
            .iter()
            .map(Message::role)
            .filter(|role| *role != "system")
            .collect();
        assert!(turns.chunks(2).all(|pair| pair == ["user", "assistant"]), "{turns:?}");
        for message in messages.iter().filter(|message| message.role() == "assistant") {
            let answer = message.content().ok_or("no content")?;
            assert!(answer.ends_with(CLOSING), "{answer}");
            assert!(answer.is_ascii() && answer.len() < 150, "{answer}");
        }
        let question = messages
            .iter()
            .find(|message| message.role() == "user")
            .ok_or("no question")?;
        assert!(
            questions.insert(question.content().map(str::to_owned)),
            "{question:?} is asked twice"
        );
    }
    Ok(())
}

#[test]
fn every_answer_of_the_sample_data_can_be_trained_on() -> TestResult {
    let tokenizer = Tokenizer::from_folder(&root().join("fixtures/embedded/model"))?;
    let settings = ExampleSettings {
        supervision: Supervision::EveryAnswer,
        max_sequence_length: 2048,
    };
    let dataset = Dataset::new(&sample()?, &tokenizer, settings)?;
    assert!(dataset.notes.is_empty(), "{:?}", dataset.notes);
    for example in &dataset.examples {
        assert_eq!(example.unplaced_answers, 0);
        let targets: Vec<u32> = example.targets().collect();
        assert!(tokenizer.decode(&targets, true)?.contains(CLOSING));
    }
    Ok(())
}

/// The lines of a YAML file as level of indentation, key and value, comments and blank lines left out.
fn settings(text: &str) -> Vec<(usize, &str, &str)> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines
        .filter_map(|line| line.split_once(':').map(|(key, value)| (line, key, value)))
        .map(|(line, key, value)| (line.len() - line.trim_start().len(), key.trim(), value.trim()))
        .collect()
}

#[rstest]
fn every_value_of_a_profile_has_its_reason(#[values("chat", "instruct", "code", "creative")] name: &str) -> TestResult {
    let text = fs::read_to_string(root().join(format!("config/profiles/{name}.yml")))?;
    let mut reasons = 0;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            reasons += 1;
        } else if !line.ends_with(':') {
            assert!(reasons > 0, "{name}: {line}");
            reasons = 0;
        }
    }
    let found = settings(&text);
    let value = |wanted: &str| {
        found
            .iter()
            .find(|(_, key, _)| *key == wanted)
            .map(|(_, _, value)| *value)
    };
    value("template").ok_or("no template")?.parse::<TemplateChoice>()?;
    serde_json::from_value::<Supervision>(json!(value("supervision").ok_or("no supervision")?))?;
    let keys: Vec<&str> = found.iter().map(|(_, key, _)| *key).collect();
    for key in [
        "learning_rate",
        "rank",
        "scale",
        "dropout",
        "epochs",
        "batch_size",
        "max_seq_length",
    ] {
        assert!(keys.contains(&key), "{name} has no {key}");
        assert!(value(key).ok_or("no value")?.parse::<f64>()? >= 0.0);
    }
    Ok(())
}
