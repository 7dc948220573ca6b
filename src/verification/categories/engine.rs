use std::path::PathBuf;
use std::sync::Arc;

use super::super::check::{Check, CheckResult, Deviations, NotPassed, Passed, failed, passed};
use super::super::golden_files::GoldenModel;
use super::super::session::{EXACT, Embedded, Session, row};
use super::super::tolerance::{LOG_PROBABILITIES, OTHER_STEPS};
use super::gradients::move_adapters;
use crate::adapter::{AdapterSet, AdapterSetError, LoraSettings, StoredAdapter, attach, save_adapter};
use crate::double_precision::{doubles, worst};
use crate::embedded::PROMPTS;
use crate::engine::{
    CachePrecision, CompleteAnswer, Engine, EngineModel, EngineSettings, Request, SamplingSettings, SequenceCache,
};
use crate::model::{LoadError, ModelSource, Tokenizer};
use crate::readback::vector;
use crate::rules::wording::counted;

pub(in super::super) const CHECKS: &[Check] = &[
    Check::for_each_model("a cache gives the logits of the whole row", cache),
    Check::for_each_model("sequences in one pass have the logits they have alone", shared_pass),
    Check::once("answers in a batch are the answers alone", batch),
    Check::once("adapters in a batch answer as alone", adapters),
    Check::once("a seed draws the same answer again", seeds),
];

/// What helps where an answer depends on its company.
const HINT: &str = "see what the arithmetic and kernel checks say; if they pass, report it with this output";

/// Tokens of each answer.
const ANSWER: usize = 16;
/// Where the two likeliest tokens are closer than this in nats, either may be chosen.
const NEAR_TIE: f32 = 1e-3;

/// In pieces of several sizes, a piece of one token among them.
fn cache(session: &Session<'_>, model: &'static GoldenModel) -> CheckResult {
    let golden = session.golden(model)?;
    let whole: Vec<f32> = vector(&golden.model.logits(&golden.row())?)?;
    let mut cache = SequenceCache::new(&golden.model, CachePrecision::Whole);
    let mut rest = golden.numbers.input_ids.as_slice();
    let mut found: Vec<f32> = Vec::new();
    for size in [3, 1, 10, 2, 1, usize::MAX] {
        let (piece, later) = rest.split_at(size.min(rest.len()));
        let continued = vec![cache.continued(piece.len() as i32)];
        let hidden = golden.model.hidden_states_of_sequences(&row(piece), continued)?;
        found.extend(vector::<f32>(&golden.model.output(&hidden)?)?);
        rest = later;
    }
    let expected = doubles(&whole);
    let mut deviations = Deviations::within(OTHER_STEPS, session);
    deviations.compare("40 tokens in 6 pieces", &found, &expected);
    deviations.judge("logits from a cache", HINT)
}

fn shared_pass(session: &Session<'_>, model: &'static GoldenModel) -> CheckResult {
    let golden = session.golden(model)?;
    let tokens = &golden.numbers.input_ids;
    let sequences = [&tokens[..20], &tokens[7..8], &tokens[12..], &tokens[3..8]];
    let mut caches = sequences.map(|_| SequenceCache::new(&golden.model, CachePrecision::Whole));
    let pairs = caches.iter_mut().zip(sequences);
    let continued = pairs
        .map(|(cache, sequence)| cache.continued(sequence.len() as i32))
        .collect();
    let hidden = golden
        .model
        .hidden_states_of_sequences(&row(&sequences.concat()), continued)?;
    let together: Vec<f32> = vector(&golden.model.output(&hidden)?)?;
    let vocabulary = golden.model.model.embed_tokens.vocabulary_size() as usize;
    let mut rest = together.as_slice();
    let mut deviations = Deviations::within(OTHER_STEPS, session);
    for (number, sequence) in (1..).zip(sequences) {
        let (own, later) = rest.split_at((sequence.len() * vocabulary).min(rest.len()));
        let alone: Vec<f32> = vector(&golden.model.logits(&row(sequence))?)?;
        let alone = doubles(&alone);
        let place = format!("sequence {number} of {}", counted(sequence.len(), "token"));
        deviations.compare(place, own, &alone);
        rest = later;
    }
    deviations.judge("logits in a shared pass", HINT)
}

