//! The continuous-batching engine: what it says to many is what the model says to each.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use mlx_diagnose::adapter::{LoraSettings, attach};
use mlx_diagnose::engine::{
    AnswerError, CachePrecision, CompleteAnswer, Engine, EngineModel, EngineSettings, Event, FinishReason, Refusal,
    Request, SamplingSettings, SchedulerLimits, StartError, SubmitError,
};
use mlx_diagnose::model::{CausalModel, ModelSource, Tokenizer};
use mlx_rs::Array;
use mlx_rs::module::Param;
use rstest::rstest;
use rstest_reuse::apply;

use crate::integration::architecture_parity::{GOLDEN_MODELS, every_golden_model, load};
use crate::support::golden::{EXACT_PRECISION, root, row};

/// Difference allowed between log-probabilities of the same computation in other steps and among others: products of
/// another shape sum in another order.
const LOG_PROBABILITIES: f32 = 2e-4;
/// Where the two likeliest tokens are closer than this, either may be chosen.
const NEAR_TIE: f32 = 1e-3;
/// Long enough for any test on a busy machine.
const SOON: Duration = Duration::from_mins(1);

const LIMITS: SchedulerLimits = SchedulerLimits {
    max_sequences: 6,
    step_tokens: 24,
    prefill_chunk: 11,
    cache_tokens: 400,
    max_waiting: 256,
    max_overtakings: 16,
};

fn settings(limits: SchedulerLimits) -> EngineSettings {
    EngineSettings {
        limits,
        ..EngineSettings::default()
    }
}

fn embedded() -> ModelSource {
    ModelSource::Folder(root().join("fixtures/embedded/model"))
}

fn embedded_tokenizer() -> Arc<Tokenizer> {
    Arc::new(embedded().open().unwrap().tokenizer().unwrap())
}

/// An engine on `model`, which is made on the engine's thread.
fn engine(settings: EngineSettings, model: impl FnOnce() -> CausalModel + Send + 'static) -> Engine {
    let started = Engine::start(settings, move || {
        Ok::<_, Infallible>(EngineModel {
            base: model(),
            adapters: BTreeMap::new(),
            tokenizer: embedded_tokenizer(),
            context: 64,
        })
    });
    started.unwrap()
}

fn embedded_model() -> CausalModel {
    embedded().load(EXACT_PRECISION).unwrap().model
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        top_log_probabilities: Some(2),
        ..Request::greedy(prompt.to_vec(), max_tokens)
    }
}

/// Prompts of 1 to 40 tokens, each with 1 to 20 to generate and, for every fifth, the tokens after which it is cancelled.
fn requests(count: usize, vocabulary: u32) -> Vec<(Request, Option<usize>)> {
    let mut state = 6_u64;
    // Knuth's constants (The Art of Computer Programming, volume 2, 3.3.4); the high bits are the better ones.
    let mut below = |limit: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    (0..count)
        .map(|index| {
            let prompt: Vec<u32> = (0..=below(40)).map(|_| below(vocabulary.into()) as u32).collect();
            let request = request(&prompt, 1 + below(20) as usize);
            let cancelled = (index % 5 == 4).then(|| below(6) as usize);
            (request, cancelled)
        })
        .collect()
}

