//! Whether slopes from gradients agree with slopes of the loss.

use super::Outcome;
use super::loss_reading::{self, Reported};
use crate::evidence::{Evidence, GradientCheck, Slope, Slot};
use crate::thresholds::{ROUGH_SLOPE, slope_tolerance};

/// What the finite differences say of the gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gradients {
    /// The loss has the slopes they predict.
    Right,
    /// The loss has the opposite slope.
    Uphill,
    /// Only what came since the step before is the gradient of the loss.
    NotCleared,
    /// None of these.
    Wrong,
}

/// Judges the gradients, or says why they cannot be judged.
pub(super) fn judge(evidence: &Evidence) -> Result<(&GradientCheck, Gradients), Outcome> {
    let Slot::Ran(training) = &evidence.training else {
        return Err(Outcome::not_measured("training", &evidence.training));
    };
    let Slot::Ran(check) = &training.gradient_check else {
        return Err(Outcome::not_measured("the slope of the loss", &training.gradient_check));
    };
    if loss_reading::judge(evidence).is_ok_and(|judged| judged.reported != Reported::Right) {
        return Err(Outcome::not_applicable(
            "the trainer's loss is not the one that has this slope, which is a finding of its own",
        ));
    }
    let Some(measured) = check.reported.measured else {
        return Err(Outcome::not_applicable(
            "the loss beside the last step is not finite, so it has no slope",
        ));
    };
    let tolerance = slope_tolerance(&evidence.environment.dtype);
    let agree =
        |left: f64, right: f64| (left - right).abs() <= check.resolution + tolerance * left.abs().max(right.abs());
    let predicts = |slope: &Slope| {
        slope
            .measured
            .is_some_and(|measured| agree(slope.predicted, measured) && measured.abs() > check.resolution)
    };
    if agree(check.reported.predicted, measured) {
        return Ok((check, Gradients::Right));
    }
    if check.resolution > ROUGH_SLOPE * check.reported.predicted.abs().max(measured.abs()) {
        return Err(Outcome::not_applicable(
            "the loss is too rough beside the last step to have a slope",
        ));
    }
    let gradients = if agree(-check.reported.predicted, measured) {
        Gradients::Uphill
    } else if check.since_previous.as_ref().is_some_and(predicts) {
        Gradients::NotCleared
    } else {
        Gradients::Wrong
    };
    Ok((check, gradients))
}
