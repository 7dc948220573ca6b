use crate::evidence::{Evidence, FitComparison, ModelEvidence};

/// One optimizer step of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurveStep {
    /// Counted from 1.
    pub step: usize,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Mean loss in nats per supervised token before the update; `None` when it is not finite.
    pub loss: Option<f64>,
    /// Norm of all gradients before clipping; `None` when it is not finite.
    pub gradient_norm: Option<f64>,
}

/// A loss that was measured between two steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurvePoint {
    /// Updates made until then.
    pub updates: usize,
    /// In nats per supervised token.
    pub loss: f64,
}

/// What training showed step by step, for a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Curves {
    /// Every step, in order; at least one.
    pub steps: Vec<CurveStep>,
    /// Losses of the validation rows, in order; empty without such rows.
    pub validation: Vec<CurvePoint>,
    /// Losses of the first training rows before and after; those that were measured and are finite.
    pub same_rows: Vec<CurvePoint>,
    /// Loss of a uniform guess in nats per token.
    pub uniform_loss: Option<f64>,
    /// The norm that gradients are scaled down to; `None` without clipping.
    pub clip_norm: Option<f64>,
}

impl Curves {
    /// The curves of the run; `None` when no step was made.
    pub(super) fn of(evidence: &Evidence) -> Option<Self> {
        let steps: Vec<CurveStep> = evidence
            .training
            .ran()?
            .steps
            .iter()
            .map(|step| CurveStep {
                step: step.step,
                learning_rate: step.learning_rate,
                loss: finite(step.loss),
                gradient_norm: finite(step.gradient_norm),
            })
            .collect();
        let last = steps.last()?.step;
        let fit = evidence.fit.ran();
        Some(Self {
            steps,
            validation: fit.map_or_else(Vec::new, |fit| validation(fit, last)),
            same_rows: fit.map_or_else(Vec::new, |fit| {
                let ends = [(0, fit.loss_before()), (last, fit.loss_after())];
                ends.into_iter().filter_map(point).collect()
            }),
            uniform_loss: finite(evidence.model.ran().map(ModelEvidence::uniform_loss)),
            clip_norm: evidence.settings.clip_norm,
        })
    }
}

fn validation(fit: &FitComparison, last: usize) -> Vec<CurvePoint> {
    let before = std::iter::once((0, fit.validation_before));
    let between = fit.validation_between.iter().map(|point| (point.updates, point.loss));
    let after = std::iter::once((last, fit.validation_after));
    before.chain(between).chain(after).filter_map(point).collect()
}

fn point((updates, loss): (usize, Option<f64>)) -> Option<CurvePoint> {
    finite(loss).map(|loss| CurvePoint { updates, loss })
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}
