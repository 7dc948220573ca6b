//! Which tokens of conversations are trained on, against transformers and against spans written by hand.

use std::fs;
use std::path::{Path, PathBuf};

use mlx_diagnose::data::{Dataset, Example, ExampleSettings, Record, RecordFile, Supervision};
use mlx_diagnose::model::{Message, Tokenizer};
use rstest::rstest;
use serde_json::Value;

type TestError = Box<dyn std::error::Error>;
type TestResult = Result<(), TestError>;

const EVERY_ANSWER: ExampleSettings = ExampleSettings {
    supervision: Supervision::EveryAnswer,
    max_sequence_length: 2048,
};
const LAST_ANSWER: ExampleSettings = ExampleSettings {
    supervision: Supervision::LastAnswer,
    ..EVERY_ANSWER
};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden").join(path)
}

fn smollm() -> Result<Tokenizer, TestError> {
    Ok(Tokenizer::from_folder(&golden("tokenizers/smollm"))?)
}

fn with_template(source: &str) -> Result<Tokenizer, TestError> {
    Ok(smollm()?.with_chat_template("test.jinja", source)?)
}

fn conversation(turns: &[(&str, &str)]) -> Record {
    Record::Chat {
        messages: turns
            .iter()
            .map(|(role, content)| Message::new(role, content))
            .collect(),
        tools: None,
    }
}

fn example(record: &Record, tokenizer: &Tokenizer, settings: ExampleSettings) -> Result<Example, TestError> {
    Ok(Example::new(record, tokenizer, settings)?.ok_or("no tokens")?)
}

/// The text of each run of targets.
fn trained(example: &Example, tokenizer: &Tokenizer) -> Result<Vec<String>, TestError> {
    let pairs: Vec<(u32, bool)> = example
        .tokens
        .iter()
        .copied()
        .zip(example.supervised.iter().copied())
        .collect();
    let mut texts = Vec::new();
    for run in pairs.chunk_by(|left, right| left.1 == right.1).filter(|run| run[0].1) {
        let ids: Vec<u32> = run.iter().map(|(id, _)| *id).collect();
        texts.push(tokenizer.decode(&ids, false)?);
    }
    Ok(texts)
}

const TWO_ANSWERS: [(&str, &str); 5] = [
    ("system", "Be brief."),
    ("user", "Who?"),
    ("assistant", "Heron."),
    ("user", "When?"),
    ("assistant", "At 5."),
];

#[test]
fn the_assistants_tokens_are_those_of_transformers() -> TestResult {
    let expected: Value = serde_json::from_slice(&fs::read(golden("supervision.json"))?)?;
    let mut without_blocks = 0;
    for case in expected["cases"].as_array().ok_or("no cases")? {
        let name = format!("{}, {}, {}", case["tokenizer"], case["template"], case["name"]);
        let template = &expected["templates"][case["template"].as_str().ok_or("no template")?];
        let source = template["source"].as_str().ok_or("no source")?;
        let folder = golden("tokenizers").join(case["tokenizer"].as_str().ok_or("no tokenizer")?);
        let tokenizer = Tokenizer::from_folder(&folder)?;
        let record = Record::Chat {
            messages: serde_json::from_value(case["messages"].clone())?,
            tools: None,
        };
        let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone())?;
        let mask: Vec<u8> = serde_json::from_value(case["mask"].clone())?;
        let mask: Vec<bool> = mask.into_iter().map(|masked| masked == 1).collect();

        let marked = tokenizer.clone().with_chat_template("marked.jinja", source)?;
        let found = example(&record, &marked, EVERY_ANSWER)?;
        assert_eq!(found.tokens, tokens, "{name}");
        assert_eq!(found.supervised, mask, "{name}");
        assert_eq!(found.unplaced_answers, 0, "{name}");

        // Without the blocks the same spans have to come out of renderings of the conversation's beginnings.
        if template["whole_turns"] == true {
            let plain = source
                .replace("endgeneration", "endif")
                .replace(" generation ", " if true ");
            assert!(!plain.contains("generation %}") && !plain.contains("generation -%}"));
            let found = example(
                &record,
                &tokenizer.with_chat_template("plain.jinja", &plain)?,
                EVERY_ANSWER,
            )?;
            assert_eq!(found.tokens, tokens, "{name}");
            assert_eq!(found.supervised, mask, "{name}, without blocks");
            assert!(!found.boundary_moved, "{name}");
            without_blocks += 1;
        }
    }
    assert_eq!(without_blocks, 45);
    Ok(())
}