/// The answers to `requests`, which all wait from the beginning and join as others leave or are cancelled.
fn answers(engine: &Engine, requests: &[(Request, Option<usize>)]) -> Vec<CompleteAnswer> {
    let asked: Vec<_> = requests
        .iter()
        .map(|(request, cancelled)| (engine.submit(request.clone()).unwrap(), *cancelled))
        .collect();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = asked
            .into_iter()
            .map(|(answer, cancelled)| {
                scope.spawn(move || {
                    let mut left = cancelled;
                    let seen = |event: &Event| {
                        if matches!(event, Event::Token(_)) {
                            left = left.and_then(|left| {
                                if left == 0 {
                                    answer.ticket().cancel();
                                }
                                left.checked_sub(1)
                            });
                        }
                    };
                    answer.complete_with(seen).unwrap()
                })
            })
            .collect();
        waiting.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// The log-probabilities `[tokens][vocabulary]` that `model` gives after each token, without a cache.
fn uncached(model: &CausalModel, tokens: &[u32]) -> Vec<Vec<f32>> {
    let logits = model.logits(&row(tokens)).unwrap();
    let vocabulary = logits.dim(-1) as usize;
    let values = logits.contiguous().unwrap().to_vec_exact::<f32>().unwrap();
    let normalised = values.chunks(vocabulary).map(|logits| {
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        logits
            .iter()
            .map(|logit| (f64::from(*logit) - total.ln()) as f32)
            .collect()
    });
    normalised.collect()
}

/// Every token of `answer` is one that `model` puts first, with the log-probability that it gives it.
fn assert_is_what_the_model_says(
    name: &str,
    model: &CausalModel,
    request: &Request,
    answer: &CompleteAnswer,
    allowed: f32,
) {
    let tokens = [&request.prompt[..], &answer.tokens].concat();
    let expected = uncached(model, &tokens);
    assert_eq!(answer.tokens.len(), answer.log_probabilities.len());
    for (index, (token, found)) in answer.tokens.iter().zip(&answer.log_probabilities).enumerate() {
        let row = &expected[request.prompt.len() - 1 + index];
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let own = row[*token as usize];
        assert!(
            largest - own <= NEAR_TIE,
            "{name}, token {index}: {own} is chosen, {largest} is there"
        );
        assert!(
            (found.chosen - own).abs() <= allowed,
            "{name}, token {index}: {} and {own}",
            found.chosen
        );
        for (id, reported) in &found.top {
            assert!(
                (reported - row[*id as usize]).abs() <= allowed,
                "{name}, token {index}: {reported}"
            );
        }
    }
}

#[apply(every_golden_model)]
fn what_many_are_told_is_what_each_would_be_told(name: &'static str) {
    let model = load(name).model;
    let requests = requests(64, model.model.embed_tokens.vocabulary_size() as u32);
    let engine = engine(settings(LIMITS), move || load(name).model);
    let answers = answers(&engine, &requests);
    let mut cancelled = 0;
    for ((request, wish), answer) in requests.iter().zip(&answers) {
        assert_is_what_the_model_says(name, &model, request, answer, LOG_PROBABILITIES);
        match answer.finished.reason {
            FinishReason::Length => assert_eq!(answer.tokens.len(), request.max_tokens),
            FinishReason::Cancelled => {
                assert!(wish.is_some());
                cancelled += 1;
            }
            FinishReason::Stop => panic!("nothing stops these"),
        }
    }
    // Asked of the engine's thread, so that what it counts behind the last answer is counted.
    let batches = engine.trace().unwrap();
    let statistics = engine.statistics();
    assert_eq!(
        (statistics.requests, statistics.finished, statistics.cancelled),
        (64, 64 - cancelled, cancelled)
    );
    assert_eq!(
        (statistics.running, statistics.waiting, statistics.cache_bytes),
        (0, 0, 0)
    );
    assert_eq!(engine.outstanding(), 0);
    assert!(batches.iter().any(|plan| plan.decode.len() >= 4), "no step served many");
    assert!(
        batches
            .iter()
            .any(|plan| !plan.decode.is_empty() && !plan.prefill.is_empty())
    );
}

/// Steps large enough to be dealt out to lanes, which cut prompts wherever one of them is full.
#[rstest]
fn prompts_that_are_read_on_two_lanes_have_the_same_answers(
    #[values("llama", "mistral", "gemma3_text", "mixtral", "gpt2")] name: &'static str,
) {
    let model = load(name).model;
    let requests = requests(48, model.model.embed_tokens.vocabulary_size() as u32);
    let large = SchedulerLimits {
        max_sequences: 16,
        step_tokens: 150,
        prefill_chunk: 64,
        cache_tokens: 2000,
        ..LIMITS
    };
    let lanes = EngineSettings {
        lanes: 2,
        ..settings(large)
    };
    let engine = engine(lanes, move || load(name).model);
    for ((request, _), answer) in requests.iter().zip(answers(&engine, &requests)) {
        assert_is_what_the_model_says(name, &model, request, &answer, LOG_PROBABILITIES);
    }
    let trace = engine.trace().unwrap();
    assert!(trace.iter().any(|plan| plan.tokens() > 100 && plan.prefill.len() > 2));
}

/// Run by the next test in a process of its own, since it changes how every product in the process is summed.
#[test]
#[ignore = "run by another test"]
fn bits_alone_and_among_others() {
    mlx_sys::blas::set_in_order(true);
    for name in GOLDEN_MODELS {
        // A prompt is read at once: where it is cut decides how its softmax is summed.
        let whole = SchedulerLimits {
            step_tokens: 512,
            prefill_chunk: 64,
            ..LIMITS
        };
        let one = SchedulerLimits {
            max_sequences: 1,
            ..whole
        };
        let requests = requests(64, load(name).model.model.embed_tokens.vocabulary_size() as u32);
        let together = answers(&engine(settings(whole), move || load(name).model), &requests);
        let alone = engine(settings(one), move || load(name).model);
        for ((request, _), among) in requests.iter().zip(together) {
            let mut answer = alone.submit(request.clone()).unwrap().complete().unwrap();
            answer.tokens.truncate(among.tokens.len());
            answer.log_probabilities.truncate(among.tokens.len());
            assert_eq!(answer.tokens, among.tokens, "{name}");
            assert_eq!(answer.log_probabilities, among.log_probabilities, "{name}");
        }
    }
}

#[test]
fn with_a_fixed_order_of_summation_an_answer_has_the_same_bits_alone_and_among_others() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "engine::batching::bits_alone_and_among_others", "--ignored"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("1 passed"), "{text}");
}

