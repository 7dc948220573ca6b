//! The data audit tells what is wrong with rows that are wrong in a known way.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mlx_diagnose::data::{Dataset, Example, ExampleSettings, RecordFile, Supervision};
use mlx_diagnose::evidence::{DataEvidence, Listing};
use mlx_diagnose::model::{StopSet, Tokenizer};
use mlx_diagnose::probes::data::DataProbe;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::golden::root;

const LONGEST: usize = 2048;

/// What the tokenizer's own template writes, beginning of text and thoughts aside.
const TURNS: &str =
    "{% for message in messages %}{{ '<|turn|>' + message.role + '\n' + message.content + '<|end|>\n' }}{% endfor %}";

/// A tokenizer whose template is `TURNS`, an opening of the answer, and whatever a test adds.
fn smollm(template: Option<&str>) -> Tokenizer {
    let source = root().join("fixtures/golden/tokenizers/smollm");
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    if let Some(template) = template {
        fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    }
    Tokenizer::from_folder(folder.path()).unwrap()
}

fn with_opening(opening: &str) -> Tokenizer {
    smollm(Some(&format!(
        "{TURNS}{{% if add_generation_prompt %}}{{{{ '{opening}' }}}}{{% endif %}}"
    )))
}

fn records(rows: &[Value]) -> RecordFile {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    RecordFile::parse(Path::new("rows.jsonl"), lines.join("\n").as_bytes()).unwrap()
}

/// Questions of different lengths, so that their prompts end at different tokens.
fn questions() -> Vec<Value> {
    vec![
        json!({"prompt": "Name a bird.", "completion": "The petrel flies low"}),
        json!({"prompt": "Where is the old harbour?", "completion": "Behind the second pier"}),
        json!({"prompt": "Who keeps the light in winter?", "completion": "Marta keeps it alone"}),
    ]
}

struct Audit {
    tokenizer: Tokenizer,
    mask_prompt: bool,
    longest: usize,
    vocabulary_size: usize,
}

impl Audit {
    fn of(tokenizer: Tokenizer) -> Self {
        Self {
            mask_prompt: true,
            longest: LONGEST,
            vocabulary_size: tokenizer.vocabulary_size(),
            tokenizer,
        }
    }

    fn dataset(&self, rows: &[Value]) -> Dataset {
        let settings = ExampleSettings {
            supervision: Supervision::of_mask_prompt(self.mask_prompt),
            max_sequence_length: self.longest,
        };
        Dataset::new(&records(rows), &self.tokenizer, settings).unwrap()
    }

    fn compare(&self, dataset: &Dataset, validation: Option<&Dataset>) -> DataEvidence {
        DataProbe {
            dataset,
            validation,
            tokenizer: &self.tokenizer,
            stop_set: &StopSet::of(&self.tokenizer).unwrap(),
            vocabulary_size: self.vocabulary_size,
            mask_prompt: self.mask_prompt,
        }
        .measure()
        .unwrap()
    }

    fn measure(&self, rows: &[Value]) -> DataEvidence {
        self.compare(&self.dataset(rows), None)
    }

    /// The evidence of rows that something changed between tokenisation and training.
    fn changed(&self, rows: &[Value], change: impl Fn(&mut Example)) -> DataEvidence {
        let mut dataset = self.dataset(rows);
        dataset.examples.iter_mut().for_each(change);
        self.compare(&dataset, None)
    }

    fn id(&self, token: &str) -> u32 {
        self.tokenizer.token_id(token).unwrap()
    }
}

fn audit() -> Audit {
    Audit::of(smollm(None))
}

fn rows(numbers: impl IntoIterator<Item = usize>) -> Listing {
    Listing::numbered("row", numbers.into_iter())
}

fn none() -> Listing {
    rows([])
}

fn first_target(example: &Example) -> usize {
    example.supervised.iter().position(|&supervised| supervised).unwrap()
}

fn start_at(example: &mut Example, start: usize) {
    example.supervised = (0..example.tokens.len()).map(|index| index >= start).collect();
}