#[test]
fn every_answer_of_a_conversation_is_trained_on_with_its_end() -> TestResult {
    let tokenizer = smollm()?;
    let found = example(&conversation(&TWO_ANSWERS), &tokenizer, EVERY_ANSWER)?;
    assert_eq!(trained(&found, &tokenizer)?, ["Heron.<|end|>\n", "At 5.<|end|>\n"]);
    let before = "<|turn|>system\nBe brief.<|end|>\n<|turn|>user\nWho?<|end|>\n<|turn|>assistant\n";
    assert_eq!(found.prompt_boundary, tokenizer.encode(before, false)?.len());
    assert!(!found.boundary_moved);
    assert_eq!(found.reference.ok_or("no reference")?.answer, "At 5.");
    Ok(())
}

#[test]
fn words_of_the_user_that_repeat_an_answer_are_not_trained_on() -> TestResult {
    let tokenizer = smollm()?;
    let turns = [
        ("user", "Heron."),
        ("assistant", "Heron."),
        ("user", "Heron."),
        ("assistant", "Heron."),
    ];
    let found = example(&conversation(&turns), &tokenizer, EVERY_ANSWER)?;
    let answer = tokenizer.encode("Heron.<|end|>\n", false)?.len();
    assert_eq!(found.supervised_tokens(), 2 * answer);
    assert_eq!(trained(&found, &tokenizer)?, ["Heron.<|end|>\n"; 2]);
    Ok(())
}

#[rstest]
#[case::one_answer(&[("user", "Who?"), ("assistant", "Heron.")])]
#[case::behind_a_system_message(&[("system", "S"), ("user", "Who?"), ("assistant", "Heron.")])]
#[case::empty(&[("user", "Who?"), ("assistant", "")])]
fn a_single_answer_is_trained_on_alike_by_both_settings(#[case] turns: &[(&str, &str)]) -> TestResult {
    let tokenizer = smollm()?;
    let every = example(&conversation(turns), &tokenizer, EVERY_ANSWER)?;
    assert_eq!(every, example(&conversation(turns), &tokenizer, LAST_ANSWER)?);
    let prompt = Record::Completions {
        prompt: "Who?".to_owned(),
        completion: "Heron.".to_owned(),
        tools: None,
    };
    let every = example(&prompt, &tokenizer, EVERY_ANSWER)?;
    assert_eq!(every, example(&prompt, &tokenizer, LAST_ANSWER)?);
    Ok(())
}

/// Shows thoughts of the last answer only, as the templates of qwen3 do.
const FORGETFUL: &str = "{% for message in messages %}{{ '<|turn|>' + message['role'] + '\n' }}\
    {% if message['role'] == 'assistant' and not loop.last %}{{ message['content'].split('</think>')[-1] }}\
    {% else %}{{ message['content'] }}{% endif %}{{ '<|end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}";

