//! The kernels that every run goes through, one by one, on the embedded model and on made-up numbers of SmolLM2's size:
//! `cargo bench --bench kernels`, with a part of a name for some of them.

#![allow(
    clippy::expect_used,
    missing_docs,
    reason = "a benchmark that cannot go on stops; criterion's macro makes a public function"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::PathBuf;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mlx_diagnose::adapter::{LoraSettings, attach};
use mlx_diagnose::data::{Batch, Example};
use mlx_diagnose::device::{Backend, PrecisionChoice};
use mlx_diagnose::engine::{RequestId, Sampler, SamplingSettings, Scheduler, SchedulerLimits, SequenceDemand};
use mlx_diagnose::model::{LoadedModel, Message, ModelSource, Tokenizer};
use mlx_diagnose::param_diff::compare;
use mlx_diagnose::param_snapshot::ParameterSnapshot;
use mlx_diagnose::train::{loss_and_gradients, mean_loss};
use mlx_rs::Array;
use mlx_rs::module::update_parameters;
use mlx_rs::transforms::eval;

/// Rows and tokens of the batch whose loss is computed.
const BATCH: (usize, usize) = (4, 128);
/// SmolLM2's vocabulary.
const VOCABULARY: usize = 49_152;
/// Sequences that the scheduler plans for.
const SEQUENCES: u64 = 64;
const TEXT: &str =
    "The keeper counts the boats at dusk, and writes the number of those that are still out into his book. ";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/embedded/model")
}

fn adapted() -> LoadedModel {
    let files = ModelSource::Folder(folder()).open().expect("the model is there");
    let configuration = files.configuration().expect("the model has a configuration");
    let precision = Backend::select().precision(&configuration, PrecisionChoice::default());
    let mut loaded = files.load(configuration, precision).expect("the model loads");
    attach(&mut loaded.model, &LoraSettings::default(), 0).expect("adapters fit");
    loaded
}

fn loss(criterion: &mut Criterion) {
    let model = adapted().model;
    let lanes = Backend::select().lanes();
    let (rows, tokens) = BATCH;
    let examples: Vec<Example> = (0..rows)
        .map(|row| Example::of_tokens((0..=tokens).map(|place| (row * 31 + place * 7) as u32 % 200).collect()))
        .collect();
    let batch = Batch::new(&examples, &[0, 1, 2, 3]);
    let mut group = criterion.benchmark_group("loss");
    group.throughput(Throughput::Elements((rows * tokens) as u64));
    group.bench_function("forward", |bencher| {
        bencher.iter(|| mean_loss(&model, &batch, &lanes).expect("the loss is computed"));
    });
    group.bench_function("forward and backward", |bencher| {
        bencher.iter(|| {
            let pass = loss_and_gradients(&model, &batch, &lanes).expect("the loss is computed");
            eval(pass.gradients.values().chain([&pass.loss])).expect("MLX computes");
        });
    });
    group.finish();
}

fn snapshot(criterion: &mut Criterion) {
    let mut loaded = adapted();
    let before = ParameterSnapshot::capture(&loaded.model);
    let moved: Vec<(std::rc::Rc<str>, Array)> = before
        .parameters()
        .iter()
        .map(|(name, value)| (name.as_str().into(), value + Array::from_f32(1.0)))
        .collect();
    eval(moved.iter().map(|(_, value)| value)).expect("MLX computes");
    update_parameters(&mut loaded.model, moved);
    let after = ParameterSnapshot::capture(&loaded.model);
    let mut group = criterion.benchmark_group("snapshot");
    group.bench_function("capture", |bencher| {
        bencher.iter(|| ParameterSnapshot::capture(black_box(&loaded.model)));
    });
    // Two snapshots of f32 are read.
    group.throughput(Throughput::Bytes(8 * after.values()));
    group.bench_function("diff", |bencher| {
        bencher.iter(|| compare(&before, &after).expect("the snapshots are compared"));
    });
    group.finish();
}

