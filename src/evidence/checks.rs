use serde::{Deserialize, Serialize};

use super::Listing;

/// A way to read a batch that gives a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReading {
    /// Each supervised token predicted from those before it, the mean over all of them: the definition.
    Definition,
    /// Each supervised token predicted at its own position: labels that were not shifted.
    NotShifted,
    /// Each supervised token predicted one position too early: labels that were shifted twice.
    ShiftedTwice,
    /// All tokens of the rows, prompts too.
    PromptsToo,
    /// The supervised tokens and all padding behind shorter rows.
    PaddingToo,
    /// The supervised tokens and the first padding token behind each shorter row, as mlx-lm counts them.
    OnePaddingToo,
    /// The mean over rows of each row's mean.
    MeanOfRowMeans,
    /// The sum over supervised tokens divided by all tokens of the batch, padding included.
    DividedByAllTokens,
}

/// The loss of one reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadLoss {
    /// The reading.
    pub reading: LossReading,
    /// Mean loss in nats per token; `None` when the reading has no token or its value is not finite.
    pub loss: Option<f64>,
}

/// The loss of the first step, recomputed from the logits of the model before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossCheck {
    /// What the trainer reported; `None` when it was not finite.
    pub reported: Option<f64>,
    /// What each reading of the same batch gives.
    pub readings: Vec<ReadLoss>,
}

impl LossCheck {
    /// The loss of one reading.
    pub fn loss(&self, reading: LossReading) -> Option<f64> {
        self.readings.iter().find(|read| read.reading == reading)?.loss
    }
}

/// The slope of the loss along a direction, once from the gradients and once from the loss itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slope {
    /// Scalar product of the gradients and the direction, which has length 1.
    pub predicted: f64,
    /// Central difference of the loss along the direction; `None` when it is not finite.
    pub measured: Option<f64>,
}

/// The gradients of the last step against finite differences of its loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradientCheck {
    /// The step.
    pub step: usize,
    /// Along the gradient that was reported.
    pub reported: Slope,
    /// Along the difference between the gradient of this step and of the step before, as if the latter had not been
    /// cleared; `None` at the first step, when the two are equal, and when the reported slope is right.
    pub since_previous: Option<Slope>,
    /// Slopes that rounding alone can produce; smaller ones say nothing.
    pub resolution: f64,
}

/// A way in which an optimizer can turn gradients into changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateReading {
    /// As the settings say.
    AsConfigured,
    /// No change at all.
    NotStepped,
    /// With every gradient negated: uphill.
    Uphill,
    /// With each gradient added to all earlier ones.
    GradientsSummed,
    /// With fresh moments at every step.
    MomentsForgotten,
    /// With moments that stay as the first step made them, used as they are or blended with each step's gradient.
    MomentsFrozen,
    /// The learning rate times the gradient, without moments.
    PlainDescent,
    /// With bias correction where the settings have none, or without it where they ask for it.
    OtherBiasCorrection,
    /// As configured times one factor for all coordinates and steps; see [`OptimizerCheck::factor`].
    Scaled,
    /// As configured with another weight decay; see [`OptimizerCheck::weight_decay`].
    Decayed,
    /// As configured with a larger epsilon; see [`OptimizerCheck::epsilon`].
    LargeEpsilon,
}

/// How far the changes are from one reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadUpdate {
    /// The reading.
    pub reading: UpdateReading,
    /// Summed distance from the predicted changes beyond the rounding of the parameter, over the summed size of the
    /// predicted changes (of the observed ones for a reading that predicts none); `None` when it is not finite.
    pub error: Option<f64>,
}

/// The optimizer replayed in f64 on a sample of coordinates, from the gradients it was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerCheck {
    /// Tensors that were sampled.
    pub tensors: Listing,
    /// Coordinates followed, over all tensors.
    pub coordinates: usize,
    /// Steps followed.
    pub steps: usize,
    /// What each reading predicts.
    pub readings: Vec<ReadUpdate>,
    /// The factor on the configured changes that fits best; `None` when nothing was predicted.
    pub factor: Option<f64>,
    /// The weight decay that fits best; `None` when the parameters are zero.
    pub weight_decay: Option<f64>,
    /// The weight decay of the settings.
    pub configured_weight_decay: f64,
    /// The power of ten that fits best as epsilon.
    pub epsilon: Option<f64>,
    /// Summed size of the observed changes over that of the configured ones before rounding to the parameter's type;
    /// `None` when none was predicted.
    pub realised_share: Option<f64>,
}

impl OptimizerCheck {
    /// The error of one reading.
    pub fn error(&self, reading: UpdateReading) -> Option<f64> {
        self.readings.iter().find(|read| read.reading == reading)?.error
    }
}