#[test]
fn an_answer_that_the_template_rewrites_later_is_not_trained_on_and_that_is_said() -> TestResult {
    let tokenizer = with_template(FORGETFUL)?;
    let turns = [
        ("user", "Who?"),
        ("assistant", "<think>a bird</think>Heron."),
        ("user", "When?"),
        ("assistant", "At 5."),
    ];
    let found = example(&conversation(&turns), &tokenizer, EVERY_ANSWER)?;
    assert_eq!(found.unplaced_answers, 1);
    assert_eq!(trained(&found, &tokenizer)?, ["At 5.<|end|>\n"]);

    // Without thoughts nothing is rewritten.
    let found = example(&conversation(&TWO_ANSWERS), &tokenizer, EVERY_ANSWER)?;
    assert_eq!(found.unplaced_answers, 0);
    assert_eq!(trained(&found, &tokenizer)?, ["Heron.<|end|>\n", "At 5.<|end|>\n"]);

    let row = |turns: &[(&str, &str)]| {
        let messages: Vec<Message> = turns
            .iter()
            .map(|(role, content)| Message::new(role, content))
            .collect();
        serde_json::json!({ "messages": messages }).to_string()
    };
    let rows = [row(&turns), row(&TWO_ANSWERS), row(&turns)].join("\n");
    let file = RecordFile::parse(Path::new("rows.jsonl"), rows.as_bytes())?;
    let notes = Dataset::new(&file, &tokenizer, EVERY_ANSWER)?.notes;
    assert_eq!(
        notes,
        [
            "the chat template writes earlier turns otherwise than last ones, so that answers cannot be told from the rest: \
             2 in 2 of 3 rows are not trained on"
        ]
    );
    assert!(Dataset::new(&file, &tokenizer, LAST_ANSWER)?.notes.is_empty());
    Ok(())
}

#[test]
fn a_template_that_writes_every_beginning_otherwise_leaves_nothing_to_train_on() -> TestResult {
    let tokenizer = with_template(
        "{{ messages | length }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '<|end|>' }}{% endfor %}",
    )?;
    let found = example(&conversation(&TWO_ANSWERS), &tokenizer, EVERY_ANSWER)?;
    assert_eq!(found.unplaced_answers, 2);
    assert_eq!(found.supervised_tokens(), 0);
    Ok(())
}

#[test]
fn an_answer_first_of_all_is_placed_if_the_template_renders_nothing_before_it() -> TestResult {
    let turns = [("assistant", "Yes?"), ("user", "Who?"), ("assistant", "Heron.")];
    let tokenizer = smollm()?;
    let found = example(&conversation(&turns), &tokenizer, EVERY_ANSWER)?;
    assert_eq!(trained(&found, &tokenizer)?, ["Yes?<|end|>\n", "Heron.<|end|>\n"]);

    // This one looks at a first message that is not there.
    let source = format!("{{% if messages[0].role == 'system' %}}!{{% endif %}}{FORGETFUL}");
    let tokenizer = with_template(&source)?;
    let found = example(&conversation(&turns), &tokenizer, EVERY_ANSWER)?;
    assert_eq!(found.unplaced_answers, 1);
    assert_eq!(trained(&found, &tokenizer)?, ["Heron.<|end|>\n"]);
    Ok(())
}

#[test]
fn a_template_that_refuses_a_question_alone_is_in_the_way_of_the_last_answers_mask_only() -> TestResult {
    let turns = "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}";
    let refusal = "{% if messages | length == 1 %}{{ raise_exception('no answer') }}{% endif %}";
    let strict = with_template(&format!("{refusal}{turns}"))?;
    let record = conversation(&[("user", "Who?"), ("assistant", "Heron.")]);
    let all_tokens = ExampleSettings {
        supervision: Supervision::AllTokens,
        ..EVERY_ANSWER
    };
    let found = example(&record, &strict, all_tokens)?;
    let expected = example(&record, &with_template(turns)?, all_tokens)?;
    assert_eq!((found.tokens, found.supervised), (expected.tokens, expected.supervised));
    assert_eq!(example(&record, &strict, EVERY_ANSWER)?.unplaced_answers, 1);
    assert!(Example::new(&record, &strict, LAST_ANSWER).is_err());
    Ok(())
}

