//! The gradients of the last step against finite differences of the loss.

use std::collections::BTreeMap;
use std::rc::Rc;

use mlx_rs::error::Result;
use mlx_rs::module::update_parameters;
use mlx_rs::ops::{add, multiply, square, subtract};
use mlx_rs::{Array, Dtype};

use crate::data::Batch;
use crate::evidence::{GradientCheck, Slope, Slot};
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::readback::scalar;
use crate::train::{Lanes, LossAndGradients, mean_loss};

/// Change of the loss, from one end to the other, that the step along a gradient aims at, as a share of the loss, and four
/// times what it aims at from one side: far above the rounding of a loss in f32, and far below what bends it.
const WANTED_CHANGE: f64 = 0.01;
/// The same for parameters and activations of 16 bits, whose loss is a thousand times coarser.
const WANTED_CHANGE_IN_16_BITS: f64 = 0.1;
/// Loss in nats above which the share is taken of this number: where a model is worse than that, its loss bends early.
const LARGEST_SCALE: f64 = 2.0;
/// Factor from a step to the shorter one that is tried where the two slopes differ.
const SHORTER: f64 = 0.125;
/// Longest step as a share of the parameters' norm, for a loss that is all but flat.
const LONGEST_STEP: f64 = 0.01;
/// Rounding of a mean loss in f32, relative to its size: four units of the last place.
const LOSS_ROUNDING: f64 = 4.0 / 8_388_608.0;
/// The same where activations are bfloat16, the coarser of the two types of 16 bits.
const LOSS_ROUNDING_IN_16_BITS: f64 = 1.0 / 128.0;
/// Relative distance of the two slopes beyond which the direction since the previous step is looked at too.
const SECOND_LOOK: f64 = 0.02;

/// One backward pass as the trainer got it.
#[derive(Debug)]
struct Pass {
    batch: Batch,
    parameters: BTreeMap<String, Array>,
    gradients: BTreeMap<String, Array>,
    loss: Array,
}

/// Keeps the last pass of a run and the gradients of the one before it.
///
/// Handles are kept, not copies, and only from the last two passes on: until then a run needs no memory for it.
#[derive(Debug)]
pub struct GradientRecorder {
    /// The step to be checked.
    watched: usize,
    passes: usize,
    previous: Option<BTreeMap<String, Array>>,
    last: Option<Pass>,
}

impl GradientRecorder {
    /// A recorder for a run of `steps` steps.
    pub fn new(steps: usize) -> Self {
        Self {
            watched: steps,
            passes: 0,
            previous: None,
            last: None,
        }
    }

    /// Takes notice of one pass, before its update.
    pub fn record(&mut self, model: &CausalModel, batch: &Batch, pass: &LossAndGradients) {
        self.passes += 1;
        if self.passes + 1 == self.watched {
            self.previous = Some(pass.gradients.clone());
        } else if self.passes == self.watched {
            self.last = Some(Pass {
                batch: batch.clone(),
                parameters: ParameterSnapshot::capture_trainable(model).into_parameters(),
                gradients: pass.gradients.clone(),
                loss: pass.loss.clone(),
            });
        }
    }

    /// Bytes of the arrays that are kept at this moment and that the run itself has dropped.
    pub fn kept_bytes(&self) -> u64 {
        let last = self
            .last
            .iter()
            .flat_map(|pass| pass.parameters.values().chain(pass.gradients.values()));
        let previous = self.previous.iter().flat_map(BTreeMap::values);
        last.chain(previous).map(|array| array.nbytes() as u64).sum()
    }

    /// Compares the gradients of the last pass with the loss of its batch around its parameters.
    ///
    /// `model` lends everything that is not trained.
    pub fn measure(self, model: &CausalModel, lanes: &Lanes) -> Result<Slot<GradientCheck>> {
        let Some(pass) = self.last else {
            return Ok(Slot::skipped("the last step was not made"));
        };
        if pass.batch.supervised_tokens() == 0 {
            return Ok(Slot::skipped("the last batch has no supervised token"));
        }
        let reported = f64::from(scalar::<f32>(&pass.loss)?);
        let field = LossField {
            model,
            batch: &pass.batch,
            lanes,
            parameters: &pass.parameters,
            norm: norm(&pass.parameters)?,
            reported,
            scale: reported.clamp(0.0, LARGEST_SCALE),
        };
        let Some((reported, resolution)) = field.settled_slope(&pass.gradients)? else {
            return Ok(Slot::skipped(
                "the gradient of the last step is zero or not finite, so it has no direction",
            ));
        };
        let since_previous = match &self.previous {
            Some(previous) if differs(&reported) => {
                let difference = difference(&pass.gradients, previous)?;
                field.settled_slope(&difference)?.map(|(slope, _)| slope)
            }
            _ => None,
        };
        Ok(Slot::Ran(GradientCheck {
            step: self.watched,
            reported,
            since_previous,
            resolution,
        }))
    }
}

