//! Every architecture against transformers on the same files (`fixtures/golden/transformers`, made by `scripts/peers`).

use std::collections::BTreeSet;
use std::path::PathBuf;

use approx::assert_relative_eq;
use mlx_diagnose::data::{Batch, Example};
use mlx_diagnose::engine::{CachePrecision, DecodeLimits, SequenceCache, decode_greedily};
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::model::{LoadedModel, ModelSource, load_safetensors};
use mlx_diagnose::train::{Lanes, loss_and_gradients};
use mlx_rs::Array;
use rstest::rstest;
use rstest_reuse::{apply, template};
use serde_json::Value;

use crate::support::golden::{EXACT_PRECISION, floats, golden, ids, largest_difference, root, row};
use crate::support::tolerances::{GRADIENTS, LOGITS, LOSS, OTHER_STEPS};

/// The models whose goldens are committed.
pub const GOLDEN_MODELS: [&str; 9] = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma3_text",
    "phi3",
    "phi3-longrope",
    "mixtral",
    "gpt2",
];

/// A case for each of [`GOLDEN_MODELS`].
#[template]
#[rstest]
pub fn every_golden_model(
    #[values(
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma3_text",
        "phi3",
        "phi3-longrope",
        "mixtral",
        "gpt2"
    )]
    name: &'static str,
) {
}

pub fn folder(name: &str) -> PathBuf {
    root().join("fixtures/golden/transformers").join(name)
}

pub fn numbers(name: &str) -> Value {
    golden(&format!("transformers/{name}/golden.json"))
}

pub fn load(name: &str) -> LoadedModel {
    ModelSource::Folder(folder(name)).load(EXACT_PRECISION).unwrap()
}

pub fn values(array: &Array) -> Vec<f32> {
    array.contiguous().unwrap().to_vec_exact::<f32>().unwrap()
}

pub fn length(values: &[f32]) -> f32 {
    values.iter().map(|value| value * value).sum::<f32>().sqrt()
}

#[apply(every_golden_model)]
fn logits_equal_those_of_transformers(name: &str) {
    let golden = numbers(name);
    let logits = load(name).model.logits(&row(&ids(&golden["input_ids"]))).unwrap();
    let difference = largest_difference(&values(&logits), &floats(&golden["logits"]));
    assert!(difference <= LOGITS, "{name}: {difference}");
}

/// A row too short for the windows, and for a mixture of experts to sort its rows.
#[apply(every_golden_model)]
fn logits_of_a_short_row_are_those_of_its_beginning(name: &str) {
    let golden = numbers(name);
    let short = &ids(&golden["input_ids"])[..5];
    let found = values(&load(name).model.logits(&row(short)).unwrap());
    let difference = largest_difference(&found, &floats(&golden["logits"])[..found.len()]);
    // transformers chose the long factors for the whole row, and so does this at every length.
    assert!(difference <= LOGITS, "{name}: {difference}");
}

