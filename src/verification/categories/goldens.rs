use std::collections::{BTreeMap, BTreeSet};

use mlx_rs::Array;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::check::{Check, CheckResult, Deviations, NotPassed, failed, passed};
use super::super::golden_files::{
    GRADIENTS as GRADIENT_FILE, GoldenModel, MlxLmNumbers, OPTIMIZERS, PACKED_MODELS, SAMPLER as SAMPLER_CASES,
};
use super::super::session::{EXACT, Session, row};
use super::super::tolerance::{GRADIENTS, LOGITS, LOSSES, SAMPLER, UPDATES};
use crate::double_precision::{doubles, relative_error, worst};
use crate::engine::{DecodeLimits, Sampler, SamplingSettings, decode_greedily};
use crate::model::{ModelSource, Precision, load_safetensors};
use crate::readback::vector;
use crate::train::{DecayScope, Lanes, OptimizerSettings, loss_and_gradients};

pub(in super::super) const CHECKS: &[Check] = &[
    Check::for_each_model("logits of transformers", logits),
    Check::for_each_model("loss of transformers", loss),
    Check::for_each_model("gradients of transformers", gradients),
    Check::for_each_model("greedy answer of transformers", answer),
    Check::once("logits of mlx-lm from packed weights", packed),
    Check::once("updates of MLX's optimizers", optimizers),
    Check::once("distributions of mlx-lm's sampler", sampler),
];

/// What helps where a model computes something else.
const HINT: &str = "see what the arithmetic and kernel checks say; if they pass, report it with this output";

fn logits(session: &Session<'_>, model: &'static GoldenModel) -> CheckResult {
    let golden = session.golden(model)?;
    let found = vector(&golden.model.logits(&golden.row())?)?;
    let mut deviations = Deviations::within(LOGITS, session);
    deviations.compare("a row of 40 tokens", &found, &golden.numbers.logits.concat());
    deviations.judge("logits", HINT)
}

fn loss(session: &Session<'_>, model: &'static GoldenModel) -> CheckResult {
    let golden = session.golden(model)?;
    let pass = loss_and_gradients(&golden.model, &golden.batch(), &Lanes::single())?;
    let mut deviations = Deviations::within(LOSSES, session);
    deviations.compare("the mean over 39 tokens", &vector(&pass.loss)?, &[golden.numbers.loss]);
    deviations.judge("losses", HINT)
}

fn gradients(session: &Session<'_>, model: &'static GoldenModel) -> CheckResult {
    let golden = session.golden(model)?;
    let found = loss_and_gradients(&golden.model, &golden.batch(), &Lanes::single())?.gradients;
    let expected = load_safetensors(&golden.folder.join(GRADIENT_FILE))?;
    let names = |arrays: &BTreeMap<String, Array>| arrays.keys().cloned().collect::<BTreeSet<String>>();
    if let Some(name) = names(&found).symmetric_difference(&names(&expected)).next() {
        return Err(failed(
            "gradients are of other parameters than those of transformers",
            format!("`{name}` on one side"),
            "the same parameters on both",
            HINT,
        ));
    }
    let mut deviations = Deviations::within(GRADIENTS, session);
    for (name, expected) in &expected {
        let expected = doubles(&vector(expected)?);
        deviations.compare(name.as_str(), &vector(&found[name])?, &expected);
    }
    deviations.judge("gradients", HINT)
}

fn answer(session: &Session<'_>, model: &'static GoldenModel) -> CheckResult {
    let golden = session.golden(model)?;
    let expected = &golden.numbers.answer;
    let limits = DecodeLimits {
        answer: expected.len(),
        at_least: expected.len(),
    };
    let prompt = &golden.numbers.prompt;
    let decoded = decode_greedily(&golden.model, prompt, &BTreeSet::new(), limits, session.interrupt)?;
    if decoded.interrupted {
        return Err(NotPassed::Skipped("interrupted before it ended".to_owned()));
    }
    if decoded.tokens == *expected {
        return passed(format!("{} tokens", expected.len()));
    }
    let same = decoded
        .tokens
        .iter()
        .zip(expected)
        .take_while(|(found, expected)| found == expected);
    Err(failed(
        "the answer is another one than that of transformers",
        format!("{:?}, another one after {} tokens", decoded.tokens, same.count()),
        format!("{expected:?}"),
        HINT,
    ))
}