/// The slope of the loss of `batch` along `pass`'s gradients, between a step of length `half` behind and one ahead, and the
/// slope that rounding alone can make; `None` when the gradients are zero or a number is not finite.
///
/// Whoever asks chooses the step, and looks twice where the loss bends.
pub fn central_slope(
    model: &CausalModel,
    batch: &Batch,
    lanes: &Lanes,
    pass: &LossAndGradients,
    half: f64,
) -> Result<Option<(Slope, f64)>> {
    let parameters = ParameterSnapshot::capture_trainable(model).into_parameters();
    let reported = f64::from(scalar::<f32>(&pass.loss)?);
    let field = LossField {
        model,
        batch,
        lanes,
        norm: norm(&parameters)?,
        parameters: &parameters,
        reported,
        scale: reported.clamp(0.0, LARGEST_SCALE),
    };
    let length = norm(&pass.gradients)?;
    if length == 0.0 || !length.is_finite() {
        return Ok(None);
    }
    field.slope(&pass.gradients, half / length)
}

/// Whether the two slopes are apart by more than a smooth loss explains.
fn differs(slope: &Slope) -> bool {
    slope.measured.is_none_or(|measured| {
        (measured - slope.predicted).abs() > SECOND_LOOK * slope.predicted.abs().max(measured.abs())
    })
}

/// The loss of one batch as a function of the trained parameters.
struct LossField<'pass> {
    model: &'pass CausalModel,
    batch: &'pass Batch,
    lanes: &'pass Lanes,
    parameters: &'pass BTreeMap<String, Array>,
    norm: f64,
    /// The loss that the trainer computed.
    reported: f64,
    /// The loss in nats that the step is chosen for.
    scale: f64,
}

impl LossField<'_> {
    /// The slope along `gradients` and what is known of it: where it is not the predicted one, a shorter step has to find
    /// the same, and what they differ by counts as unknown. `None` when there is no direction.
    fn settled_slope(&self, gradients: &BTreeMap<String, Array>) -> Result<Option<(Slope, f64)>> {
        let length = norm(gradients)?;
        if length == 0.0 || !length.is_finite() || !self.norm.is_finite() {
            return Ok(None);
        }
        let wanted = if self.is_coarse() {
            WANTED_CHANGE_IN_16_BITS
        } else {
            WANTED_CHANGE
        };
        let half = (wanted * self.scale / length / 2.0).min(LONGEST_STEP * self.norm);
        // From one side a shorter step keeps the bend small, and the loss itself is known without rounding twice.
        if let Some(found) = self.slope_ahead(gradients, half / 2.0 / length)?
            && !differs(&found.0)
        {
            return Ok(Some(found));
        }
        let Some((slope, rounding)) = self.slope(gradients, half / length)? else {
            return Ok(None);
        };
        // A shorter step drowns in the rounding of 16 bits.
        if self.is_coarse() || !differs(&slope) {
            return Ok(Some((slope, rounding)));
        }
        let Some((shorter, its_rounding)) = self.slope(gradients, SHORTER * half / length)? else {
            return Ok(Some((slope, rounding)));
        };
        let moved = match (slope.measured, shorter.measured) {
            (Some(before), Some(after)) => (before - after).abs(),
            _ => 0.0,
        };
        Ok(Some((shorter, its_rounding + moved)))
    }

    /// Whether parameters or activations have 16 bits.
    fn is_coarse(&self) -> bool {
        let norm = &self.model.model.norm.weight.value;
        norm.item_size() == 2 || self.parameters.values().any(|array| array.item_size() == 2)
    }

    /// The slope along the step of `factor` times `gradients` ahead and behind, as the gradients predict it and as the loss
    /// has it, and the slope that rounding alone can make; `None` when nothing moves or a number is not finite.
    ///
    /// Both slopes are along the step that was really made: a parameter of 16 bits cannot follow a small step exactly.
    fn slope(&self, gradients: &BTreeMap<String, Array>, factor: f64) -> Result<Option<(Slope, f64)>> {
        let ahead = self.moved(gradients, factor)?;
        let behind = self.moved(gradients, -factor)?;
        self.slope_along(gradients, &difference(&ahead, &behind)?, || {
            Ok([self.loss(behind)?, self.loss(ahead)?])
        })
    }

    /// The slope from the reported loss to the one a step of `factor` times `gradients` ahead: one pass instead of two, and
    /// the bend of the loss in it, so that only its agreement counts. `None` as in [`slope`](Self::slope), and for 16 bits.
    fn slope_ahead(&self, gradients: &BTreeMap<String, Array>, factor: f64) -> Result<Option<(Slope, f64)>> {
        if self.is_coarse() {
            return Ok(None);
        }
        let ahead = self.moved(gradients, factor)?;
        self.slope_along(gradients, &difference(&ahead, self.parameters)?, || {
            Ok([self.reported, self.loss(ahead)?])
        })
    }

    /// The slope along `step`, whose two ends have these losses, and the slope that rounding alone can make; `None` when
    /// nothing moves or a number is not finite.
    fn slope_along(
        &self,
        gradients: &BTreeMap<String, Array>,
        step: &BTreeMap<String, Array>,
        losses: impl FnOnce() -> Result<[f64; 2]>,
    ) -> Result<Option<(Slope, f64)>> {
        let length = norm(step)?;
        if length == 0.0 {
            return Ok(None);
        }
        let [from, to] = losses()?;
        let measured = (to - from) / length;
        let rounding = if self.is_coarse() {
            LOSS_ROUNDING_IN_16_BITS
        } else {
            LOSS_ROUNDING
        };
        let size = [from, to]
            .into_iter()
            .filter(|loss| loss.is_finite())
            .fold(1.0, f64::max);
        let slope = Slope {
            predicted: product(gradients, step)? / length,
            measured: measured.is_finite().then_some(measured),
        };
        let resolution = rounding * size / length;
        Ok(slope.predicted.is_finite().then_some((slope, resolution)))
    }

    /// The parameters plus `factor` times `direction`, in their own element types.
    fn moved(&self, direction: &BTreeMap<String, Array>, factor: f64) -> Result<BTreeMap<String, Array>> {
        let factor = Array::from_f32(factor as f32);
        self.parameters
            .iter()
            .map(|(name, parameter)| {
                let moved = match direction.get(name) {
                    Some(along) => add(in_f32(parameter)?, multiply(in_f32(along)?, &factor)?)?,
                    None => parameter.clone(),
                };
                Ok((name.clone(), moved.as_dtype(parameter.dtype())?))
            })
            .collect()
    }

    fn loss(&self, parameters: BTreeMap<String, Array>) -> Result<f64> {
        let mut model = self.model.clone();
        update_parameters(
            &mut model,
            parameters
                .into_iter()
                .map(|(name, value)| (Rc::<str>::from(name), value)),
        );
        mean_loss(&model, self.batch, self.lanes)
    }
}

