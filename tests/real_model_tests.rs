//! The engine on a real model, wherever one is.
//!
//! ```text
//! scripts/fetch-smollm2 ~/.cache/batching-rs-tests
//! cargo test --test real_model_tests --features real-models -- --ignored --nocapture
//! ```
//!
//! `SMOLLM2` names another model: a folder or a GGUF file. Without a model each case says how to fetch one and is skipped.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test that cannot go on stops, one that skips says why, and these show what the model says"
)]

#[path = "it/support/skip.rs"]
mod skip;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mlx_diagnose::device::{Backend, BackendKind, PrecisionChoice};
use mlx_diagnose::engine::{CachePrecision, CompleteAnswer, EngineSettings, Request, SchedulerLimits, SequenceCache};
use mlx_diagnose::model::{CausalModel, ModelSource, TemplateChoice};
use mlx_diagnose::serving::ServedModel;
use mlx_rs::Array;

/// Difference allowed between log-probabilities of the same computation in other steps and among others.
const LOG_PROBABILITIES: f32 = 2e-4;
/// Where the two likeliest tokens are closer than this, either may be chosen.
const NEAR_TIE: f32 = 1e-3;
/// For 50 tokens, on any machine.
const LONGEST: Duration = Duration::from_secs(30);
/// Tokens per second at least: on Metal as the documentation says, on a CPU with room for a slow one that is shared.
const METAL_RATE: f64 = 5.0;
const CPU_RATE: f64 = 2.0;

/// One case at a time: they share the processor, and one of them measures.
static TURN: Mutex<()> = Mutex::new(());
static MODEL: OnceLock<Option<ServedModel>> = OnceLock::new();

/// Where the model is: `SMOLLM2`, then the cache folder, then where `scripts/fetch-smollm2` puts it by itself.
fn source() -> Option<ModelSource> {
    let named = std::env::var_os("SMOLLM2").map(PathBuf::from);
    let cached = std::env::home_dir().map(|home| home.join(".cache/batching-rs-tests"));
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let places: Vec<PathBuf> = match &named {
        Some(named) => vec![named.clone()],
        None => cached.iter().cloned().chain([fetched]).collect(),
    };
    let found = places.iter().find_map(|place| model_in(place));
    if found.is_none() {
        let listed: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        skip::because(&format!(
            "there is no model in {}; `scripts/fetch-smollm2 ~/.cache/batching-rs-tests` fetches one, or set SMOLLM2",
            listed.join(", ")
        ));
    }
    found
}

/// A model folder, a GGUF file, or the first of either in a folder.
fn model_in(place: &Path) -> Option<ModelSource> {
    if place.is_file() {
        return Some(ModelSource::Gguf(place.to_owned()));
    }
    if place.join("config.json").is_file() {
        return Some(ModelSource::Folder(place.to_owned()));
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(place)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    entries.sort();
    let is_model =
        |path: &PathBuf| path.join("config.json").is_file() || path.extension().is_some_and(|end| end == "gguf");
    model_in(entries.iter().find(|path| is_model(path))?)
}

/// The engine that all cases share, and the right to use it alone.
fn served() -> Option<(&'static ServedModel, MutexGuard<'static, ()>)> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let served = MODEL.get_or_init(|| {
        let source = source()?;
        println!("model: {}, on {}", source.path().display(), Backend::select().name());
        let settings = EngineSettings {
            limits: SchedulerLimits {
                max_sequences: 4,
                step_tokens: 68,
                prefill_chunk: 64,
                ..EngineSettings::default().limits
            },
            ..EngineSettings::default()
        };
        let started = ServedModel::start(
            source.open().unwrap(),
            &BTreeMap::new(),
            TemplateChoice::Own,
            Backend::select(),
            settings,
        );
        Some(started.unwrap())
    });
    served.as_ref().map(|served| (served, turn))
}

fn request(served: &ServedModel, text: &str, max_tokens: usize) -> Request {
    Request {
        top_log_probabilities: Some(2),
        ..Request::greedy(served.tokenizer.encode(text, true).unwrap(), max_tokens)
    }
}

fn alone(served: &ServedModel, request: &Request) -> CompleteAnswer {
    served.engine.submit(request.clone()).unwrap().complete().unwrap()
}

