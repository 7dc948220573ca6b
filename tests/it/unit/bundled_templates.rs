//! The chat templates that the program carries, against transformers' rendering of the same files.

use std::fs;

use mlx_diagnose::data::{Example, ExampleSettings, Record, Supervision};
use mlx_diagnose::model::{
    BUNDLED_TEMPLATES, BundledTemplate, ChatTemplate, ChatTemplateError, Message, StopSet, TemplateChoice, Tokenizer,
};
use rstest::rstest;
use serde_json::{Map, Value, json};

use crate::support::golden::root;

type TestError = Box<dyn std::error::Error>;
type TestResult = Result<(), TestError>;

fn bundled(name: &str) -> Result<&'static BundledTemplate, TestError> {
    match name.parse()? {
        TemplateChoice::Bundled(template) => Ok(template),
        TemplateChoice::Own => Err("the model's own".into()),
    }
}

fn tokenizer(family: &str) -> Result<Tokenizer, TestError> {
    Ok(Tokenizer::from_folder(
        &root().join("fixtures/golden/tokenizers").join(family),
    )?)
}

fn conversation() -> Vec<Message> {
    vec![
        Message::new("user", "Who?"),
        Message::new("assistant", "Heron."),
        Message::new("user", "When?"),
        Message::new("assistant", "At 5."),
    ]
}

#[test]
fn every_template_renders_as_transformers_renders_it() -> TestResult {
    let golden: Value = serde_json::from_slice(&fs::read(root().join("fixtures/golden/bundled-templates.json"))?)?;
    let cases = golden["cases"].as_array().ok_or("no cases")?;
    assert_eq!(cases.len(), BUNDLED_TEMPLATES.len() * 7 * 2);
    let mut variables = Map::new();
    variables.insert("bos_token".to_owned(), "<s>".into());
    variables.insert("eos_token".to_owned(), "</s>".into());
    for case in cases {
        let name = case["template"].as_str().ok_or("no template")?;
        let template = ChatTemplate::new(name, bundled(name)?.source, variables.clone())?;
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone())?;
        let prompt = case["add_generation_prompt"].as_bool().ok_or("no flag")?;
        match template.render(&messages, None, prompt) {
            Ok(text) => assert_eq!(json!(text), case["rendered"], "{name}, {}", case["name"]),
            Err(ChatTemplateError::Refused { detail, .. }) => {
                assert_eq!(json!(detail), case["refusal"], "{name}, {}", case["name"]);
            }
            Err(error) => panic!("{name}, {}: {error}", case["name"]),
        }
    }
    Ok(())
}