fn in_f32(array: &Array) -> Result<Array> {
    array.as_dtype(Dtype::Float32)
}

/// The arrays of `left` minus those of `right` of the same name, in f32.
fn difference(left: &BTreeMap<String, Array>, right: &BTreeMap<String, Array>) -> Result<BTreeMap<String, Array>> {
    left.iter()
        .filter_map(|(name, array)| right.get(name).map(|other| (name, array, other)))
        .map(|(name, array, other)| Ok((name.clone(), subtract(in_f32(array)?, in_f32(other)?)?)))
        .collect()
}

fn norm(arrays: &BTreeMap<String, Array>) -> Result<f64> {
    let squares = arrays
        .values()
        .map(|array| square(in_f32(array)?)?.sum(None))
        .collect::<Result<Vec<_>>>()?;
    Ok(total(&squares)?.sqrt())
}

/// The scalar product over the arrays of the same name.
fn product(left: &BTreeMap<String, Array>, right: &BTreeMap<String, Array>) -> Result<f64> {
    let products = left
        .iter()
        .filter_map(|(name, array)| right.get(name).map(|other| (array, other)))
        .map(|(array, other)| multiply(in_f32(array)?, in_f32(other)?)?.sum(None))
        .collect::<Result<Vec<_>>>()?;
    total(&products)
}

/// The sum of scalars, in f64.
fn total(scalars: &[Array]) -> Result<f64> {
    mlx_rs::transforms::eval(scalars)?;
    scalars
        .iter()
        .map(|value| scalar::<f32>(value).map(f64::from))
        .sum::<Result<f64>>()
}

#[cfg(test)]
mod tests {
    use super::{difference, norm, product};
    use approx::assert_relative_eq;
    use mlx_rs::Array;
    use std::collections::BTreeMap;

    fn arrays(values: [f32; 3]) -> BTreeMap<String, Array> {
        let [first, second, third] = values;
        BTreeMap::from([
            ("a".to_owned(), Array::from_slice(&[first, second], &[2])),
            ("b".to_owned(), Array::from_slice(&[third], &[1])),
        ])
    }

    #[test]
    fn norms_and_products_run_over_all_arrays() {
        let (left, right) = (arrays([1.0, 2.0, 2.0]), arrays([3.0, -1.0, 0.5]));
        assert_relative_eq!(norm(&left).unwrap(), 3.0);
        assert_relative_eq!(product(&left, &right).unwrap(), 2.0);
        assert_relative_eq!(norm(&difference(&left, &right).unwrap()).unwrap(), 15.25_f64.sqrt());
    }
}