/// An engine on the model that the program carries, with the adapters in these folders.
fn engine(embedded: &Embedded, adapters: Vec<(&'static str, PathBuf)>) -> Result<Engine, NotPassed> {
    let (folder, context) = (embedded.folder.clone(), embedded.context);
    let tokenizer: Arc<Tokenizer> = Arc::clone(&embedded.tokenizer);
    let started = Engine::start(EngineSettings::default(), move || {
        let mut set = AdapterSet::new(ModelSource::Folder(folder).load(EXACT)?.model);
        for (name, folder) in adapters {
            set.add(name, &StoredAdapter::read(&folder)?)?;
        }
        let (base, adapters) = set.into_models();
        Ok::<_, EngineLoadError>(EngineModel {
            base,
            adapters,
            tokenizer,
            context,
        })
    });
    Ok(started?)
}

/// Why the engine's model could not be made.
#[derive(Debug, thiserror::Error)]
enum EngineLoadError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Adapter(#[from] crate::adapter::AdapterFileError),
    #[error(transparent)]
    Set(#[from] AdapterSetError),
}

/// Greedy requests of unequal length.
fn requests(embedded: &Embedded) -> Result<Vec<Request>, NotPassed> {
    let mut requests = Vec::new();
    for prompt in PROMPTS.lines().filter(|line| !line.is_empty()) {
        let tokens = embedded.tokenizer.encode(prompt, true)?;
        for length in [tokens.len(), tokens.len().div_ceil(2)] {
            requests.push(Request {
                top_log_probabilities: Some(2),
                ..Request::greedy(tokens[..length].to_vec(), ANSWER)
            });
        }
    }
    Ok(requests)
}

/// Answers that were asked for all at one time.
fn together(engine: &Engine, requests: &[Request]) -> Result<Vec<CompleteAnswer>, NotPassed> {
    let mut asked = Vec::new();
    for request in requests {
        asked.push(engine.submit(request.clone())?);
    }
    let mut answers = Vec::new();
    for answer in asked {
        answers.push(answer.complete()?);
    }
    Ok(answers)
}

/// Answers of which each was asked for when the one before it was there.
fn one_by_one(engine: &Engine, requests: &[Request]) -> Result<Vec<CompleteAnswer>, NotPassed> {
    let mut answers = Vec::new();
    for request in requests {
        answers.push(engine.submit(request.clone())?.complete()?);
    }
    Ok(answers)
}

/// The same tokens with the same log-probabilities, up to a place where two tokens are equally likely.
fn same(session: &Session<'_>, found: &[CompleteAnswer], expected: &[CompleteAnswer]) -> Result<Passed, NotPassed> {
    let mut deviations = Deviations::within(LOG_PROBABILITIES, session);
    for (number, (found, expected)) in (1..).zip(found.iter().zip(expected)) {
        let places = found.tokens.iter().zip(&expected.tokens);
        let same = places.take_while(|(found, expected)| found == expected).count();
        let parted = same < found.tokens.len() || same < expected.tokens.len();
        if parted && !expected.log_probabilities.get(same).is_some_and(is_near_tie) {
            return Err(failed(
                "an answer depends on what else is answered",
                format!("request {number}: {:?}", found.text),
                format!("{:?}", expected.text),
                HINT,
            ));
        }
        let pairs = found
            .log_probabilities
            .iter()
            .zip(&expected.log_probabilities)
            .take(same);
        let errors = pairs.map(|(found, expected)| f64::from((found.chosen - expected.chosen).abs()));
        deviations.add(format!("answer {number}"), worst(errors));
    }
    deviations.judge("log-probabilities", HINT)
}

fn is_near_tie(place: &crate::engine::LogProbabilities) -> bool {
    matches!(place.top.as_slice(), [first, second, ..] if first.1 - second.1 < NEAR_TIE)
}

fn batch(session: &Session<'_>) -> CheckResult {
    let embedded = session.embedded()?;
    let engine = engine(&embedded, Vec::new())?;
    let requests = requests(&embedded)?;
    let (alone, together) = (one_by_one(&engine, &requests)?, together(&engine, &requests)?);
    same(session, &together, &alone)
}

/// The base and two adapters take turns.
fn adapters(session: &Session<'_>) -> CheckResult {
    const NAMES: [&str; 2] = ["first", "second"];
    let embedded = session.embedded()?;
    let mut folders = Vec::new();
    for (seed, name) in (1..).zip(NAMES) {
        let settings = LoraSettings {
            scale: 2.0 * seed as f32,
            ..LoraSettings::default()
        };
        let mut model = embedded.model.clone();
        attach(&mut model, &settings, seed)?;
        move_adapters(&mut model);
        let folder = session.folder(&format!("adapter-{name}"));
        save_adapter(&model, &settings, "embedded", &folder)?;
        folders.push((name, folder));
    }
    let engine = engine(&embedded, folders)?;
    let mut requests = requests(&embedded)?;
    let names = [None, Some(NAMES[0]), Some(NAMES[1])];
    for (request, name) in requests.iter_mut().zip(names.into_iter().cycle()) {
        request.adapter = name.map(str::to_owned);
    }
    let (alone, together) = (one_by_one(&engine, &requests)?, together(&engine, &requests)?);
    same(session, &together, &alone)
}

fn seeds(session: &Session<'_>) -> CheckResult {
    let embedded = session.embedded()?;
    let engine = engine(&embedded, Vec::new())?;
    let drawn = |seed| -> Result<Vec<CompleteAnswer>, NotPassed> {
        let mut requests = requests(&embedded)?;
        for request in &mut requests {
            request.sampling = SamplingSettings {
                temperature: 1.5,
                seed: Some(seed),
                ..SamplingSettings::default()
            };
        }
        one_by_one(&engine, &requests)
    };
    let tokens =
        |answers: Vec<CompleteAnswer>| -> Vec<Vec<u32>> { answers.into_iter().map(|answer| answer.tokens).collect() };
    let (first, again, other) = (tokens(drawn(3)?), tokens(drawn(3)?), tokens(drawn(4)?));
    if first != again || first == other {
        return Err(failed(
            "drawn answers do not follow their seed",
            if first == other {
                "another seed drew the same"
            } else {
                "the same seed drew others"
            },
            "one answer for each seed",
            HINT,
        ));
    }
    passed(format!("{} answers", first.len()))
}