/// The same tokens with the same log-probabilities, up to where two tokens were nearly as likely.
fn assert_same(name: &str, found: &CompleteAnswer, expected: &CompleteAnswer) {
    let pairs = found.log_probabilities.iter().zip(&expected.log_probabilities);
    for (index, (found_here, expected_here)) in pairs.enumerate() {
        let gap = expected_here.top[0].1 - expected_here.top[1].1;
        if found.tokens[index] != expected.tokens[index] {
            assert!(
                gap <= NEAR_TIE,
                "{name}: another token {index} though the first is ahead by {gap}"
            );
            return;
        }
        let difference = (found_here.chosen - expected_here.chosen).abs();
        assert!(
            difference <= LOG_PROBABILITIES,
            "{name}: token {index} differs by {difference}"
        );
    }
    assert_eq!(found.tokens, expected.tokens, "{name}");
}

#[test]
#[ignore = "needs a real model"]
fn test_real_model_single_generation() {
    let Some((served, _turn)) = served() else { return };
    let request = request(served, "Hello, my name is", 20);
    let answer = alone(served, &request);
    println!("prompt ids: {:?}", request.prompt);
    println!("answer ids: {:?}", answer.tokens);
    println!("Hello, my name is{}", answer.text);
    assert_eq!(answer.tokens.len(), 20);
    assert_eq!(answer.text, served.tokenizer.decode(&answer.tokens, true).unwrap());
    assert!(
        answer.text.chars().any(char::is_alphabetic),
        "no words in `{}`",
        answer.text
    );
}

#[test]
#[ignore = "needs a real model"]
fn test_real_model_batch_generation() {
    let Some((served, _turn)) = served() else { return };
    let prompts = ["The capital of France is", "Once upon a time", "In the year 2050,"];
    let requests = prompts.map(|prompt| request(served, prompt, 15));
    let together = requests.clone().map(|request| served.engine.submit(request).unwrap());
    let together = together.map(|answer| answer.complete().unwrap());
    for ((prompt, request), answer) in prompts.iter().zip(&requests).zip(&together) {
        println!("{prompt}{}", answer.text);
        assert_eq!(answer.tokens.len(), 15);
        assert_same(prompt, answer, &alone(served, request));
    }
    assert!(
        together[0].text.contains("Paris"),
        "the capital of France is{}",
        together[0].text
    );
}

#[test]
#[ignore = "needs a real model"]
fn test_real_model_continuous_batching() {
    let Some((served, _turn)) = served() else { return };
    let early = request(served, "The meaning of life is", 20);
    let late = request(served, "Artificial intelligence will", 10);
    let first = served.engine.submit(early.clone()).unwrap();
    let mut second = None;
    let mut steps = 0;
    let first_id = first.ticket().id();
    let first = first
        .complete_with(|_| {
            steps += 1;
            if steps == 5 {
                second = Some(served.engine.submit(late.clone()).unwrap());
            }
        })
        .unwrap();
    let second = second.unwrap();
    let second_id = second.ticket().id();
    let second = second.complete().unwrap();
    println!("The meaning of life is{}", first.text);
    println!("Artificial intelligence will{}", second.text);
    assert_same("early", &first, &alone(served, &early));
    assert_same("late", &second, &alone(served, &late));
    let trace = served.engine.trace().unwrap();
    let joined = trace.iter().find(|plan| plan.admitted.contains(&second_id)).unwrap();
    assert!(
        joined.decode.contains(&first_id),
        "the first did not go on while the second joined"
    );
    let shared = trace
        .iter()
        .filter(|plan| plan.decode.contains(&first_id) && plan.decode.contains(&second_id));
    assert!(shared.count() >= 5, "they did not run together");
}

#[test]
#[ignore = "needs a real model"]
fn test_metal_gpu_performance() {
    let Some((served, _turn)) = served() else { return };
    alone(served, &request(served, "Hello", 2));
    let begun = Instant::now();
    let answer = alone(served, &request(served, "The history of the sea begins", 50));
    let seconds = begun.elapsed();
    let rate = 50.0 / seconds.as_secs_f64();
    let backend = Backend::select();
    println!("50 tokens in {seconds:.2?}: {rate:.1} tokens/s on {}", backend.name());
    assert_eq!(answer.tokens.len(), 50);
    assert!(seconds < LONGEST, "{seconds:?}");
    let least = if backend.kind == BackendKind::Metal {
        METAL_RATE
    } else {
        CPU_RATE
    };
    assert!(rate > least, "{rate} tokens/s");
}