#[apply(every_golden_model)]
fn loss_and_gradients_of_the_whole_model_equal_those_of_transformers(name: &str) {
    let golden = numbers(name);
    let batch = Batch::new(&[Example::of_tokens(ids(&golden["input_ids"]))], &[0]);
    let pass = loss_and_gradients(&load(name).model, &batch, &Lanes::single()).unwrap();
    let loss = f64::from(pass.loss.item_exact::<f32>());
    assert_relative_eq!(loss, golden["loss"].as_f64().unwrap(), max_relative = LOSS);
    let expected = load_safetensors(&folder(name).join("gradients.safetensors")).unwrap();
    assert_eq!(
        pass.gradients.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    for (path, gradient) in &pass.gradients {
        assert_eq!(gradient.shape(), expected[path].shape(), "{path}");
        let expected = values(&expected[path]);
        let difference: Vec<f32> = values(gradient)
            .iter()
            .zip(&expected)
            .map(|(found, expected)| found - expected)
            .collect();
        let (off, whole) = (length(&difference), length(&expected));
        assert!(off <= GRADIENTS * whole.max(1e-6), "{name} {path}: {off} of {whole}");
    }
}

#[apply(every_golden_model)]
fn greedy_answers_with_a_cache_are_those_of_transformers(name: &str) {
    let golden = numbers(name);
    let answer = ids(&golden["answer"]);
    let limits = DecodeLimits {
        answer: answer.len(),
        at_least: answer.len(),
    };
    let prompt = ids(&golden["prompt"]);
    let model = load(name).model;
    let decoded = decode_greedily(&model, &prompt, &BTreeSet::new(), limits, &Interrupt::default()).unwrap();
    assert_eq!(decoded.tokens, answer, "{name}");
}

/// In pieces of several sizes, a piece of one token among them.
#[apply(every_golden_model)]
fn a_cache_gives_the_logits_of_the_whole_row(name: &str) {
    let model = load(name).model;
    let tokens = ids(&numbers(name)["input_ids"]);
    let whole = values(&model.logits(&row(&tokens)).unwrap());
    let mut cache = SequenceCache::new(&model, CachePrecision::Whole);
    let mut rest = tokens.as_slice();
    let mut found = Vec::new();
    for size in [3, 1, 10, 2, 1, 23] {
        let (piece, later) = rest.split_at(size);
        let hidden = model
            .hidden_states_of_sequences(&row(piece), vec![cache.continued(size as i32)])
            .unwrap();
        found.extend(values(&model.output(&hidden).unwrap()));
        rest = later;
    }
    let difference = largest_difference(&found, &whole);
    assert!(difference <= OTHER_STEPS, "{name}: {difference}");
}

/// Five sequences of unequal length that begin and go on in the same passes: three tokens of one beside one of another.
#[apply(every_golden_model)]
fn sequences_that_share_passes_have_the_logits_they_have_alone(name: &str) {
    let model = load(name).model;
    let tokens = ids(&numbers(name)["input_ids"]);
    let sequences: Vec<&[u32]> = [0..40, 3..23, 7..8, 1..18, 5..35].map(|range| &tokens[range]).to_vec();
    let passes: [[usize; 5]; 6] = [
        [9, 0, 0, 4, 0],
        [1, 7, 1, 1, 12],
        [1, 1, 0, 1, 1],
        [0, 11, 0, 0, 16],
        [28, 1, 0, 10, 0],
        [1, 0, 0, 1, 1],
    ];
    let mut caches = vec![SequenceCache::new(&model, CachePrecision::Whole); 5];
    let mut done = [0; 5];
    let mut found = vec![Vec::new(); 5];
    for sizes in passes {
        let members: Vec<usize> = (0..5).filter(|&member| sizes[member] > 0).collect();
        let shared: Vec<u32> = members
            .iter()
            .flat_map(|&member| sequences[member][done[member]..done[member] + sizes[member]].to_vec())
            .collect();
        let continued = caches.iter_mut().zip(sizes).filter(|(_, size)| *size > 0);
        let continued = continued.map(|(cache, size)| cache.continued(size as i32)).collect();
        let hidden = model.hidden_states_of_sequences(&row(&shared), continued).unwrap();
        let logits = model.output(&hidden).unwrap();
        let vocabulary = logits.dim(-1) as usize;
        let mut logits = values(&logits).into_iter();
        for member in members {
            found[member].extend(logits.by_ref().take(sizes[member] * vocabulary));
            done[member] += sizes[member];
        }
    }
    for (member, sequence) in sequences.iter().enumerate() {
        let alone = values(&model.logits(&row(sequence)).unwrap());
        let difference = largest_difference(&found[member], &alone);
        assert!(difference <= OTHER_STEPS, "{name}, sequence {member}: {difference}");
    }
}

#[apply(every_golden_model)]
fn documents_of_a_packed_row_have_the_logits_they_have_alone(name: &str) {
    let model = load(name).model;
    let tokens = ids(&numbers(name)["input_ids"]);
    let lengths = [11, 1, 17, 11];
    let numbers: Vec<u32> = (7..)
        .zip(lengths)
        .flat_map(|(document, length)| vec![document; length])
        .collect();
    let hidden = model.hidden_states_of_documents(&row(&tokens), &row(&numbers)).unwrap();
    let found = values(&model.output(&hidden).unwrap());
    let mut alone = Vec::new();
    let mut rest = tokens.as_slice();
    for length in lengths {
        let (document, later) = rest.split_at(length);
        alone.extend(values(&model.logits(&row(document)).unwrap()));
        rest = later;
    }
    let difference = largest_difference(&found, &alone);
    assert!(difference <= OTHER_STEPS, "{name}: {difference}");
}

#[test]
fn rows_of_a_batch_are_packed_each_in_its_own_way() {
    let model = load("gpt2").model;
    let tokens = ids(&numbers("gpt2")["input_ids"]);
    let rows = Array::from_iter(tokens.iter().map(|&id| id as i32), &[2, 20]);
    let documents = (0..40).map(|position| i32::from(position % 20 >= if position < 20 { 4 } else { 15 }));
    let documents = Array::from_iter(documents, &[2, 20]);
    let found = values(
        &model
            .output(&model.hidden_states_of_documents(&rows, &documents).unwrap())
            .unwrap(),
    );
    let mut alone = Vec::new();
    for document in [&tokens[..4], &tokens[4..20], &tokens[20..35], &tokens[35..]] {
        alone.extend(values(&model.logits(&row(document)).unwrap()));
    }
    assert!(largest_difference(&found, &alone) <= OTHER_STEPS);
}

#[test]
fn a_row_longer_than_the_learned_positions_is_refused() {
    let model = load("gpt2").model;
    let message = model.logits(&row(&[5; 97])).unwrap_err().to_string();
    assert!(
        message.contains("97 tokens are more than the 96 positions"),
        "{message}"
    );
    assert!(model.logits(&row(&[5; 96])).is_ok());
}

#[test]
fn an_answer_ends_with_the_last_learned_position() {
    let golden = numbers("gpt2");
    let prompt = ids(&golden["prompt"]);
    let limits = DecodeLimits {
        answer: 500,
        at_least: 500,
    };
    let model = load("gpt2").model;
    assert_eq!(model.learned_positions(), Some(96));
    let decoded = decode_greedily(&model, &prompt, &BTreeSet::new(), limits, &Interrupt::default()).unwrap();
    // The last position still has a token after it.
    assert_eq!(decoded.tokens.len(), 96 - prompt.len() + 1);
    let expected = ids(&golden["answer"]);
    assert_eq!(decoded.tokens[..expected.len()], expected);
    assert!(load("llama").model.learned_positions().is_none());
}

#[test]
fn numbers_of_documents_must_be_there_for_every_token() {
    let model = load("llama").model;
    let message = model
        .hidden_states_of_documents(&row(&[3, 4, 5]), &row(&[0, 0]))
        .unwrap_err();
    assert!(message.to_string().contains("every token"), "{message}");
}
