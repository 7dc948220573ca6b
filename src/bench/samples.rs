//! Times that were measured again and again, and what is said of them.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::quantile::quantile;
use crate::thresholds::OUTLIER_FENCE;

/// One value for each repeat of a measurement, in the order in which they were measured, without its warm-ups; seconds
/// unless another unit is said.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// The values, which are finite.
    pub fn new(values: Vec<f64>) -> Self {
        debug_assert!(values.iter().all(|value| value.is_finite()), "{values:?}");
        Self(values)
    }

    /// Runs `work` `warm_ups` times, then `repeats` times, of which it keeps the seconds.
    ///
    /// # Errors
    /// The first one of `work`.
    pub fn measure<E>(warm_ups: usize, repeats: usize, mut work: impl FnMut() -> Result<(), E>) -> Result<Self, E> {
        for _ in 0..warm_ups {
            work()?;
        }
        let seconds = (0..repeats).map(|_| {
            let started = Instant::now();
            work()?;
            Ok(started.elapsed().as_secs_f64())
        });
        Ok(Self(seconds.collect::<Result<_, E>>()?))
    }

    /// Adds the value of one more repeat.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The values in the order in which they were measured.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every value through `change`, for example seconds to tokens per second.
    #[must_use]
    pub fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        Self(self.0.iter().copied().map(change).collect())
    }

    /// The middle value, or the mean of the two in the middle; `None` without a value.
    pub fn median(&self) -> Option<f64> {
        quantile(&self.0, 0.5)
    }

    /// The lower and the upper quartile; `None` without a value.
    pub fn quartiles(&self) -> Option<(f64, f64)> {
        Some((quantile(&self.0, 0.25)?, quantile(&self.0, 0.75)?))
    }

    /// The values beyond Tukey's fences, from the smallest: further below the lower quartile or above the upper one than 1.5
    /// times the distance between the two (Tukey 1977, Exploratory Data Analysis, section 2D). They stay in the median and
    /// the quartiles, which they hardly move.
    pub fn outliers(&self) -> Vec<f64> {
        let Some((low, high)) = self.quartiles() else {
            return Vec::new();
        };
        let fence = OUTLIER_FENCE * (high - low);
        let mut outliers: Vec<f64> = self
            .0
            .iter()
            .copied()
            .filter(|&value| value < low - fence || value > high + fence)
            .collect();
        outliers.sort_by(f64::total_cmp);
        outliers
    }
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Tokens in a second.
    #[serde(rename = "tokens/s")]
    TokensPerSecond,
    /// 1e9 bytes in a second.
    #[serde(rename = "GB/s")]
    GigabytesPerSecond,
    /// 1e9 multiplications and additions in a second.
    #[serde(rename = "GFLOP/s")]
    GigaflopsPerSecond,
    /// Bytes.
    #[serde(rename = "bytes")]
    Bytes,
    /// Joules.
    #[serde(rename = "J")]
    Joules,
    /// Tokens for a joule.
    #[serde(rename = "tokens/J")]
    TokensPerJoule,
    /// A part of something, 0 to 1, which the figure's name says.
    #[serde(rename = "share")]
    Share,
}

/// Which of two figures is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The smaller.
    Less,
    /// The larger.
    More,
}

impl Unit {
    /// Which of two figures is the better one; `None` for shares, which are made of figures that are judged themselves.
    pub fn better(self) -> Option<Better> {
        match self {
            Self::Seconds | Self::Bytes | Self::Joules => Some(Better::Less),
            Self::TokensPerSecond | Self::GigabytesPerSecond | Self::GigaflopsPerSecond | Self::TokensPerJoule => {
                Some(Better::More)
            }
            Self::Share => None,
        }
    }

    /// As it is written behind a figure.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::TokensPerSecond => "tokens/s",
            Self::GigabytesPerSecond => "GB/s",
            Self::GigaflopsPerSecond => "GFLOP/s",
            Self::Bytes => "bytes",
            Self::Joules => "J",
            Self::TokensPerJoule => "tokens/J",
            Self::Share => "share",
        }
    }
}

/// One measured figure with its spread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// In kebab case, for example `prefill-512`; unique within its subject.
    pub name: String,
    /// What the values count.
    pub unit: Unit,
    /// One value for each repeat, in the order in which they were measured, without warm-ups.
    pub samples: Samples,
    /// Their median.
    pub median: f64,
    /// Their lower quartile.
    pub low: f64,
    /// Their upper quartile.
    pub high: f64,
    /// Those beyond Tukey's fences, from the smallest.
    pub outliers: Vec<f64>,
    /// What is to be known of the figure: shapes, counts, how it was measured. One sentence without a final period.
    pub note: String,
}

impl Measurement {
    /// The figure of these values; `None` when there is none.
    pub fn new(name: impl Into<String>, unit: Unit, samples: Samples, note: impl Into<String>) -> Option<Self> {
        let median = samples.median()?;
        let (low, high) = samples.quartiles()?;
        Some(Self {
            name: name.into(),
            unit,
            median,
            low,
            high,
            outliers: samples.outliers(),
            samples,
            note: note.into(),
        })
    }

    /// Adds values of another round.
    pub(super) fn add(&mut self, samples: &Samples) {
        let both = [self.samples.values(), samples.values()].concat();
        if let Some(added) = Self::new(&self.name, self.unit, Samples::new(both), &self.note) {
            *self = added;
        }
    }

    /// The same measurement as amount by second: `amount` is what one repeat does, in the units of `unit`.
    pub fn rate(
        name: impl Into<String>,
        unit: Unit,
        seconds: &Samples,
        amount: f64,
        note: impl Into<String>,
    ) -> Option<Self> {
        Self::new(name, unit, seconds.map(|seconds| amount / seconds), note)
    }

    /// Whether median, quartiles and outliers are those of the samples: a file may have been changed by hand.
    pub fn is_consistent(&self) -> bool {
        let quartiles = Some((self.low, self.high));
        self.samples.median() == Some(self.median)
            && self.samples.quartiles() == quartiles
            && self.samples.outliers() == self.outliers
    }
}
