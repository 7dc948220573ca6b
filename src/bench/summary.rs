//! The figures that most people look for, with what they were measured on.

use serde::{Deserialize, Serialize};

use super::{
    BENCH_SCHEMA_VERSION, BenchResults, BenchSettings, Change, Comparison, ModelDescription, PeerComparison,
    SystemDescription, Unit,
};

/// Subject and name of the figures that a summary has.
pub const HEADLINES: [(&str, &str); 14] = [
    ("training", "tokens-per-second"),
    ("training", "step"),
    ("training", "share-in-products"),
    ("generation", "prefill"),
    ("generation", "decode"),
    ("generation", "decode-share-of-memory-read"),
    ("generation", "decode-4"),
    ("generation", "decode-8"),
    ("loading", "start-to-logits"),
    ("memory", "peak-of-training-step"),
    ("snapshot", "memory-of-capture"),
    ("snapshot", "full-difference-share-of-memory-read"),
    ("probes", "overhead"),
    ("energy", "training-tokens"),
];

/// What `benchmark_summary.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// [`BENCH_SCHEMA_VERSION`] of the program that wrote it.
    pub schema_version: u32,
    /// When the measurements began, in UTC as RFC 3339 has it.
    pub began: String,
    /// What was measured on.
    pub system: SystemDescription,
    /// What was asked for.
    pub settings: BenchSettings,
    /// What was measured with.
    pub model: ModelDescription,
    /// What has to be known before the figures are believed.
    pub warnings: Vec<String>,
    /// The figures of [`HEADLINES`] that were measured.
    pub headlines: Vec<Headline>,
    /// What was not measured, and why, as `subject: reason` or `subject/figure: reason`.
    pub not_measured: Vec<String>,
    /// What got slower than in the baseline; `None` without one.
    pub slower: Option<Vec<Change>>,
    /// What the comparison with PyTorch gave.
    pub pytorch: PeerComparison,
}

/// One figure of a summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Headline {
    /// Its subject.
    pub subject: String,
    /// Its name.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// The median.
    pub median: f64,
    /// The lower quartile.
    pub low: f64,
    /// The upper quartile.
    pub high: f64,
}

impl Summary {
    /// Sums up.
    pub fn new(results: &BenchResults, comparison: Option<&Comparison>, pytorch: PeerComparison) -> Self {
        let headlines = HEADLINES.iter().filter_map(|&(subject, name)| {
            let figure = results.figure(subject, name)?;
            Some(Headline {
                subject: subject.to_owned(),
                name: name.to_owned(),
                unit: figure.unit,
                median: figure.median,
                low: figure.low,
                high: figure.high,
            })
        });
        Self {
            schema_version: BENCH_SCHEMA_VERSION,
            began: results.began.clone(),
            system: results.system.clone(),
            settings: results.settings.clone(),
            model: results.model.clone(),
            warnings: results.system.warnings(),
            headlines: headlines.collect(),
            not_measured: not_measured(results),
            slower: comparison.map(|comparison| comparison.slower().cloned().collect()),
            pytorch,
        }
    }
}

/// What was not measured, and why.
pub(super) fn not_measured(results: &BenchResults) -> Vec<String> {
    let mut lines = Vec::new();
    for subject in &results.subjects {
        if let Some(absence) = subject.outcome.absence() {
            lines.push(format!("{}: {absence}", subject.name));
        }
        for lacking in subject.outcome.ran().into_iter().flat_map(|measured| &measured.lacking) {
            lines.push(format!("{}/{}: {}", subject.name, lacking.name, lacking.reason));
        }
    }
    lines
}