/// Unpacked as they are loaded, and packed in their products.
fn packed(session: &Session<'_>) -> CheckResult {
    let mut deviations = Deviations::within(LOGITS, session);
    for model in &PACKED_MODELS {
        let source = ModelSource::Folder(session.unpacked(model)?);
        let numbers: MlxLmNumbers = model.numbers()?;
        for (keep_packed, form) in [(false, "unpacked"), (true, "kept packed")] {
            let loaded = source.load(Precision { keep_packed, ..EXACT })?;
            let found = vector(&loaded.model.logits(&row(&numbers.input_ids))?)?;
            deviations.compare(format!("{} {form}", model.name), &found, &numbers.logits.concat());
        }
    }
    deviations.judge("logits", HINT)
}

/// `fixtures/golden/optimizers.json`, as far as it is looked at.
#[derive(Deserialize)]
struct OptimizerGoldens {
    learning_rate: f64,
    shapes: BTreeMap<String, Vec<i32>>,
    optimizers: Vec<OptimizerCase>,
}

#[derive(Deserialize)]
struct OptimizerCase {
    case: String,
    optimizer: String,
    settings: Map<String, Value>,
    /// The parameters after each update, by name.
    after: Vec<BTreeMap<String, Vec<f64>>>,
}

/// The parameters (update 0) or gradients that the goldens were made with.
fn made_up(shapes: &BTreeMap<String, Vec<i32>>, update: usize) -> BTreeMap<String, Array> {
    let tensor = |(name, shape): (&String, &Vec<i32>)| {
        let value = |index: i32| {
            let angle = 1.0 + 1.7 * f64::from(index) + 0.9 * update as f64 + name.len() as f64;
            angle.sin() as f32
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        (name.clone(), Array::from_slice(&values, shape))
    };
    shapes.iter().map(tensor).collect()
}

fn optimizers(session: &Session<'_>) -> CheckResult {
    let goldens: OptimizerGoldens = serde_json::from_str(OPTIMIZERS)?;
    let mut deviations = Deviations::within(UPDATES, session);
    for case in &goldens.optimizers {
        let settings = OptimizerSettings::named(&case.optimizer);
        let mut settings = settings.ok_or_else(|| unusable(&format!("an optimizer `{}`", case.optimizer)))?;
        for (key, value) in &case.settings {
            settings
                .set(key, value)
                .map_err(|_| unusable(&format!("`{key}` of {}", case.case)))?;
        }
        let mut optimizer = settings.build(DecayScope::Everything);
        let mut parameters = made_up(&goldens.shapes, 0);
        for (update, expected) in (1..).zip(&case.after) {
            optimizer.update(
                &mut parameters,
                &made_up(&goldens.shapes, update),
                goldens.learning_rate,
            )?;
            let mut errors = Vec::new();
            for (name, parameter) in &parameters {
                let expected = expected.get(name).map_or(&[][..], Vec::as_slice);
                errors.push(relative_error(&vector(parameter)?, expected));
            }
            deviations.add(format!("{}, update {update}", case.case), worst(errors));
        }
    }
    deviations.judge("updates", HINT)
}

/// `fixtures/golden/sampler.json`, as far as it is looked at.
#[derive(Deserialize)]
struct SamplerGoldens {
    rows: BTreeMap<String, Vec<f32>>,
    tokens: Vec<u32>,
    cases: Vec<SamplerCase>,
}

#[derive(Deserialize)]
struct SamplerCase {
    row: String,
    /// What it sets beside the defaults.
    settings: SamplingSettings,
    ids: Vec<u32>,
    log_probabilities: Vec<f64>,
}

fn sampler(session: &Session<'_>) -> CheckResult {
    let goldens: SamplerGoldens = serde_json::from_str(SAMPLER_CASES)?;
    let mut deviations = Deviations::within(SAMPLER, session);
    for (number, case) in (1..).zip(goldens.cases) {
        let logits = goldens.rows.get(&case.row).map_or(&[][..], Vec::as_slice);
        let sampler = Sampler::new(case.settings, None, 1);
        let (ids, found): (Vec<u32>, Vec<f32>) = sampler.distribution(logits, &goldens.tokens)?.into_iter().unzip();
        if ids != case.ids {
            return Err(failed(
                "the sampler leaves other tokens than mlx-lm's",
                format!("case {number}: {ids:?}"),
                format!("{:?}", case.ids),
                HINT,
            ));
        }
        let differences = found.iter().zip(&case.log_probabilities);
        let errors = differences.map(|(found, expected)| (f64::from(*found) - expected).abs());
        deviations.add(format!("case {number}"), worst(errors));
    }
    deviations.judge("distributions", HINT)
}

/// A golden that this program does not understand.
fn unusable(what: &str) -> NotPassed {
    failed(
        "a golden file of the program cannot be used",
        what,
        "what this program knows",
        "this is a mistake of the program",
    )
}
