//! What the measurements say, without measuring anything: statistics, leaks, verdicts.

mod comparison;
mod completeness;
mod deciding;
mod latency;
pub mod leak;
mod measure;
mod memory_use;
mod not_measured;
mod parity;
mod request_speed;
mod server_times;
pub mod statistics;
pub mod thresholds;
mod tokens;
mod verdict;
mod warnings;
mod wording;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use completeness::{is_complete, lacks};
pub(super) use measure::{CONTEXT, LEAK, WARM_UP, group_name, group_title};
pub(super) use request_speed::{prompt_tokens_per_second, throughput, time_per_output_token, time_to_first_token};

use super::{Format, MemorySample, Record, TestKey, Unit};

/// Samples of memory by test.
pub type Samples = BTreeMap<TestKey, Vec<MemorySample>>;

/// What a whole comparison says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Analysis {
    /// Each pair, in the order of the plan.
    pub pairs: Vec<PairAnalysis>,
}

/// What it says of one pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairAnalysis {
    /// Name of the pair.
    pub pair: String,
    /// Which format serves better.
    pub verdict: Verdict,
    /// Every measure of both formats.
    pub comparisons: Vec<Comparison>,
    /// Whether memory grows, for each format and state of the caches that was measured.
    pub leaks: Vec<LeakAnalysis>,
    /// What the figures may not be trusted for, one sentence each: cached prompts, counts that disagree, a server's own timings
    /// that disagree, missed samples.
    pub warnings: Vec<String>,
    /// What could not be measured.
    pub not_measured: Vec<NotMeasured>,
}

/// Which format serves better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// `None` where neither does.
    pub better: Option<Format>,
    /// How sure that is.
    pub confidence: Confidence,
    /// In one sentence that stands alone.
    pub headline: String,
    /// Why, one sentence for each deciding measure.
    pub reasons: Vec<String>,
}

/// How sure a verdict is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Too little was measured to say anything.
    None,
    /// The deciding measures contradict each other, or few requests were measured.
    Low,
    /// Most deciding measures agree.
    Medium,
    /// All deciding measures agree beyond their noise.
    High,
}

/// One measure of both formats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The scenario it belongs to.
    pub scenario: String,
    /// In kebab-case, unique within the scenario: `time-to-first-token`, `time-per-output-token`, `peak-memory` and so on.
    pub measure: String,
    /// For people, with the formula where tools differ.
    pub title: String,
    /// What it is measured in.
    pub unit: Unit,
    /// Whether more is better; `None` where neither is.
    pub more_is_better: Option<bool>,
    /// Of the GGUF side; `None` where it was not measured.
    pub gguf: Option<Summary>,
    /// Of the MLX side.
    pub mlx: Option<Summary>,
    /// The median of MLX by that of GGUF.
    pub ratio: Option<Ratio>,
    /// Which format is better beyond the noise; `None` where neither is.
    pub better: Option<Format>,
}

/// Many values in a few.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// How many values.
    pub count: usize,
    /// The mean.
    pub mean: f64,
    /// The standard deviation; 0 for one value.
    pub standard_deviation: f64,
    /// The smallest.
    pub minimum: f64,
    /// A quarter is below.
    pub lower_quartile: f64,
    /// Half is below.
    pub median: f64,
    /// Three quarters are below.
    pub upper_quartile: f64,
    /// 90 in 100 are below.
    pub p90: f64,
    /// 95 in 100 are below.
    pub p95: f64,
    /// 99 in 100 are below.
    pub p99: f64,
    /// The largest.
    pub maximum: f64,
}

/// One number by another of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ratio {
    /// The estimate.
    pub estimate: f64,
    /// The ends of a bootstrap interval of 95%; `None` where there are too few values for one.
    pub interval: Option<[f64; 2]>,
}

/// An estimate and the ends of its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The estimate.
    pub estimate: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// Whether memory grows from request to request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeakAnalysis {
    /// The format.
    pub format: Format,
    /// Whether caches of earlier prompts were on.
    pub prompt_cache: bool,
    /// What is said.
    pub verdict: LeakVerdict,
    /// In one sentence that stands alone.
    pub headline: String,
    /// Bytes for each request over all of them (Theil 1950, Sen 1968), with a bootstrap interval of 95%.
    pub slope: Option<Interval>,
    /// The same over the second half.
    pub slope_of_second_half: Option<Interval>,
    /// One settled value after each request, warm-up dropped: number of the request and bytes.
    pub values: Vec<(usize, f64)>,
}

/// What is said of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeakVerdict {
    /// It grows with every request, and does not stop.
    Leak,
    /// It grew at first and then no more, as caches do.
    Settles,
    /// It grew to the end with the prompt cache on, and without the cache it does not or was not measured: a cache whose limit
    /// was not reached, or a leak.
    Grows,
    /// It does not grow.
    Steady,
    /// Too few requests were answered to tell.
    Unknown,
}

/// Something that could not be measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotMeasured {
    /// The scenario.
    pub scenario: String,
    /// The format; `None` where it is both.
    pub format: Option<Format>,
    /// Why.
    pub reason: String,
    /// What may help.
    pub hint: Option<String>,
}

/// Judges everything that was measured; the same record always gives the same analysis.
pub fn analyse(record: &Record, samples: &Samples) -> Analysis {
    let pairs = record
        .plan
        .pairs
        .iter()
        .map(|pair| analyse_pair(record, samples, &pair.name));
    Analysis { pairs: pairs.collect() }
}

fn analyse_pair(record: &Record, samples: &Samples, pair: &str) -> PairAnalysis {
    let comparisons = comparison::comparisons(record, samples, pair);
    let leaks = leak::leaks(record, samples, pair);
    let not_measured = not_measured::not_measured(record, samples, pair, &comparisons);
    PairAnalysis {
        pair: pair.to_owned(),
        verdict: verdict::verdict(record, pair, &comparisons, &leaks),
        comparisons,
        leaks,
        warnings: warnings::warnings(record, pair),
        not_measured,
    }
}