#[rstest]
#[case::eight_bits(8, 2e-2)]
#[case::four_bits(4, 0.5)]
fn packed_keys_and_values_say_nearly_the_same_in_less_memory(#[case] bits: i32, #[case] allowed: f32) {
    let model = embedded_model();
    let packed_precision = CachePrecision::Packed { group_size: 32, bits };
    let asked = requests(12, model.model.embed_tokens.vocabulary_size() as u32);
    let held = |cache_precision| {
        let own = EngineSettings {
            cache_precision,
            ..settings(LIMITS)
        };
        let engine = engine(own, embedded_model);
        let answer = engine.submit(request(&asked[0].0.prompt, 20)).unwrap();
        let mut held = 0;
        let complete = answer
            .complete_with(|_| held = held.max(engine.statistics().cache_bytes))
            .unwrap();
        (held, complete)
    };
    let (whole_bytes, whole) = held(CachePrecision::Whole);
    let (packed_bytes, packed) = held(packed_precision);
    // A group of 32 values has a scale and a bias of four bytes each.
    let expected = whole_bytes * (bits as usize * 32 / 8 + 8) / (32 * 4);
    assert_eq!(packed_bytes, expected);
    let (first, other) = (&whole.log_probabilities[0], &packed.log_probabilities[0]);
    assert!(
        (first.chosen - other.chosen).abs() <= allowed,
        "{} and {}",
        first.chosen,
        other.chosen
    );
    assert_ne!(whole.log_probabilities, packed.log_probabilities);
}