#[test]
fn every_file_is_a_template_and_every_template_a_file() -> TestResult {
    let mut files: Vec<String> = fs::read_dir(root().join("config/templates"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, std::io::Error>>()?;
    files.sort();
    let names: Vec<String> = BUNDLED_TEMPLATES
        .iter()
        .map(|template| format!("{}.jinja", template.name))
        .collect();
    assert_eq!(files, names);
    for template in &BUNDLED_TEMPLATES {
        let choice: TemplateChoice = template.name.parse()?;
        assert_eq!(choice.name(), template.name);
        assert!(template.markers.iter().all(|marker| template.source.contains(marker)));
        assert_eq!(
            template.ends_with_end_of_text,
            template.source.contains("{{- eos_token }}")
        );
    }
    assert_eq!("own".parse::<TemplateChoice>()?, TemplateChoice::Own);
    Ok(())
}

#[rstest]
#[case("chatlm", "did you mean `chatml`?")]
#[case("llama-3", "did you mean `llama3`?")]
#[case("zebra", "expected: `alpaca`, `chatml`, `llama3`, `mistral`, `plain`, `own`")]
fn an_unknown_template_is_told_the_known_ones(#[case] name: &str, #[case] part: &str) {
    let message = name
        .parse::<TemplateChoice>()
        .map_err(|error| error.to_string())
        .unwrap_err();
    assert!(
        message.starts_with(&format!("there is no chat template `{name}`")),
        "{message}"
    );
    assert!(message.contains(part), "{message}");
}

#[rstest]
#[case("alpaca", &["Heron.<|end|>", "At 5.<|end|>"])]
#[case("chatml", &["Heron.<|im_end|>\n", "At 5.<|im_end|>\n"])]
#[case("llama3", &["Heron.<|eot_id|>", "At 5.<|eot_id|>"])]
#[case("mistral", &[" Heron.<|end|>", " At 5.<|end|>"])]
#[case("plain", &[" Heron.<|end|>", " At 5.<|end|>"])]
fn every_answer_is_found_in_every_template(#[case] name: &str, #[case] expected: &[&str]) -> TestResult {
    let tokenizer = bundled(name)?.apply(tokenizer("smollm")?)?;
    let record = Record::Chat {
        messages: conversation(),
        tools: None,
    };
    let settings = ExampleSettings {
        supervision: Supervision::EveryAnswer,
        max_sequence_length: 2048,
    };
    let example = Example::new(&record, &tokenizer, settings)?.ok_or("no tokens")?;
    assert_eq!(example.unplaced_answers, 0);
    let targets: Vec<u32> = example.targets().collect();
    assert_eq!(tokenizer.decode(&targets, false)?, expected.concat());
    Ok(())
}

#[test]
fn another_template_changes_the_text_and_the_stop_set() -> TestResult {
    let own = tokenizer("llama-bpe")?;
    let declared = own.eos_id().ok_or("no end of text")?;
    let alpaca = bundled("alpaca")?.apply(own)?;
    let question = [Message::new("user", "Who?")];
    let text = alpaca.render_chat(&question, None, true)?;
    assert!(text.ends_with("### Instruction:\nWho?\n\n### Response:\n"), "{text}");
    assert!(StopSet::of(&alpaca)?.contains(declared));
    // Tools are for templates that know them; another template stands for all.
    assert_eq!(
        alpaca.render_chat(&question, Some(&[json!({"name": "f"})]), true)?,
        text
    );
    assert_eq!(alpaca.chat_template().ok_or("none")?.name(), "alpaca.jinja");
    Ok(())
}

#[test]
fn a_conversation_begins_with_the_beginning_token_where_every_text_does() -> TestResult {
    for (family, begins) in [("llama-bpe", true), ("smollm", false)] {
        let plain = tokenizer(family)?;
        let bos = plain.bos_id().ok_or("no beginning of text")?;
        assert_eq!(plain.encode("a", true)?.first() == Some(&bos), begins, "{family}");
        for template in BUNDLED_TEMPLATES
            .iter()
            .filter(|template| template.source.contains("bos_token"))
        {
            let chosen = template.apply(plain.clone())?;
            let tokens = chosen.encode_chat(&conversation(), None, false)?;
            assert_eq!(
                tokens.iter().filter(|&&id| id == bos).count(),
                usize::from(begins),
                "{family}"
            );
            assert_eq!(tokens[0] == bos, begins, "{family}");
        }
    }
    Ok(())
}

#[test]
fn markers_that_the_vocabulary_does_not_have_are_told() -> TestResult {
    let smollm = tokenizer("smollm")?;
    assert_eq!(
        bundled("llama3")?.notes(&smollm),
        [
            "the template `llama3` writes `<|start_header_id|>`, `<|end_header_id|>`, `<|eot_id|>`, \
             which this vocabulary does not have as single tokens: they are trained on as text"
        ]
    );
    assert!(bundled("alpaca")?.notes(&smollm).is_empty());
    assert!(bundled("plain")?.notes(&smollm).is_empty());
    let qwen3 = Tokenizer::from_folder(&root().join("fixtures/golden/tiny/qwen3"))?;
    assert!(bundled("chatml")?.notes(&qwen3).is_empty());
    Ok(())
}

#[test]
fn a_tokenizer_without_an_end_of_text_is_told_that_answers_will_not_end() -> TestResult {
    let folder = tempfile::tempdir()?;
    let from = root().join("fixtures/golden/tokenizers/smollm");
    fs::copy(from.join("tokenizer.json"), folder.path().join("tokenizer.json"))?;
    let tokenizer = Tokenizer::from_folder(folder.path())?;
    let notes = bundled("alpaca")?.notes(&tokenizer);
    assert_eq!(
        notes,
        [
            "the template `alpaca` ends answers with the end-of-text token, and this tokenizer names none: answers will not end"
        ]
    );
    let text = bundled("alpaca")?
        .apply(tokenizer)?
        .render_chat(&conversation(), None, false)?;
    assert!(text.ends_with("### Response:\nAt 5."), "{text}");
    Ok(())
}

#[test]
fn a_template_that_is_no_jinja_is_refused_with_its_name() -> TestResult {
    let refusal = tokenizer("smollm")?.with_chat_template("mine.jinja", "{% for %}");
    let message = refusal.map(drop).map_err(|error| error.to_string()).unwrap_err();
    assert!(
        message.starts_with("chat template `mine.jinja` is not valid at line 1"),
        "{message}"
    );
    Ok(())
}