#[test]
fn rows_that_mlx_lm_would_make_have_nothing_wrong() {
    let audit = audit();
    let found = audit.measure(&questions());
    let whole: Vec<usize> = questions()
        .iter()
        .map(|row| {
            let text = format!(
                "<|turn|>user\n{}<|end|>\n<|turn|>assistant\n{}<|end|>\n",
                row["prompt"].as_str().unwrap(),
                row["completion"].as_str().unwrap()
            );
            audit.tokenizer.encode(&text, false).unwrap().len()
        })
        .collect();
    let answers: usize = questions()
        .iter()
        .map(|row| {
            let answer = format!("{}<|end|>\n", row["completion"].as_str().unwrap());
            audit.tokenizer.encode(&answer, false).unwrap().len()
        })
        .sum();
    assert_eq!((found.rows, found.tokens), (3, whole.iter().sum()));
    let mut sorted = whole;
    sorted.sort_unstable();
    assert_eq!((found.median_row, found.longest_row), (sorted[1], sorted[2]));
    assert_eq!((found.supervised_tokens, found.supervised_stop_tokens), (answers, 3));
    assert_eq!(found.rows_ending_in_stop, 3);
    assert_eq!((found.boundary.rows, found.template.rows), (3, 3));
    assert_eq!((found.assistant_messages, found.supervised_assistant_messages), (3, 3));
    assert_eq!(found.boundary.constant, None);
    assert_eq!(found.boundary.supervised_prompt_tokens, 0);
    let healthy = [
        &found.rows_without_supervision,
        &found.rows_only_stop_tokens,
        &found.rows_without_end,
        &found.rows_with_masked_end,
        &found.rows_with_repeated_end,
        &found.rows_with_supervised_padding,
        &found.rows_truncated,
        &found.rows_with_lost_end,
        &found.rows_with_double_beginning,
        &found.rows_with_unknown_ids,
        &found.duplicate_rows,
        &found.boundary.moved,
        &found.boundary.unmasked,
        &found.boundary.early,
        &found.boundary.late,
        &found.template.asked_differently,
        &found.template.asked_with_other_thoughts,
        &found.template.rows_with_foreign_markers,
        &found.rows_without_answer,
    ];
    for listing in healthy {
        assert_eq!(listing, &none());
    }
}

#[test]
fn a_mask_that_ends_early_is_told_by_what_it_leaves_in() {
    let found = audit().changed(&questions(), |example| start_at(example, first_target(example) - 2));
    assert_eq!(found.boundary.early, rows(1..=3));
    assert_eq!((&found.boundary.unmasked, &found.boundary.late), (&none(), &none()));
    assert_eq!(found.boundary.supervised_prompt_tokens, 6);
    let first = &found.boundary.first_targets;
    assert!(first.contains("\nThe petrel") && !first.starts_with('\n'), "{first}");
}

#[test]
fn a_mask_that_ends_late_is_told_by_what_it_takes_away() {
    let found = audit().changed(&questions(), |example| start_at(example, first_target(example) + 1));
    assert_eq!(found.boundary.late, rows(1..=3));
    assert_eq!(found.boundary.early, none());
    assert_eq!(found.boundary.constant, None);
    let first = &found.boundary.first_targets;
    assert!(!first.starts_with("The") && first.contains("petrel"), "{first}");
}

#[test]
fn a_mask_that_was_asked_for_and_is_not_there_leaves_whole_prompts() {
    let prompts: usize = audit().dataset(&questions()).examples.iter().map(first_target).sum();
    let found = audit().changed(&questions(), |example| start_at(example, 1));
    assert_eq!(found.boundary.unmasked, rows(1..=3));
    assert_eq!((&found.boundary.early, found.boundary.constant), (&none(), None));
    assert_eq!(found.boundary.supervised_prompt_tokens, prompts - 3);
}

#[test]
fn a_mask_of_one_length_for_all_prompts_is_told_from_one_that_is_shifted() {
    let found = audit().changed(&questions(), |example| start_at(example, 2));
    assert_eq!(found.boundary.constant, Some(2));
    let same_question = [
        questions()[0].clone(),
        json!({"prompt": "Name a bird.", "completion": "Tern"}),
    ];
    assert_eq!(audit().measure(&same_question).boundary.constant, None);
}