#[test]
fn prompts_that_begin_alike_are_computed_once() {
    let model = embedded_model();
    let engine = engine(
        EngineSettings {
            prefix_bytes: 1 << 24,
            ..settings(LIMITS)
        },
        embedded_model,
    );
    let system: Vec<u32> = (10..40).collect();
    let prompts = [
        [&system[..], &[50, 51]].concat(),
        [&system[..], &[60, 61, 62]].concat(),
        system.clone(),
    ];
    let mut reused = Vec::new();
    for prompt in prompts.iter().chain(&prompts) {
        let request = request(prompt, 8);
        let answer = engine.submit(request.clone()).unwrap().complete().unwrap();
        assert_is_what_the_model_says("embedded", &model, &request, &answer, LOG_PROBABILITIES);
        reused.push(answer.finished.usage.reused_tokens);
    }
    // The last token of a prompt is always computed, since its logits are needed.
    assert_eq!(reused, [0, 30, 29, 31, 32, 29]);
    assert_eq!(engine.statistics().reused_tokens, 151);
    assert!((1..=1 << 24).contains(&engine.statistics().prefix_bytes));
}

/// What an adapter changes of a model.
#[derive(Debug, Clone, Copy)]
enum Adaptation {
    Linears,
    /// As DoRA does, with a factor on each output.
    LinearsWithFactors,
    /// A layer that is no linear one.
    EmbeddingToo,
}

fn adapted(name: &str, adaptation: Adaptation) -> CausalModel {
    let mut model = load(name).model;
    let mut settings = LoraSettings {
        rank: 4,
        scale: 2.0,
        ..LoraSettings::default()
    };
    if matches!(adaptation, Adaptation::EmbeddingToo) {
        settings.keys = vec!["self_attn.q_proj".to_owned(), "model.embed_tokens".to_owned()];
    }
    attach(&mut model, &settings, adaptation as u64).unwrap();
    let moved = |shape: &[i32], index: u64| {
        let key = mlx_rs::random::key(100 * adaptation as u64 + index).unwrap();
        let moved = mlx_rs::random::normal::<f32>(shape, None, Some(0.1), Some(&key)).unwrap();
        moved.eval().unwrap();
        Param::new(Some(moved))
    };
    let table = &mut model.model.embed_tokens;
    if let Some(lora_b) = &table.lora_b.value {
        table.lora_b = moved(lora_b.shape(), 99);
    }
    for (index, (_, linear)) in (0..).zip(model.linears_mut()) {
        if let Some(lora_b) = &linear.lora_b.value {
            linear.lora_b = moved(lora_b.shape(), index);
            if matches!(adaptation, Adaptation::LinearsWithFactors) {
                let factors = Array::from_slice(&vec![1.25_f32; linear.shape().0 as usize], &[linear.shape().0]);
                linear.output_factors = Some(factors);
            }
        }
    }
    model
}

/// Tenants of one base in the same steps; qwen2 has biases, which come behind the factors.
#[rstest]
fn every_request_is_answered_with_its_own_adapter(#[values("llama", "qwen2")] name: &'static str) {
    let tenants = [
        ("linears", Adaptation::Linears),
        ("factors", Adaptation::LinearsWithFactors),
        ("embedding", Adaptation::EmbeddingToo),
    ];
    let engine = Engine::start(settings(LIMITS), move || {
        let adapters = tenants.map(|(own, adaptation)| (own.to_owned(), adapted(name, adaptation)));
        Ok::<_, Infallible>(EngineModel {
            base: load(name).model,
            adapters: adapters.into(),
            tokenizer: embedded_tokenizer(),
            context: 64,
        })
    })
    .unwrap();
    let base = load(name).model;
    let models = tenants.map(|(own, adaptation)| (Some(own), adapted(name, adaptation)));
    let models: Vec<(Option<&str>, CausalModel)> = std::iter::once((None, base)).chain(models).collect();
    let requests = requests(24, models[0].1.model.embed_tokens.vocabulary_size() as u32);
    let asked: Vec<(Request, Option<usize>)> = requests
        .into_iter()
        .enumerate()
        .map(|(index, (request, _))| {
            let adapter = models[index * 7 % 4].0.map(str::to_owned);
            (Request { adapter, ..request }, None)
        })
        .collect();
    let answers = answers(&engine, &asked);
    for ((request, _), answer) in asked.iter().zip(&answers) {
        let (_, model) = models
            .iter()
            .find(|(own, _)| *own == request.adapter.as_deref())
            .unwrap();
        assert_is_what_the_model_says(name, model, request, answer, LOG_PROBABILITIES);
    }
    let unknown = Request {
        adapter: Some("linear".to_owned()),
        ..request(&[1, 2], 1)
    };
    let error = engine.submit(unknown).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no adapter `linear`\n  found: embedding, factors, linears\n  hint: did you mean `linears`?"
    );
}