fn sampler(criterion: &mut Criterion) {
    let logits: Vec<f32> = (0..VOCABULARY)
        .map(|place| (place * 37 % 1009) as f32 / 100.0)
        .collect();
    let so_far: Vec<u32> = (0..20).collect();
    let filtered = SamplingSettings {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.9,
        seed: Some(0),
        ..SamplingSettings::default()
    };
    let penalised = SamplingSettings {
        repetition_penalty: 1.1,
        min_p: 0.05,
        ..filtered.clone()
    };
    let mut group = criterion.benchmark_group("sampler");
    group.throughput(Throughput::Elements(VOCABULARY as u64));
    for (name, settings) in [
        ("greedy", SamplingSettings::default()),
        ("top-k and top-p", filtered),
        ("penalty and min-p", penalised),
    ] {
        let mut sampler = Sampler::new(settings, None, 0);
        group.bench_function(name, |bencher| {
            bencher.iter(|| sampler.sample(black_box(&logits), &so_far).expect("a token is drawn"));
        });
    }
    group.finish();
}

fn scheduler(criterion: &mut Criterion) {
    let limits = SchedulerLimits {
        max_sequences: 16,
        step_tokens: 528,
        prefill_chunk: 512,
        cache_tokens: 1 << 16,
        max_waiting: 256,
        max_overtakings: 16,
    };
    let demand = |number: u64| SequenceDemand {
        prompt_tokens: 100 + 20 * (number as usize % 16),
        max_tokens: 64,
        already_cached: 0,
        priority: number as i32 % 3,
    };
    let filled = || {
        let mut scheduler = Scheduler::new(limits).expect("the limits hold");
        for number in 0..SEQUENCES {
            scheduler
                .submit(RequestId(number), demand(number))
                .expect("there is room to wait");
        }
        scheduler
    };
    let mut group = criterion.benchmark_group("scheduler");
    group.throughput(Throughput::Elements(SEQUENCES));
    group.bench_function("64 sequences from their prompts to their ends", |bencher| {
        bencher.iter_batched(filled, run_to_the_end, BatchSize::SmallInput);
    });
    group.finish();
}

/// Plans steps until nothing runs; each sequence ends after its 64th token.
fn run_to_the_end(mut scheduler: Scheduler) -> u64 {
    const TOKENS: usize = 64;
    let mut decoded: BTreeMap<RequestId, usize> = BTreeMap::new();
    loop {
        let plan = scheduler.plan();
        if plan.is_idle() {
            return plan.step;
        }
        for id in plan.decode {
            let tokens = decoded.entry(id).or_default();
            *tokens += 1;
            if *tokens == TOKENS {
                scheduler.finish(id);
            }
        }
    }
}

fn template(criterion: &mut Criterion) {
    let tokenizer = Tokenizer::from_folder(&folder()).expect("the tokenizer is there");
    let messages: Vec<Message> = (0..8)
        .map(|turn| Message::new(if turn % 2 == 0 { "user" } else { "assistant" }, TEXT))
        .collect();
    criterion.bench_function("chat template, 8 messages", |bencher| {
        bencher.iter(|| {
            tokenizer
                .render_chat(black_box(&messages), None, true)
                .expect("the template renders")
        });
    });
}

fn tokenizer(criterion: &mut Criterion) {
    let tokenizer = Tokenizer::from_folder(&folder()).expect("the tokenizer is there");
    let text = TEXT.repeat(40);
    let tokens = tokenizer.encode(&text, false).expect("the text has tokens");
    let mut group = criterion.benchmark_group("tokenizer");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| tokenizer.encode(black_box(&text), false).expect("the text has tokens"));
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            tokenizer
                .decode(black_box(&tokens), false)
                .expect("the tokens have a text")
        });
    });
    group.finish();
}

criterion_group!(benches, loss, snapshot, sampler, scheduler, template, tokenizer);
criterion_main!(benches);
