//! Where numbers stand along an axis, and which of them are written beside it.

use crate::rules::wording::shortest;

/// A linear axis spans at least this share of its largest number, so that noise does not look like a course.
const NARROWEST: f64 = 0.2;
/// Numbers whose smallest is below this share of the largest begin at zero.
const FROM_ZERO: f64 = 0.5;
/// Numbers beyond this, of either sign, stand at the end of the axis: their differences would overflow.
const LARGEST: f64 = 1e150;
/// Numbers below this are drawn as zero.
const SMALLEST: f64 = 1e-150;
/// About as many labels as fit beside an axis.
const LABELS: f64 = 5.0;

/// An axis from its lower to its upper end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    /// Distance of two labels; of the exponents where the axis is logarithmic.
    step: f64,
}

impl Axis {
    /// A linear axis around the numbers, all finite; from 0 to 1 without one.
    pub(crate) fn linear(values: &[f64]) -> Self {
        let Some((mut low, mut high)) = ends(values) else {
            return Self::spanning(0.0, 1.0);
        };
        let size = low.abs().max(high.abs());
        if size < SMALLEST {
            return Self::spanning(0.0, 1.0);
        }
        if low >= 0.0 && low < FROM_ZERO * high {
            low = 0.0;
        }
        let missing = NARROWEST * size - (high - low);
        if missing > 0.0 {
            let room = low;
            low -= missing / 2.0;
            high += missing / 2.0;
            // A loss or a norm has nothing below zero to show.
            if room >= 0.0 {
                low = low.max(0.0);
            }
        }
        Self::spanning(low, high)
    }

    fn spanning(low: f64, high: f64) -> Self {
        let step = round_step((high - low) / LABELS);
        Self {
            low: (low / step).floor() * step,
            high: (high / step).ceil() * step,
            logarithmic: false,
            step,
        }
    }

    /// A logarithmic axis around those of the numbers that are above zero, in whole powers of ten; `None` without one.
    pub(crate) fn logarithmic(values: &[f64]) -> Option<Self> {
        let above_zero: Vec<f64> = values.iter().copied().filter(|value| *value > 0.0).collect();
        let (low, high) = ends(&above_zero)?;
        let low = low.log10().floor();
        let high = high.log10().ceil().max(low + 1.0);
        Some(Self {
            low,
            high,
            logarithmic: true,
            step: ((high - low) / LABELS).ceil().max(1.0),
        })
    }

    /// Whether powers of ten have equal distances.
    pub(crate) fn is_logarithmic(&self) -> bool {
        self.logarithmic
    }

    /// Whether a number lies between the ends.
    pub(crate) fn holds(&self, value: f64) -> bool {
        let place = self.unclamped(value);
        (0.0..=1.0).contains(&place)
    }

    /// Where a number stands, from 0 at the lower end to 1; zero on a logarithmic axis stands at its lower end.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let place = self.unclamped(value);
        if place.is_nan() { 0.0 } else { place.clamp(0.0, 1.0) }
    }

    fn unclamped(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.log10() } else { value };
        (value - self.low) / (self.high - self.low)
    }

    /// The numbers that are written beside the axis.
    pub(crate) fn labels(&self) -> Vec<(f64, String)> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count)
            .map(|index| self.low + index as f64 * self.step)
            .filter(|place| *place <= self.high + self.step / 2.0)
            .map(|place| {
                if self.logarithmic {
                    let value = 10_f64.powf(place);
                    return (value, power_of_ten(place));
                }
                (place, plain(place, self.step))
            })
            .filter(|(value, _)| self.logarithmic || *value <= self.high * (1.0 + 1e-9))
            .collect()
    }
}

fn ends(values: &[f64]) -> Option<(f64, f64)> {
    let low = values.iter().copied().reduce(f64::min)?;
    let high = values.iter().copied().reduce(f64::max)?;
    Some((low.clamp(-LARGEST, LARGEST), high.clamp(-LARGEST, LARGEST)))
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below `least`.
pub(crate) fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power);
    step.into_iter()
        .find(|step| *step >= least * (1.0 - 1e-9))
        .unwrap_or(10.0 * power)
}

/// A power of ten as people write it.
pub(crate) fn power_of_ten(exponent: f64) -> String {
    const PLAIN: std::ops::RangeInclusive<i32> = -3..=3;
    let exponent = exponent.round() as i32;
    if PLAIN.contains(&exponent) {
        // Through text: 10^-3 has no exact form in binary.
        return format!("1e{exponent}")
            .parse()
            .map_or_else(|_| format!("1e{exponent}"), |value: f64| value.to_string());
    }
    format!("1e{exponent}")
}

/// A label with as many digits as tell it from its neighbours.
fn plain(value: f64, step: f64) -> String {
    const LONGEST: usize = 6;
    let digits = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
    let text = format!("{:.digits$}", if value == 0.0 { 0.0 } else { value });
    if text.len() > LONGEST { shortest(value) } else { text }
}