#[test]
fn an_answer_ends_at_its_stop_token_and_at_its_stop_string() {
    let engine = engine(settings(LIMITS), embedded_model);
    let prompt: Vec<u32> = (20..30).collect();
    let whole = engine.submit(request(&prompt, 20)).unwrap().complete().unwrap();
    let at = 1 + whole.tokens[1..]
        .iter()
        .position(|token| *token != whole.tokens[0])
        .unwrap();
    let by_token = Request {
        stop_ids: [whole.tokens[at]].into(),
        ..request(&prompt, 20)
    };
    let answer = engine.submit(by_token).unwrap().complete().unwrap();
    assert_eq!(answer.tokens, whole.tokens[..at]);
    assert_eq!(answer.finished.stop_token, Some(whole.tokens[at]));
    assert_eq!(answer.finished.reason, FinishReason::Stop);
    assert_eq!(answer.finished.usage.generated_tokens, at + 1);
    let middle = whole
        .text
        .char_indices()
        .map(|(place, _)| place)
        .nth(whole.text.chars().count() / 2)
        .unwrap();
    let stop: String = whole.text[middle..].chars().take(3).collect();
    let by_text = Request {
        stop_strings: vec![stop.clone()],
        ..request(&prompt, 20)
    };
    let answer = engine.submit(by_text).unwrap().complete().unwrap();
    assert_eq!(answer.text, whole.text[..whole.text.find(&stop).unwrap()]);
    assert_eq!(answer.finished.reason, FinishReason::Stop);
}

#[test]
fn the_same_seed_draws_the_same_tokens_whatever_else_runs() {
    let drawn = |seed: u64, others: usize| {
        let engine = engine(settings(LIMITS), embedded_model);
        let warm = SamplingSettings {
            temperature: 1.0,
            seed: Some(seed),
            ..SamplingSettings::default()
        };
        let others: Vec<_> = (0..others)
            .map(|_| engine.submit(request(&[5, 6], 20)).unwrap())
            .collect();
        let own = Request {
            sampling: warm,
            ..request(&[20, 21, 22], 20)
        };
        let answer = engine.submit(own).unwrap().complete().unwrap();
        drop(others);
        answer.tokens
    };
    assert_eq!(drawn(3, 0), drawn(3, 5));
    assert_ne!(drawn(3, 0), drawn(4, 0));
}

/// Its own prompt takes two steps; all the others go on decoding in each of them.
#[test]
fn a_late_joiner_has_its_first_token_after_its_own_prefill_and_at_most_two_steps() {
    let engine = engine(settings(LIMITS), embedded_model);
    let early: Vec<_> = (0..5)
        .map(|_| engine.submit(request(&[7, 8, 9], 40)).unwrap())
        .collect();
    for answer in &early {
        assert!(matches!(answer.next_event().unwrap(), Event::Token(_)));
    }
    let late = engine.submit(request(&(10..28).collect::<Vec<u32>>(), 3)).unwrap();
    let id = late.ticket().id();
    let usage = late.complete().unwrap().finished.usage;
    assert_eq!(usage.reused_tokens, 0);
    let trace = engine.trace().unwrap();
    let joined = trace.iter().position(|plan| plan.admitted.contains(&id)).unwrap();
    let first = trace
        .iter()
        .position(|plan| plan.prefill.iter().any(|chunk| chunk.id == id && chunk.is_last));
    assert_eq!(first.unwrap() - joined, 1, "18 tokens in chunks of 11 are two steps");
    for plan in &trace[joined..=first.unwrap()] {
        assert!(!plan.decode.is_empty(), "the others waited for the prompt");
    }
}

