//! How fast the engine reads prompts and decodes, alone and for several requests at one time.
//!
//! ```text
//! cargo run --release --example engine-throughput -- MODEL [REPEATS] [CHUNK]
//! ```
//!
//! Prints one line of JSON: tokens per second, the median of the repeats. Prompts are made-up tokens, and nothing stops an
//! answer, so that every run does the same work; `scripts/peers/engine_throughput.py` asks mlx-lm for the same.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a command line tool prints what it measured"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use mlx_diagnose::device::Backend;
use mlx_diagnose::engine::{EngineSettings, Request, SamplingSettings, SchedulerLimits};
use mlx_diagnose::model::{HubSettings, ModelSource, TemplateChoice};
use mlx_diagnose::serving::ServedModel;

/// Tokens of the prompt whose reading is measured.
const PREFILL_TOKENS: usize = 512;
/// Tokens of prompts before decoding, and tokens decoded.
const PROMPT_TOKENS: usize = 128;
const NEW_TOKENS: usize = 64;
/// Requests at one time.
const CONCURRENT: [usize; 3] = [1, 4, 8];

fn request(first: u32, prompt: usize, max_tokens: usize) -> Request {
    Request {
        prompt: (0..prompt as u32)
            .map(|index| 100 + (first + index * 131) % 20_000)
            .collect(),
        max_tokens,
        stop_ids: BTreeSet::new(),
        stop_strings: Vec::new(),
        sampling: SamplingSettings::default(),
        top_log_probabilities: None,
        adapter: None,
        priority: 0,
    }
}

/// Seconds until `count` requests of one time are answered, and until all of them have a first token.
fn seconds(served: &ServedModel, count: usize, prompt: usize, max_tokens: usize) -> anyhow::Result<(f64, f64)> {
    let begun = Instant::now();
    let first = (0..count as u32).map(|index| index * 17);
    let asked = first.map(|first| served.engine.submit(request(first, prompt, max_tokens)));
    let mut to_first: f64 = 0.0;
    for answer in asked.collect::<Result<Vec<_>, _>>()? {
        let usage = answer.complete()?.finished.usage;
        to_first = to_first.max(usage.to_first_token.as_secs_f64());
    }
    Ok((begun.elapsed().as_secs_f64(), to_first))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments
        .next()
        .ok_or_else(|| anyhow::anyhow!("usage: engine-throughput MODEL [REPEATS] [CHUNK]"))?;
    let repeats: usize = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let defaults = EngineSettings::default().limits;
    let prefill_chunk: usize = arguments
        .next()
        .map_or(Ok(defaults.prefill_chunk), |text| text.parse())?;
    let source = ModelSource::resolve(&model, &HubSettings::from_environment(), &mut |line| {
        eprintln!("{line}");
    })?;
    let settings = EngineSettings {
        limits: SchedulerLimits {
            step_tokens: defaults.max_sequences + prefill_chunk,
            prefill_chunk,
            ..defaults
        },
        ..EngineSettings::default()
    };
    let served = ServedModel::start(
        &source,
        &BTreeMap::new(),
        TemplateChoice::Own,
        Backend::select(),
        settings,
    )?;
    seconds(&served, 8, 16, 4)?;
    let mut measured = serde_json::Map::new();
    let rates = |work: &dyn Fn() -> anyhow::Result<f64>| -> anyhow::Result<f64> {
        Ok(median((0..repeats).map(|_| work()).collect::<Result<_, _>>()?))
    };
    let prefill = rates(&|| Ok(PREFILL_TOKENS as f64 / seconds(&served, 1, PREFILL_TOKENS, 1)?.1))?;
    measured.insert("prefill_512".to_owned(), prefill.into());
    for count in CONCURRENT {
        let rate = rates(&|| {
            let (whole, to_first) = seconds(&served, count, PROMPT_TOKENS, NEW_TOKENS)?;
            Ok((count * (NEW_TOKENS - 1)) as f64 / (whole - to_first))
        })?;
        measured.insert(format!("decode_{count}"), rate.into());
        let whole = rates(&|| Ok((count * NEW_TOKENS) as f64 / seconds(&served, count, PROMPT_TOKENS, NEW_TOKENS)?.0))?;
        measured.insert(format!("whole_{count}"), whole.into());
    }
    println!("{}", serde_json::Value::Object(measured));
    Ok(())
}