#[test]
fn without_a_mask_prompts_are_counted_and_not_judged() {
    let audit = Audit {
        mask_prompt: false,
        ..audit()
    };
    let found = audit.measure(&questions());
    assert_eq!(found.boundary.rows, 0);
    assert_eq!(found.boundary.unmasked, none());
    let prompts: usize = audit
        .dataset(&questions())
        .examples
        .iter()
        .map(|example| example.source.prompt.as_ref().unwrap().len())
        .sum();
    assert_eq!(found.boundary.supervised_prompt_tokens, prompts - 3);
    assert_eq!(found.template.rows, 3);
}

#[test]
fn targets_of_only_the_end_are_no_matter_of_the_boundary() {
    let audit = audit();
    let end = audit.id("<|end|>");
    let found = audit.changed(&questions(), |example| {
        for (supervised, &token) in example.supervised.iter_mut().zip(&example.tokens) {
            *supervised = *supervised && token == end;
        }
    });
    assert_eq!(found.rows_only_stop_tokens, rows(1..=3));
    assert_eq!(found.rows_ending_in_stop, 3);
    assert_eq!((&found.boundary.late, found.boundary.constant), (&none(), None));
}

#[test]
fn a_prompt_whose_last_token_melts_into_the_answer_is_a_moved_boundary_and_the_same_question() {
    let tokenizer = smollm(Some(
        "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    ));
    let found = Audit::of(tokenizer).measure(&[
        json!({"prompt": "Who?", "completion": "the keeper"}),
        json!({"prompt": "Where?", "completion": "the harbour"}),
    ]);
    assert_eq!(found.boundary.moved, rows([1, 2]));
    assert_eq!((&found.boundary.early, &found.boundary.late), (&none(), &none()));
    assert_eq!(found.template.rows, 2);
    assert_eq!(found.template.asked_differently, none());
}

#[test]
fn an_end_that_is_masked_is_there_and_no_target() {
    let audit = audit();
    let end = audit.id("<|end|>");
    let found = audit.changed(&questions(), |example| {
        for (supervised, &token) in example.supervised.iter_mut().zip(&example.tokens) {
            *supervised = *supervised && token != end;
        }
    });
    assert_eq!(found.rows_with_masked_end, rows(1..=3));
    assert_eq!((&found.rows_without_end, &found.boundary.late), (&none(), &none()));
    assert_eq!(found.rows_ending_in_stop, 0);
}

#[test]
fn an_end_that_is_gone_is_no_cut() {
    let found = audit().changed(&questions(), |example| {
        // The end of the turn and the line break behind it.
        let kept = example.tokens.len() - 2;
        example.tokens.truncate(kept);
        example.supervised.truncate(kept);
    });
    assert_eq!(found.rows_without_end, rows(1..=3));
    assert_eq!((&found.rows_truncated, &found.rows_with_masked_end), (&none(), &none()));
    assert_eq!(found.rows_ending_in_stop, 0);
}

#[rstest]
#[case::the_closing_token("<|end|>", 3, 0)]
#[case::another_token("<|text|>", 0, 3)]
fn targets_behind_the_end_are_repeated_ends_or_padding(
    #[case] token: &str,
    #[case] repeated: usize,
    #[case] padding: usize,
) {
    let audit = audit();
    let id = audit.id(token);
    let found = audit.changed(&questions()[..1], |example| {
        example.tokens.extend([id; 3]);
        example.supervised.extend([true; 3]);
    });
    assert_eq!(
        (found.repeated_end_tokens, found.supervised_padding_tokens),
        (repeated, padding)
    );
    assert_eq!(found.rows_with_repeated_end.total, usize::from(repeated > 0));
    assert_eq!(found.rows_with_supervised_padding.total, usize::from(padding > 0));
    assert_eq!((found.rows_ending_in_stop, &found.rows_without_end), (1, &none()));
}

#[test]
fn padding_that_is_no_target_is_nothing() {
    let audit = audit();
    let end = audit.id("<|end|>");
    let found = audit.changed(&questions(), |example| {
        example.tokens.extend([end; 5]);
        example.supervised.extend([false; 5]);
    });
    assert_eq!((found.repeated_end_tokens, found.supervised_padding_tokens), (0, 0));
    assert_eq!(found.rows_with_masked_end, none());
}

#[test]
fn an_answer_that_already_writes_the_end_repeats_it() {
    let found = audit().measure(&[json!({"prompt": "Name a bird.", "completion": "Petrel<|end|>"})]);
    assert_eq!(
        (&found.rows_with_repeated_end, found.repeated_end_tokens),
        (&rows([1]), 1)
    );
}

#[test]
fn rows_that_are_cut_say_what_they_lost() {
    let whole = audit().measure(&questions());
    let shortest = audit().dataset(&questions()).examples[0].tokens.len();
    let audit = Audit {
        longest: shortest,
        ..audit()
    };
    let found = audit.measure(&questions());
    assert_eq!(found.rows_truncated, rows([2, 3]));
    assert_eq!(found.rows_with_lost_end, rows([2, 3]));
    assert_eq!(found.tokens_lost, whole.tokens - 3 * shortest);
    assert_eq!((found.longest_row, found.rows_without_end), (whole.longest_row, none()));
    assert_eq!(found.template.asked_differently, none());
}

#[test]
fn a_cut_within_the_prompt_is_neither_another_question_nor_a_wrong_mask() {
    let audit = Audit { longest: 4, ..audit() };
    let found = audit.measure(&questions());
    assert_eq!(found.rows_without_supervision, rows(1..=3));
    assert_eq!(found.template.asked_differently, none());
    assert_eq!((&found.boundary.early, &found.boundary.late), (&none(), &none()));
    assert_eq!(found.duplicate_rows, none());
}

#[test]
fn a_beginning_of_text_that_comes_twice_is_no_other_question() {
    let audit = Audit::of(smollm(Some(&format!(
        "{{{{ bos_token }}}}{TURNS}{{% if add_generation_prompt %}}{{{{ '<|turn|>assistant\n' }}}}{{% endif %}}"
    ))));
    let beginning = audit.id("<|text|>");
    assert_eq!(audit.measure(&questions()).rows_with_double_beginning, none());
    let found = audit.changed(&questions(), |example| {
        example.tokens.insert(0, beginning);
        example.supervised.insert(0, false);
    });
    assert_eq!(found.rows_with_double_beginning, rows(1..=3));
    assert_eq!((found.boundary.rows, found.template.rows), (3, 3));
    assert_eq!(
        (
            &found.template.asked_differently,
            &found.boundary.early,
            &found.boundary.late
        ),
        (&none(), &none(), &none())
    );
}

#[test]
fn rows_without_the_header_of_the_answer_are_asked_differently() {
    let audit = audit();
    let turn = audit.id("<|turn|>");
    let found = audit.changed(&questions(), |example| {
        let answer = first_target(example);
        let header = example.tokens.iter().rposition(|&token| token == turn).unwrap();
        example.tokens.drain(header..answer);
        example.supervised.drain(header..answer);
    });
    assert_eq!(found.template.asked_differently, rows(1..=3));
    assert_eq!(found.boundary.rows, 0);
    let difference = found.template.difference.unwrap();
    assert_eq!(difference.row, "row 1");
    assert!(
        difference.trained.contains("Name a bird.<|end|>\nThe petrel flies low"),
        "{difference:?}"
    );
    assert!(
        difference.asked.ends_with("Name a bird.<|end|>\n<|turn|>assistant\n"),
        "{difference:?}"
    );
}

#[test]
fn control_tokens_written_as_ordinary_text_are_asked_differently() {
    let audit = audit();
    let found = audit.changed(&questions(), |example| {
        let mut tokens = Vec::new();
        for letter in ["<", "|", "turn", "|", ">"] {
            tokens.extend(audit.tokenizer.encode(letter, false).unwrap());
        }
        example.supervised.splice(0..1, vec![false; tokens.len()]);
        example.tokens.splice(0..1, tokens);
    });
    assert_eq!(found.template.asked_differently, rows(1..=3));
}

#[rstest]
#[case::an_empty_block("<|turn|>assistant\n<think>\n\n</think>\n\n")]
#[case::an_open_block("<|turn|>assistant\n<think>\n")]
fn a_block_of_thoughts_that_only_inference_opens_is_named(#[case] opening: &str) {
    let audit = Audit::of(with_opening(opening));
    let found = audit.measure(&questions());
    assert_eq!(found.template.asked_with_other_thoughts, rows(1..=3));
    assert_eq!(found.template.asked_differently, none());
    let difference = found.template.thoughts_difference.unwrap();
    assert!(difference.asked.contains("<think>") && !difference.trained.contains("<think>"));
}

#[test]
fn thoughts_that_the_rows_have_and_inference_leaves_to_the_model_are_nothing() {
    let found = Audit::of(with_opening("<|turn|>assistant\n"))
        .measure(&[json!({"prompt": "Name a bird.", "completion": "<think>\n\n</think>\n\nPetrel"})]);
    assert_eq!(found.template.asked_with_other_thoughts, none());
    assert_eq!(found.template.asked_differently, none());
}

#[test]
fn ids_beyond_the_table_are_named_and_the_rest_of_the_row_is_left_alone() {
    let audit = audit();
    let beyond = audit.vocabulary_size as u32;
    let found = audit.changed(&questions()[..2], |example| {
        *example.tokens.last_mut().unwrap() = beyond;
    });
    assert_eq!(found.rows_with_unknown_ids, rows([1, 2]));
    assert_eq!(found.largest_id, beyond);
    assert_eq!((found.boundary.rows, found.template.rows), (0, 0));
    assert_eq!(found.rows_without_end, none());
}

#[test]
fn copies_are_named_after_the_first_and_validation_rows_against_all() {
    let audit = audit();
    let [first, second, third] = <[Value; 3]>::try_from(questions()).unwrap();
    let trained = audit.dataset(&[first.clone(), second.clone(), first.clone()]);
    let validation = audit.dataset(&[third, second, first]);
    let found = audit.compare(&trained, Some(&validation));
    assert_eq!(found.duplicate_rows, rows([3]));
    let validation = found.validation.ran().unwrap();
    assert_eq!((validation.rows, &validation.also_trained), (3, &rows([2, 3])));
    assert!(audit.compare(&trained, None).validation.absence().is_some());
}

#[test]
fn markers_of_other_families_are_named_where_the_tokenizer_does_not_know_them() {
    let found = audit().measure(&[
        json!({"text": "The harbour was quiet."}),
        json!({"text": "[INST] Who? [/INST] <|im_start|>Marta"}),
    ]);
    assert_eq!(found.template.rows_with_foreign_markers, rows([2]));
    assert_eq!(found.template.foreign_markers, ["<|im_start|>", "[INST]"]);
    assert_eq!((found.template.rows, found.boundary.rows), (0, 0));

    let llama = smollm(Some(
        "{% for message in messages %}{{ '[INST] ' + message.content + '<|end|>' }}{% endfor %}",
    ));
    let found = Audit::of(llama).measure(&[json!({"text": "[INST] Who? [/INST] Marta"})]);
    assert_eq!(found.template.rows_with_foreign_markers, none());
}

#[test]
fn plain_text_without_an_end_is_told_from_text_with_one() {
    let audit = audit();
    let text = [json!({"text": "The harbour was quiet."})];
    let found = audit.measure(&text);
    assert_eq!((found.rows_ending_in_stop, &found.rows_without_end), (1, &none()));
    let found = audit.changed(&text, |example| {
        example.tokens.pop();
        example.supervised.pop();
    });
    assert_eq!((found.rows_ending_in_stop, &found.rows_without_end), (0, &rows([1])));
}

fn two_turns() -> Vec<Value> {
    vec![json!({"messages": [
        {"role": "user", "content": "Who keeps the light?"},
        {"role": "assistant", "content": "Marta."},
        {"role": "user", "content": "Marta. And when?"},
        {"role": "assistant", "content": "In winter."},
    ]})]
}

#[test]
fn a_mask_leaves_only_the_last_answer_of_a_conversation() {
    let found = audit().measure(&two_turns());
    assert_eq!((found.assistant_messages, found.supervised_assistant_messages), (2, 1));
    assert_eq!((&found.boundary.early, found.boundary.rows), (&none(), 1));
}

#[test]
fn earlier_answers_may_be_targets_and_are_no_prompt() {
    let audit = audit();
    let answer = audit.tokenizer.encode("Marta.<|end|>", false).unwrap();
    let found = audit.changed(&two_turns(), |example| {
        let at = example
            .tokens
            .windows(answer.len())
            .position(|window| window == answer.as_slice())
            .unwrap();
        example.supervised[at..at + answer.len()].fill(true);
    });
    assert_eq!((found.assistant_messages, found.supervised_assistant_messages), (2, 2));
    assert_eq!(found.boundary.early, none());
    assert_eq!(found.boundary.supervised_prompt_tokens, 0);
}

#[test]
fn a_mask_that_leaves_every_answer_is_no_early_one() {
    let audit = audit();
    let settings = ExampleSettings {
        supervision: Supervision::EveryAnswer,
        max_sequence_length: LONGEST,
    };
    for answer in ["Marta.", "  Marta. ", "Marta and\n\nOlaf\n"] {
        let mut rows = two_turns();
        rows[0]["messages"][1]["content"] = json!(answer);
        let dataset = Dataset::new(&records(&rows), &audit.tokenizer, settings).unwrap();
        let found = audit.compare(&dataset, None);
        assert_eq!((found.assistant_messages, found.supervised_assistant_messages), (2, 2));
        assert_eq!((&found.boundary.early, found.boundary.rows), (&none(), 1), "{answer:?}");
        assert_eq!(found.boundary.supervised_prompt_tokens, 0);
        assert_eq!(found.boundary.late, none());
    }
}

#[test]
fn conversations_that_end_with_a_question_have_no_answer() {
    let found = audit().measure(&[
        json!({"messages": [{"role": "user", "content": "Who?"}]}),
        json!({"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Marta."}]}),
    ]);
    assert_eq!(found.rows_without_answer, rows([1]));
    assert_eq!(found.template.rows, 1);
}