#[test]
#[ignore = "needs a real model"]
fn test_sixty_four_prompts_that_join_leave_and_are_cancelled_are_answered_as_alone() {
    let Some((served, _turn)) = served() else { return };
    let words = [
        "sea",
        "the old house",
        "a list of seven colours:",
        "why do birds sing?",
        "3 + 4 =",
    ];
    let requests: Vec<Request> = (0..64)
        .map(|index| {
            let text = format!("{} {}", index * 37 % 64, words[index % 5].repeat(1 + index % 7));
            request(served, &text, 1 + index * 5 % 12)
        })
        .collect();
    let asked: Vec<_> = requests
        .iter()
        .map(|request| served.engine.submit(request.clone()).unwrap())
        .collect();
    let answers: Vec<CompleteAnswer> = asked
        .into_iter()
        .enumerate()
        .map(|(index, answer)| {
            if index % 6 == 5 {
                answer.ticket().cancel();
            }
            answer.complete().unwrap()
        })
        .collect();
    for (index, (request, answer)) in requests.iter().zip(&answers).enumerate() {
        let mut expected = alone(served, request);
        expected.tokens.truncate(answer.tokens.len());
        expected.log_probabilities.truncate(answer.tokens.len());
        assert_same(&format!("prompt {index}"), answer, &expected);
    }
}

/// A model of its own, since the engine's is on the engine's thread.
fn loaded() -> Option<CausalModel> {
    let backend = Backend::select();
    let files = source()?.open().unwrap();
    let configuration = files.configuration().unwrap();
    let precision = backend.precision(&configuration, PrecisionChoice::default());
    Some(files.load(configuration, precision).unwrap().model)
}

fn row(tokens: &[u32]) -> Array {
    Array::from_slice(tokens, &[1, tokens.len() as i32])
}

/// The log-probabilities after the last of the tokens.
fn last_log_probabilities(model: &CausalModel, hidden: &Array) -> Vec<f32> {
    let tokens = hidden.dim(1);
    let last = hidden.take_axis(Array::from_slice(&[tokens - 1], &[1]), 1).unwrap();
    let logits = model.output(&last).unwrap().as_dtype(mlx_rs::Dtype::Float32).unwrap();
    let logits = logits.contiguous().unwrap().to_vec_exact::<f32>().unwrap();
    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    logits
        .iter()
        .map(|logit| (f64::from(*logit) - total.ln()) as f32)
        .collect()
}

fn largest_difference(one: &[f32], other: &[f32]) -> f32 {
    one.iter()
        .zip(other)
        .map(|(one, other)| (one - other).abs())
        .fold(0.0, f32::max)
}

#[test]
#[ignore = "needs a real model"]
fn test_cached_logits_are_the_uncached_ones_at_n_n_plus_1_and_2_n() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(model) = loaded() else { return };
    let n = 24;
    let tokens: Vec<u32> = (0..2 * n as u32).map(|index| 40 + index * 131 % 2000).collect();
    let mut cache = SequenceCache::new(&model, CachePrecision::Whole);
    let mut read = 0;
    for end in [n, n + 1, 2 * n] {
        let piece = &tokens[read..end];
        let continued = vec![cache.continued(piece.len() as i32)];
        let cached = model.hidden_states_of_sequences(&row(piece), continued).unwrap();
        let whole = model.hidden_states(&row(&tokens[..end])).unwrap();
        let difference = largest_difference(
            &last_log_probabilities(&model, &cached),
            &last_log_probabilities(&model, &whole),
        );
        println!("after {end} tokens: {difference:.1e}");
        assert!(difference <= LOG_PROBABILITIES, "after {end} tokens: {difference}");
        read = end;
    }
}

#[test]
#[ignore = "needs a real model"]
fn test_a_prompt_in_chunks_of_every_size_has_the_same_logits() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(model) = loaded() else { return };
    let tokens: Vec<u32> = (0..32_u32).map(|index| 40 + index * 131 % 2000).collect();
    let whole = last_log_probabilities(&model, &model.hidden_states(&row(&tokens)).unwrap());
    for size in 1..tokens.len() {
        let mut cache = SequenceCache::new(&model, CachePrecision::Whole);
        let mut last = None;
        for piece in tokens.chunks(size) {
            let continued = vec![cache.continued(piece.len() as i32)];
            last = Some(model.hidden_states_of_sequences(&row(piece), continued).unwrap());
        }
        let found = last_log_probabilities(&model, &last.unwrap());
        let difference = largest_difference(&found, &whole);
        assert!(difference <= LOG_PROBABILITIES, "chunks of {size}: {difference}");
    }
}
