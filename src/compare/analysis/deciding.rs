//! The measures by which one format serves better.

use super::measure::{CONCURRENCY, CONTEXT, group_title};
use super::wording::{bytes, figures, ratio, seconds};
use super::{Comparison, Ratio, Summary};
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

    /// Whether it is about how fast answers come.
    pub(super) fn is_speed(self) -> bool {
        matches!(
            self,
            Self::FirstToken | Self::LongPrompt | Self::PerToken | Self::Throughput
        )
    }

    /// What is measured.
    pub(super) fn name(self) -> &'static str {
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
    ratio: Ratio,
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
            Aspect::PerToken => {
                usual("time-per-output-token").or_else(|| highest(comparisons, "time-per-output-token-", CONTEXT))
            }
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
            "{} with GGUF, {} with MLX ({} times, {})",
            self.shown(self.gguf.median),
            self.shown(self.mlx.median),
            ratio(self.ratio.estimate),
            match self.ratio.interval {
                Some([low, high]) => format!("{} to {}", ratio(low), ratio(high)),
                None => format!("n = {}", self.values()),
            }
        );
        let measured = format!("{} ({})", self.aspect.name(), self.setting());
        match self.better() {
            Some(format) => format!("{} {}: {measured} is {numbers}", format.title(), self.aspect.praise()),
            None => format!("neither {}: {measured} is {numbers}", self.aspect.praise()),
        }
    }

    /// What was asked when it was measured.
    fn setting(&self) -> String {
        let Comparison { scenario, measure, .. } = self.comparison;
        for groups in [CONCURRENCY, CONTEXT] {
            if let Some(place) = measure.rfind(groups) {
                return group_title(&measure[place..]);
            }
        }
        let words = match (scenario.as_str(), measure.as_str()) {
            (_, "ready-cold") => "files read from disk",
            (_, "ready-warm") => "files in memory",
            ("simple-generation", _) => "short questions",
            ("context-stress", _) => "long prompts",
            ("concurrency" | "mixture", _) => "several requests at a time",
            ("memory-leak", _) => "many short requests",
            ("cold-start", _) => "a first answer after loading",
            ("quality", _) => "one text",
            _ => return format!("in `{scenario}`"),
        };
        words.to_owned()
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
