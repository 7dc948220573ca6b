//! What training and decoding cost in energy, where the system tells.

use std::time::Duration;

use super::power::PowerMeter;
use super::training::Steps;
use super::{BenchError, Measured, Measurement, Samples, Unit, Workbench, generation};

/// How long work goes on for one value: the counters move once in a millisecond, so that this is exact to a thousandth.
const TIME: Duration = Duration::from_secs(1);

const TRAINING_STEP: &str = "training-step";
const TRAINING_TOKENS: &str = "training-tokens";
const DECODE_TOKENS: &str = "answer-tokens";

/// Measures training steps, then answers.
pub fn measure(bench: &Workbench<'_>) -> Result<Measured, BenchError> {
    let mut measured = Measured::default();
    let meter = match PowerMeter::find(&bench.options.powercap) {
        Ok(meter) => meter,
        Err(error) => {
            for name in [TRAINING_STEP, TRAINING_TOKENS, DECODE_TOKENS] {
                measured.lack(name, format!("not available: {error}"));
            }
            return Ok(measured);
        }
    };
    let batch = bench.batch();
    let mut steps = Steps::new(bench, bench.adapted()?, &batch);
    let training = joules(bench, &meter, || steps.step().map(drop))?;
    let engine = generation::start(bench)?;
    let answering = joules(bench, &meter, || generation::decode_rate(bench, &engine, 1).map(drop))?;
    let sizes = bench.options.settings.sizes;
    let answer = (sizes.prompt_tokens + sizes.answer_tokens) as f64;
    let tokens = batch.supervised_tokens() as f64;
    let source = meter.source();
    for (name, unit, samples, what) in [
        (
            TRAINING_TOKENS,
            Unit::TokensPerJoule,
            training.map(|joules| tokens / joules),
            "predicted tokens",
        ),
        (
            DECODE_TOKENS,
            Unit::TokensPerJoule,
            answering.map(|joules| answer / joules),
            "tokens of a prompt and its answer",
        ),
        (TRAINING_STEP, Unit::Joules, training, "one step"),
    ] {
        measured.add(name, Measurement::new(name, unit, samples, format!("{what}, {source}")));
    }
    Ok(measured)
}

/// The joules of one `work` for each repeat.
fn joules(
    bench: &Workbench<'_>,
    meter: &PowerMeter,
    mut work: impl FnMut() -> Result<(), BenchError>,
) -> Result<Samples, BenchError> {
    for _ in 0..bench.options.settings.warm_ups {
        work()?;
    }
    let mut joules = Samples::default();
    for _ in 0..bench.repeats {
        bench.go_on()?;
        joules.push(meter.joules(TIME, &mut work)?);
    }
    Ok(joules)
}