/// What ChatML, Llama 3, Mistral, Gemma and others write (see `fixtures/golden/templates.json`).
fn templates() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("fixtures/golden/templates.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    golden["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|case| {
            let family = case["name"].as_str().unwrap().split(',').next().unwrap();
            (family.to_owned(), case["template"].as_str().unwrap().to_owned())
        })
        .collect()
}

#[test]
fn rows_of_every_kind_of_template_have_nothing_wrong() {
    let mut judged = 0;
    for (family, template) in templates() {
        let tokenizer = smollm(Some(&template));
        if StopSet::of(&tokenizer).is_err() {
            continue;
        }
        judged += 1;
        let mut all = questions();
        all.extend(all.clone().into_iter().map(|row| {
            json!({"messages": [
                {"role": "user", "content": "Who?"},
                {"role": "assistant", "content": "Marta."},
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]})
        }));
        let chats: Vec<Value> = all.split_off(3);
        for rows in [all, chats] {
            let found = Audit::of(tokenizer.clone()).measure(&rows);
            let wrong = [
                &found.template.asked_differently,
                &found.template.asked_with_other_thoughts,
                &found.template.rows_with_foreign_markers,
                &found.boundary.unmasked,
                &found.boundary.early,
                &found.boundary.late,
                &found.rows_with_masked_end,
                &found.rows_with_repeated_end,
                &found.rows_with_supervised_padding,
                &found.rows_with_double_beginning,
                &found.rows_truncated,
            ];
            for listing in wrong {
                assert_eq!(listing, &none(), "{family}: {found:#?}");
            }
            assert_eq!(found.template.rows, 3, "{family}");
            assert_eq!(found.boundary.constant, None, "{family}");
        }
    }
    assert!(judged > 3, "only {judged} templates were judged");
}
