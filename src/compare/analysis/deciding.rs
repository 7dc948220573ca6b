//! The measures by which one format serves better.

use super::measure::{CONCURRENCY, CONTEXT};
use super::wording::{bytes, figures, ratio, seconds};
use super::{Comparison, Summary};
use crate::compare::{Format, Unit};

/// What a deciding measure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aspect {
    FirstToken,
    LongPrompt,
    PerToken,
    Throughput,
    Memory,
    Load,
}

impl Aspect {
    const ALL: [Self; 6] = [
        Self::FirstToken,
        Self::LongPrompt,
        Self::PerToken,
        Self::Throughput,
        Self::Memory,
        Self::Load,
    ];

    /// What the better format does.
    pub(super) fn praise(self) -> &'static str {
        match self {
            Self::FirstToken => "answers sooner",
            Self::LongPrompt => "reads long prompts faster",
            Self::PerToken => "writes faster",
            Self::Throughput => "serves more at a time",
            Self::Memory => "needs less memory",
            Self::Load => "loads faster",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::FirstToken | Self::LongPrompt => "time to first token",
            Self::PerToken => "time per output token",
            Self::Throughput => "throughput",
            Self::Memory => "peak memory",
            Self::Load => "time to load",
        }
    }
}

/// A measure that both sides have, and which of them is better in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deciding<'a> {
    pub(super) aspect: Aspect,
    pub(super) comparison: &'a Comparison,
    gguf: Summary,
    mlx: Summary,
    /// MLX by GGUF.
    ratio: super::Interval,
}

impl<'a> Deciding<'a> {
    /// Each aspect that both sides have.
    pub(super) fn all(comparisons: &'a [Comparison]) -> Vec<Self> {
        Aspect::ALL
            .into_iter()
            .filter_map(|aspect| Self::of(aspect, comparisons))
            .collect()
    }

    fn of(aspect: Aspect, comparisons: &'a [Comparison]) -> Option<Self> {
        let both = |comparison: &&&Comparison| {
            comparison.gguf.is_some() && comparison.mlx.is_some() && comparison.ratio.is_some()
        };
        let named = |name: &'static str| comparisons.iter().filter(move |comparison| comparison.measure == name);
        // The scenario that is closest to one person's use, or else the first.
        let usual = |name| {
            let simple = named(name).filter(|comparison| comparison.scenario == "simple-generation");
            let found: Vec<&Comparison> = simple.chain(named(name)).collect();
            found.iter().find(|comparison| both(comparison)).copied()
        };
        let comparison = match aspect {
            Aspect::FirstToken => usual("time-to-first-token"),
            Aspect::PerToken => usual("time-per-output-token"),
            Aspect::Memory => usual("peak-memory"),
            Aspect::Load => usual("ready-cold").or_else(|| usual("ready-warm")),
            Aspect::LongPrompt => highest(comparisons, "time-to-first-token-", CONTEXT),
            Aspect::Throughput => highest(comparisons, "throughput-", CONCURRENCY).or_else(|| usual("throughput")),
        }?;
        Some(Self {
            aspect,
            comparison,
            gguf: comparison.gguf?,
            mlx: comparison.mlx?,
            ratio: comparison.ratio?,
        })
    }

    /// The better format, where one is beyond the noise.
    pub(super) fn better(&self) -> Option<Format> {
        self.comparison.better
    }

    /// The better format's number by the other's.
    pub(super) fn ratio_of(&self, format: Format) -> f64 {
        match format {
            Format::Mlx => self.ratio.estimate,
            Format::Gguf => 1.0 / self.ratio.estimate,
        }
    }

    /// Values of the side that has fewer.
    pub(super) fn values(&self) -> usize {
        self.gguf.count.min(self.mlx.count)
    }

    /// Which is better and by how much, in one sentence.
    pub(super) fn reason(&self) -> String {
        let numbers = format!(
            "{} with GGUF, {} with MLX ({} times, {} to {})",
            self.shown(self.gguf.median),
            self.shown(self.mlx.median),
            ratio(self.ratio.estimate),
            ratio(self.ratio.low),
            ratio(self.ratio.high),
        );
        let measure = &self.comparison.measure;
        let at = if let Some((_, count)) = measure.rsplit_once(CONCURRENCY) {
            format!(" at {count} requests at a time")
        } else if let Some((_, tokens)) = measure.rsplit_once(CONTEXT) {
            format!(" with prompts of {tokens} tokens")
        } else {
            String::new()
        };
        let name = self.aspect.name();
        match self.better() {
            Some(format) => format!("{} {}: {name}{at} is {numbers}", format.title(), self.aspect.praise()),
            None => format!("neither {}: {name}{at} is {numbers}", self.aspect.praise()),
        }
    }

    fn shown(&self, value: f64) -> String {
        match self.comparison.unit {
            Unit::Seconds => seconds(value),
            Unit::Bytes => bytes(value),
            _ => format!("{} tokens/s", figures(value)),
        }
    }
}

/// A measure in the group with the highest number, of those that both sides have: the most requests at one time, the longest
/// prompts.
fn highest<'a>(comparisons: &'a [Comparison], measure: &str, groups: &str) -> Option<&'a Comparison> {
    let both = comparisons.iter().filter(|comparison| comparison.ratio.is_some());
    both.filter_map(|comparison| {
        let group = comparison.measure.strip_prefix(measure)?;
        let number: usize = group.strip_prefix(groups)?.parse().ok()?;
        Some((number, comparison))
    })
    .rev()
    .max_by_key(|&(number, _)| number)
    .map(|(_, comparison)| comparison)
}
