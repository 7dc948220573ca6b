//! Tokens in a second: prompts that are read, and answers that are written, by the engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use super::{BenchError, Measured, Measurement, Samples, Unit, Workbench};
use crate::engine::{AnswerError, Engine, EngineModel, EngineSettings, Event, Request, SchedulerLimits};
use crate::model::LoadError;

/// Answers that are written at one time.
const SEQUENCES: [usize; 3] = [1, 4, 8];

/// Measures prefill alone, then one answer and several at one time.
pub fn measure(bench: &Workbench<'_>) -> Result<Measured, BenchError> {
    let mut measured = Measured::default();
    let engine = start(bench)?;
    prefill(bench, &mut measured, &engine)?;
    let sizes = bench.options.settings.sizes;
    for sequences in SEQUENCES {
        let name = match sequences {
            1 => "decode".to_owned(),
            _ => format!("decode-{sequences}"),
        };
        let mut rates = Samples::default();
        let settings = &bench.options.settings;
        for repeat in 0..settings.warm_ups + bench.repeats {
            bench.go_on()?;
            let rate = decode_rate(bench, &engine, sequences)?;
            if repeat >= settings.warm_ups {
                rates.push(rate);
            }
        }
        let note = format!(
            "{sequences} {} of {} tokens to prompts of {}, in all, while every one of them is written",
            if sequences == 1 { "answer" } else { "answers" },
            sizes.answer_tokens,
            sizes.prompt_tokens
        );
        if sequences == 1 {
            share_of_bandwidth(bench, &mut measured, &rates);
        }
        measured.add(&name, Measurement::new(&name, Unit::TokensPerSecond, rates, note));
    }
    Ok(measured)
}

/// An engine with a copy of the model, without anything kept from one prompt to the next.
pub(super) fn start(bench: &Workbench<'_>) -> Result<Engine, BenchError> {
    let most = SEQUENCES[SEQUENCES.len() - 1];
    let sizes = bench.options.settings.sizes;
    let tokens = sizes.prefill_tokens.max(sizes.prompt_tokens + sizes.answer_tokens);
    let chunk = EngineSettings::default().limits.prefill_chunk;
    let settings = EngineSettings {
        limits: SchedulerLimits {
            max_sequences: most,
            step_tokens: most + chunk,
            prefill_chunk: chunk,
            cache_tokens: most * (tokens + 1),
            ..EngineSettings::default().limits
        },
        lanes: bench.backend.lanes().count(),
        ..EngineSettings::default()
    };
    let tokenizer = Arc::new(bench.files.tokenizer()?);
    let (files, configuration, precision) = (bench.files.clone(), bench.loaded.configuration.clone(), bench.precision);
    // Models stay on the thread that made them.
    Ok(Engine::start(settings, move || {
        let context = configuration.max_position_embeddings;
        let base = files.load(configuration, precision)?.model;
        Ok::<_, LoadError>(EngineModel {
            context: base.learned_positions().map_or(context, |learned| learned.min(context)),
            base,
            adapters: BTreeMap::new(),
            tokenizer,
        })
    })?)
}

fn prefill(bench: &Workbench<'_>, measured: &mut Measured, engine: &Engine) -> Result<(), BenchError> {
    const NAME: &str = "prefill";
    let tokens = bench.options.settings.sizes.prefill_tokens;
    let seconds = bench.seconds_of(|| answered(engine, vec![Request::greedy(bench.tokens(0, tokens), 1)]).map(drop))?;
    let note = format!("a prompt of {tokens} tokens, until its first token is there");
    measured.add(
        NAME,
        Measurement::rate(NAME, Unit::TokensPerSecond, &seconds, tokens as f64, note),
    );
    Ok(())
}

/// The share of the memory's speed that decoding one answer reaches, which has to read every weight for each token.
fn share_of_bandwidth(bench: &Workbench<'_>, measured: &mut Measured, rates: &Samples) {
    const NAME: &str = "decode-share-of-memory-read";
    match bench.bandwidth().map(Samples::median) {
        Ok(Some(bandwidth)) => {
            let bytes = bench.model_description().bytes_per_token as f64;
            let shares = rates.map(|rate| rate * bytes / bandwidth);
            let note = format!(
                "{:.1} MB of weights for each token, by the bytes in a second that the device reads",
                bytes / 1e6
            );
            measured.add(NAME, Measurement::new(NAME, Unit::Share, shares, note));
        }
        Ok(None) => measured.lack(NAME, "the memory's speed was not measured"),
        Err(error) => measured.lack(NAME, format!("the memory's speed was not measured: {error}")),
    }
}

/// Tokens in a second of `sequences` answers together, from the moment when the last of them has its first token to the
/// moment when the first of them ends.
pub(super) fn decode_rate(bench: &Workbench<'_>, engine: &Engine, sequences: usize) -> Result<f64, BenchError> {
    let sizes = bench.options.settings.sizes;
    let requests =
        (0..sequences).map(|row| Request::greedy(bench.tokens(row, sizes.prompt_tokens), sizes.answer_tokens));
    let times = answered(engine, requests.collect())?;
    rate(&times).ok_or_else(|| BenchError::Unexpected("the answers were never written at the same time".to_owned()))
}

/// The tokens in a second while all sequences write; `None` where there is no such time.
fn rate(times: &[Vec<Instant>]) -> Option<f64> {
    let begun = times.iter().map(|tokens| tokens.first()).max()??;
    let ended = times.iter().map(|tokens| tokens.last()).min()??;
    let within = |token: &&Instant| *token > begun && *token <= ended;
    let tokens: usize = times.iter().map(|tokens| tokens.iter().filter(within).count()).sum();
    let seconds = ended.checked_duration_since(*begun)?.as_secs_f64();
    (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds)
}

/// When each token of each answer was there.
fn answered(engine: &Engine, requests: Vec<Request>) -> Result<Vec<Vec<Instant>>, BenchError> {
    let mut times = vec![Vec::new(); requests.len()];
    let mut open = requests.len();
    let (tell, told) = mpsc::channel();
    let tickets = requests.into_iter().enumerate().map(|(index, request)| {
        let tell = tell.clone();
        engine.submit_to(request, move |event| {
            // Nobody listens any more once one of them has failed.
            let _ = tell.send((index, Instant::now(), event));
        })
    });
    // Dropping a ticket cancels its request.
    let _tickets = tickets.collect::<Result<Vec<_>, _>>()?;
    drop(tell);
    while open > 0 {
        let (index, at, event) = told.recv().map_err(|_| AnswerError::Stopped)?;
        match event {
            Event::Token(_) => times[index].push(at),
            Event::Finished(_) => open -= 1,
            Event::Failed(error) => return Err(error.into()),
        }
    }
    Ok(times)
}
