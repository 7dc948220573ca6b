use std::collections::BTreeMap;

use super::super::check::{Check, CheckResult, Deviations, NotPassed, Passed, failed};
use super::super::golden_files::GoldenModel;
use super::super::session::Session;
use super::super::tolerance::{OTHER_STEPS, SAME_SLOPE, SLOPES};
use crate::adapter::{LoraSettings, attach};
use crate::data::{Batch, Example};
use crate::double_precision::{doubles, values};
use crate::evidence::Slope;
use crate::model::CausalModel;
use crate::probes::gradient_check::central_slope;
use crate::readback::vector;
use crate::train::{Lanes, LossAndGradients, loss_and_gradients};

pub(in super::super) const CHECKS: &[Check] = &[
    Check::for_each_model("finite differences of every parameter", of_model),
    Check::once("finite differences of adapters", of_adapters),
    Check::once("gradients of a batch on several streams", on_streams),
];

/// What helps where a gradient is wrong.
const HINT: &str = "training goes wrong here even where answers are right: see the arithmetic and kernel checks, and train elsewhere with --backend";

/// Nats by which the loss is predicted to change from one end of a step to the other, the longest first: far above the
/// rounding of a loss in f32, and far below what bends most losses.
const CHANGES: [f64; 3] = [0.02, 0.005, 0.00125];

fn of_model(session: &Session<'_>, model: &'static GoldenModel) -> CheckResult {
    let golden = session.golden(model)?;
    against_differences(session, &golden.model, &golden.batch())
}

fn of_adapters(session: &Session<'_>) -> CheckResult {
    let mut model = session.embedded()?.model.clone();
    attach(
        &mut model,
        &LoraSettings {
            scale: 2.0,
            ..LoraSettings::default()
        },
        5,
    )?;
    move_adapters(&mut model);
    let batch = Batch::new(&[Example::of_tokens((3..43).collect())], &[0]);
    against_differences(session, &model, &batch)
}

/// Gives the second matrix of every adapter values: while it is zero, the first has no gradient.
pub(super) fn move_adapters(model: &mut CausalModel) {
    for (seed, (_, layer)) in (1..).zip(model.adaptable_mut()) {
        let [_, lora_b] = layer.matrices_mut();
        if let Some(matrix) = &lora_b.value {
            let small: Vec<f32> = values(matrix.size(), seed)
                .into_iter()
                .map(|value| value * 0.02)
                .collect();
            lora_b.value = Some(mlx_rs::Array::from_slice(&small, matrix.shape()));
        }
    }
}

/// The slope of the loss along each parameter's own gradient, as the gradient has it and as the loss has it.
fn against_differences(session: &Session<'_>, model: &CausalModel, batch: &Batch) -> CheckResult {
    let pass = loss_and_gradients(model, batch, &Lanes::single())?;
    let mut deviations = Deviations::within(SLOPES, session);
    let allowed = SLOPES.limit_on(session.backend().kind);
    let mut untold = 0;
    for (name, gradient) in &pass.gradients {
        let alone = LossAndGradients {
            loss: pass.loss.clone(),
            gradients: BTreeMap::from([(name.clone(), gradient.clone())]),
        };
        match slope_error(name, model, batch, &alone)? {
            // Rounding alone could make it, or the loss has a jump there: that of a mixture of experts does.
            None => untold += 1,
            Some((error, rounding)) if rounding > allowed && error <= rounding => untold += 1,
            Some((error, rounding)) => {
                deviations.add(name.as_str(), if error <= rounding { 0.0 } else { error - rounding });
            }
        }
    }
    if 2 * untold > pass.gradients.len() {
        return Err(failed(
            "the loss does not tell its gradients",
            format!(
                "{untold} of {} parameters whose slope cannot be measured",
                pass.gradients.len()
            ),
            "a slope beyond rounding for most",
            HINT,
        ));
    }
    let Passed { detail, deviation } = deviations.judge("gradients", HINT)?;
    Ok(Passed {
        detail: match untold {
            0 => detail,
            untold => format!("{detail}; {untold} more that the loss does not tell"),
        },
        deviation,
    })
}

/// How far the measured slope is from the gradient's, and what of that the rounding of the losses explains, both as a share
/// of the slope; `None` where no step is so short that half of it has the same slope.
fn slope_error(
    name: &str,
    model: &CausalModel,
    batch: &Batch,
    pass: &LossAndGradients,
) -> Result<Option<(f64, f64)>, NotPassed> {
    let lanes = Lanes::single();
    let length = length(pass)?;
    for change in CHANGES {
        let half = change / length / 2.0;
        let long = ratio(central_slope(model, batch, &lanes, pass, half)?);
        let short = ratio(central_slope(model, batch, &lanes, pass, half / 2.0)?);
        let (Some((long, long_rounding)), Some((short, short_rounding))) = (long, short) else {
            return Err(failed(
                format!("the gradient of `{name}` has no direction"),
                "zero, or numbers that are not finite",
                "a gradient of finite numbers, not all of them zero",
                HINT,
            ));
        };
        // Richardson's extrapolation (1911): what the bend of the loss adds to a central difference is a quarter of it at
        // half the step.
        let error = ((4.0 * short - long) / 3.0 - 1.0).abs();
        let rounding = (4.0 * short_rounding + long_rounding) / 3.0;
        let is_settled = (short - long).abs() <= SAME_SLOPE + rounding;
        if is_settled || error.is_nan() {
            return Ok(Some((error, rounding)));
        }
    }
    Ok(None)
}

/// The length of the gradients, of which there is one.
fn length(pass: &LossAndGradients) -> Result<f64, NotPassed> {
    let mut squares = 0.0;
    for gradient in pass.gradients.values() {
        let values = doubles(&vector(gradient)?);
        squares += values.iter().map(|value| value * value).sum::<f64>();
    }
    Ok(squares.sqrt())
}

/// The measured slope as a share of the predicted one, and what of that rounding alone can make.
fn ratio(found: Option<(Slope, f64)>) -> Option<(f64, f64)> {
    let (slope, resolution) = found?;
    let measured = slope.measured?;
    (slope.predicted != 0.0).then(|| (measured / slope.predicted, resolution / slope.predicted.abs()))
}

/// The halves of a batch are computed on two streams of a CPU, and their gradients added.
fn on_streams(session: &Session<'_>) -> CheckResult {
    let lanes = session.backend().lanes();
    if lanes.count() < 2 {
        return Err(NotPassed::Skipped("one stream is used here".to_owned()));
    }
    let mut model = session.embedded()?.model.clone();
    attach(&mut model, &LoraSettings::default(), 5)?;
    move_adapters(&mut model);
    let examples: Vec<Example> = [3..20, 5..43, 7..12, 40..60]
        .map(|range| Example::of_tokens(range.collect()))
        .to_vec();
    let batch = Batch::new(&examples, &[0, 1, 2, 3]);
    let alone = loss_and_gradients(&model, &batch, &Lanes::single())?;
    let together = loss_and_gradients(&model, &batch, &lanes)?;
    let mut deviations = Deviations::within(OTHER_STEPS, session);
    for (name, expected) in &alone.gradients {
        let expected = doubles(&vector(expected)?);
        // One that is missing is another number of values.
        let found = together.gradients.get(name).map_or(Ok(Vec::new()), vector::<f32>)?;
        deviations.compare(name.as_str(), &found, &expected);
    }
    deviations.judge("gradients on several streams", HINT)
}