#[test]
fn a_header_that_asks_for_thoughts_leaves_the_answer_whole() -> TestResult {
    let source = FORGETFUL.replace(
        "<|turn|>assistant\n' }}{% endif %}",
        "<|turn|>assistant\n<think>\n' }}{% endif %}",
    );
    let tokenizer = with_template(&source)?;
    let found = example(&conversation(&TWO_ANSWERS), &tokenizer, EVERY_ANSWER)?;
    assert_eq!(trained(&found, &tokenizer)?, ["Heron.<|end|>\n", "At 5.<|end|>\n"]);
    assert!(found.boundary_moved);
    assert_eq!(found.unplaced_answers, 0);
    Ok(())
}

#[test]
fn a_token_that_holds_the_end_of_a_question_and_the_beginning_of_its_answer_is_trained_on() -> TestResult {
    let tokenizer = with_template(
        "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    )?;
    let turns = [
        ("user", "Who?"),
        ("assistant", "the keeper"),
        ("user", "When?"),
        ("assistant", "the morning"),
    ];
    let found = example(&conversation(&turns), &tokenizer, EVERY_ANSWER)?;
    assert!(found.boundary_moved);
    assert_eq!(trained(&found, &tokenizer)?, [" the keeper\n", " the morning\n"]);
    Ok(())
}

#[test]
fn answers_beyond_the_longest_row_are_cut_off_and_not_missed() -> TestResult {
    let tokenizer = with_template(FORGETFUL)?;
    let turns: Vec<(&str, &str)> = [("user", "Who?"), ("assistant", "<think>hm</think>Heron.")].repeat(2000);
    let settings = ExampleSettings {
        max_sequence_length: 60,
        ..EVERY_ANSWER
    };
    let found = example(&conversation(&turns), &tokenizer, settings)?;
    assert_eq!(found.tokens.len(), 60);
    // Only those that begin within the row could have been placed.
    assert!((1..10).contains(&found.unplaced_answers), "{}", found.unplaced_answers);
    let short = ExampleSettings {
        max_sequence_length: 40,
        ..EVERY_ANSWER
    };
    let whole = example(&conversation(&TWO_ANSWERS), &smollm()?, EVERY_ANSWER)?;
    let cut = example(&conversation(&TWO_ANSWERS), &smollm()?, short)?;
    assert_eq!(cut.supervised, whole.supervised[..40]);
    Ok(())
}

#[test]
fn a_conversation_without_an_answer_has_no_targets() -> TestResult {
    let found = example(&conversation(&[("user", "Is anyone there?")]), &smollm()?, EVERY_ANSWER)?;
    assert_eq!(found.supervised_tokens(), 0);
    assert_eq!(found.unplaced_answers, 0);
    Ok(())
}

#[test]
fn words_that_hold_the_marks_of_blocks_do_not_move_them() -> TestResult {
    let source = "{% for message in messages %}<|turn|>{{ message['role'] + '\n' }}\
        {% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}\
        {% else %}{{ message['content'] + '<|end|>' }}{% endif %}{% endfor %}";
    let tokenizer = with_template(source)?;
    let turns = [("user", "Who\u{fdd0}?"), ("assistant", "He\u{fdd1}ron.")];
    let found = example(&conversation(&turns), &tokenizer, EVERY_ANSWER)?;
    assert_eq!(found.unplaced_answers, 0);
    assert!(trained(&found, &tokenizer)?[0].ends_with("He\u{fdd1}ron.<|end|>"));
    Ok(())
}

#[test]
fn mlx_lms_mask_is_the_last_answer_and_settings_keep_their_names() -> TestResult {
    assert_eq!(Supervision::of_mask_prompt(true), Supervision::LastAnswer);
    assert_eq!(Supervision::of_mask_prompt(false), Supervision::AllTokens);
    assert!(!Supervision::AllTokens.masks_prompts() && Supervision::EveryAnswer.masks_prompts());
    for (setting, name) in [
        (Supervision::AllTokens, "\"all-tokens\""),
        (Supervision::LastAnswer, "\"last-answer\""),
        (Supervision::EveryAnswer, "\"every-answer\""),
    ] {
        assert_eq!(serde_json::to_string(&setting)?, name);
        assert_eq!(serde_json::from_str::<Supervision>(name)?, setting);
    }
    Ok(())
}
