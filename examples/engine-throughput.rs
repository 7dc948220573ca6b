//! How fast the engine reads prompts and decodes, alone and for several requests at one time.
//!
//! ```text
//! cargo run --release --example engine-throughput -- MODEL
//! ```
//!
//! Prints one line of JSON: tokens per second, the median of the repeats. Prompts are made-up tokens, and nothing stops an
//! answer, so that every run does the same work; `scripts/peers/engine_throughput.py` asks mlx-lm for the same.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a command line tool prints what it measured"
)]

use std::collections::BTreeMap;
use std::time::Instant;

use clap::Parser;
use mlx_diagnose::device::Backend;
use mlx_diagnose::engine::{EngineSettings, Request};
use mlx_diagnose::model::{HubSettings, ModelSource, TemplateChoice};
use mlx_diagnose::serving::ServedModel;

/// What is measured.
#[derive(Debug, Parser)]
struct Arguments {
    /// Model folder, GGUF file or hub id
    model: String,
    /// Times that each figure is measured
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Tokens of the prompt whose reading is measured
    #[arg(long, default_value_t = 512)]
    prefill: usize,
    /// Tokens of the prompts before decoding
    #[arg(long, default_value_t = 128)]
    prompt: usize,
    /// Tokens that are decoded
    #[arg(long, default_value_t = 64)]
    new: usize,
    /// Requests at one time
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 8])]
    concurrent: Vec<usize>,
}

fn request(first: u32, prompt: usize, max_tokens: usize) -> Request {
    let prompt = (0..prompt as u32).map(|index| 100 + (first + index * 131) % 20_000);
    Request::greedy(prompt.collect(), max_tokens)
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
    let arguments = Arguments::parse();
    let source = ModelSource::resolve(&arguments.model, &HubSettings::from_environment(), &mut |line| {
        eprintln!("{line}");
    })?;
    let served = ServedModel::start(
        source.open()?,
        &BTreeMap::new(),
        TemplateChoice::Own,
        Backend::select(),
        EngineSettings::default(),
    )?;
    seconds(&served, 8, 16, 4)?;
    let mut measured = serde_json::Map::new();
    let rates = |work: &dyn Fn() -> anyhow::Result<f64>| -> anyhow::Result<f64> {
        let each = (0..arguments.repeats.max(1)).map(|_| work());
        Ok(median(each.collect::<Result<_, _>>()?))
    };
    let (prefill, prompt, new) = (arguments.prefill, arguments.prompt, arguments.new);
    let rate = rates(&|| Ok(prefill as f64 / seconds(&served, 1, prefill, 1)?.1))?;
    measured.insert("prefill".to_owned(), rate.into());
    for count in arguments.concurrent {
        let decoded = rates(&|| {
            let (whole, to_first) = seconds(&served, count, prompt, new)?;
            Ok((count * (new - 1)) as f64 / (whole - to_first))
        })?;
        measured.insert(format!("decode_{count}"), decoded.into());
        let whole = rates(&|| Ok((count * new) as f64 / seconds(&served, count, prompt, new)?.0))?;
        measured.insert(format!("whole_{count}"), whole.into());
    }
    println!("{}", serde_json::Value::Object(measured));
    Ok(())
}
