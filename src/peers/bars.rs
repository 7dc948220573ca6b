//! How much better this program is to be than others at the same work.

use serde::{Deserialize, Serialize};

use super::workload::Measure;
use crate::bench::{Better, Unit};

/// A kind of measure that has bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barred {
    /// Training, in every shape.
    Training,
    /// The peak of the process's memory while training, in every shape.
    TrainingMemory,
    /// Reading a prompt.
    Prefill,
    /// Loading.
    Loading,
}

impl Barred {
    fn covers(self, measure: &Measure) -> bool {
        match measure {
            Measure::Training(_) => self == Self::Training,
            Measure::Memory(workload) => self == Self::TrainingMemory && workload.starts_with("training"),
            Measure::Prefill(_) => self == Self::Prefill,
            Measure::Loading => self == Self::Loading,
            Measure::Decoding(_) | Measure::Answering(_) | Measure::FrameworkMemory(_) => false,
        }
    }
}

/// One bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// What is measured.
    pub barred: Barred,
    /// The id of this program's contestant.
    pub ours: &'static str,
    /// The id of the peer.
    pub peer: &'static str,
    /// How many times better the median of ours has to be.
    pub needed: f64,
}

const fn bar(barred: Barred, ours: &'static str, peer: &'static str, needed: f64) -> Bar {
    Bar {
        barred,
        ours,
        peer,
        needed,
    }
}

/// All bars: what this project promises on a CPU.
pub const BARS: &[Bar] = &[
    bar(Barred::Training, "diagnose", "torch-cpu-float32", 1.2),
    bar(Barred::Training, "diagnose", "mlx-lm-openblas", 2.0),
    bar(Barred::Training, "diagnose", "mlx-lm", 30.0),
    bar(Barred::TrainingMemory, "diagnose", "torch-cpu-float32", 1.0),
    bar(Barred::TrainingMemory, "diagnose", "mlx-lm-openblas", 1.0),
    bar(Barred::TrainingMemory, "diagnose", "mlx-lm", 1.0),
    bar(Barred::Prefill, "diagnose", "torch-cpu-float32", 1.0),
    bar(Barred::Loading, "diagnose", "mlx-lm", 2.0),
    bar(Barred::Loading, "diagnose", "mlx-lm-openblas", 2.0),
    bar(Barred::Loading, "diagnose-gguf", "mlx-lm", 2.0),
    bar(Barred::Loading, "diagnose-gguf", "mlx-lm-openblas", 2.0),
];

/// A bar and whether it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgedBar {
    /// The measure's name.
    pub measure: String,
    /// The id of this program's contestant.
    pub ours: String,
    /// The id of the peer.
    pub peer: String,
    /// How many times better ours has to be.
    pub needed: f64,
    /// How many times better it is; `None` where one of them was not measured.
    pub reached: Option<f64>,
    /// What follows.
    pub verdict: Verdict,
}

/// What became of a bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It holds.
    Held,
    /// It does not.
    Missed,
    /// One of the two was not measured.
    NotMeasured,
}

/// How many times better one figure is than another, by its unit; 1 where neither direction is better.
pub fn advantage(unit: Unit, ours: f64, theirs: f64) -> f64 {
    match unit.better() {
        Some(Better::More) => ours / theirs,
        Some(Better::Less) => theirs / ours,
        None => 1.0,
    }
}

/// Judges the bars of the measures, with the median of a contestant in a measure from `median`.
pub fn judge(bars: &[Bar], measures: &[Measure], median: impl Fn(&str, &str) -> Option<f64>) -> Vec<JudgedBar> {
    let mut judged = Vec::new();
    for measure in measures {
        for bar in bars.iter().filter(|bar| bar.barred.covers(measure)) {
            let name = measure.name();
            let reached = median(&name, bar.ours)
                .zip(median(&name, bar.peer))
                .map(|(ours, theirs)| advantage(measure.unit(), ours, theirs));
            judged.push(JudgedBar {
                measure: name,
                ours: bar.ours.to_owned(),
                peer: bar.peer.to_owned(),
                needed: bar.needed,
                reached,
                verdict: match reached {
                    Some(reached) if reached >= bar.needed => Verdict::Held,
                    Some(_) => Verdict::Missed,
                    None => Verdict::NotMeasured,
                },
            });
        }
    }
    judged
}