#[test]
fn what_cannot_be_answered_is_refused_with_why() {
    let engine = engine(settings(LIMITS), embedded_model);
    let long: Vec<u32> = vec![5; 60];
    let error = engine.submit(request(&long, 10)).unwrap_err();
    assert!(matches!(error, SubmitError::Invalid(_)), "{error}");
    assert!(error.to_string().contains("64 or fewer together"), "{error}");
    let small = SchedulerLimits {
        cache_tokens: 30,
        max_sequences: 1,
        max_waiting: 2,
        ..LIMITS
    };
    let engine = self::engine(settings(small), embedded_model);
    let error = engine.submit(request(&long[..20], 11)).unwrap_err();
    assert!(
        matches!(error, SubmitError::Refused(Refusal::NeverFits { .. })),
        "{error}"
    );
    let held: Vec<_> = (0..3).map(|_| engine.submit(request(&[5], 29)).unwrap()).collect();
    let busy = engine.submit(request(&[5], 29));
    assert!(
        matches!(busy, Err(SubmitError::Refused(Refusal::QueueFull { waiting: 2 }))),
        "{busy:?}"
    );
    for answer in held {
        assert_eq!(answer.complete().unwrap().tokens.len(), 29);
    }
    assert!(engine.submit(request(&[5], 1)).is_ok());
}

#[test]
fn an_answer_that_nobody_waits_for_is_cancelled() {
    let engine = engine(settings(LIMITS), embedded_model);
    let answer = engine.submit(request(&[5, 6], 60)).unwrap();
    assert!(matches!(answer.next_event().unwrap(), Event::Token(_)));
    drop(answer);
    let begun = std::time::Instant::now();
    while engine.outstanding() > 0 {
        assert!(begun.elapsed() < SOON, "the request goes on");
        std::thread::sleep(Duration::from_millis(1));
    }
    let statistics = engine.statistics();
    assert_eq!((statistics.cancelled, statistics.finished), (1, 0));
}

#[test]
fn logits_that_are_not_finite_end_the_answer_and_not_the_engine() {
    let engine = engine(settings(LIMITS), || {
        let mut model = embedded_model();
        let table = &mut model.model.embed_tokens.weight;
        // Token 9 has no finite vector; other prompts do not meet it.
        let shape = [table.dim(0), 1];
        let broken: Vec<f32> = (0..shape[0]).map(|id| if id == 9 { f32::NAN } else { 1.0 }).collect();
        table.value = table.value.multiply(Array::from_slice(&broken, &shape)).unwrap();
        model
    });
    // The output layer is the embedding: every row of logits has the broken one.
    let error = engine.submit(request(&[5, 6], 3)).unwrap().complete().unwrap_err();
    assert_eq!(error, AnswerError::NotFinite { tokens: 2 });
    engine.trace().unwrap();
    assert_eq!(engine.statistics().failed, 1);
    assert!(engine.submit(request(&[5, 6], 3)).is_ok());
}

#[test]
fn a_model_that_cannot_be_loaded_and_an_engine_without_room_are_told() {
    let error = Engine::start(settings(LIMITS), || Err("no such model")).unwrap_err();
    assert!(matches!(&error, StartError::Load("no such model")), "{error}");
    let none = SchedulerLimits {
        max_sequences: 0,
        ..LIMITS
    };
    let error = Engine::start(settings(none), || Err::<EngineModel, _>("not asked")).unwrap_err();
    assert!(matches!(&error, StartError::Limits(_)), "{error}");
}
