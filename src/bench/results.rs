//! What a benchmark gives: figures and names, and why what is lacking is lacking.

use serde::{Deserialize, Serialize};

use super::{BenchError, Measurement, Sizes, SystemDescription};
use crate::evidence::Slot;

/// Version of the format of [`BenchResults`]; raised whenever a field is added, renamed or changes meaning.
pub const BENCH_SCHEMA_VERSION: u32 = 1;

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchResults {
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
    /// Whether the user ended it before all was measured.
    pub interrupted: bool,
    /// Seconds for everything.
    pub seconds: f64,
    /// Each subject, in the order of the measurements.
    pub subjects: Vec<SubjectResult>,
}

impl BenchResults {
    /// Every figure with its subject's name.
    pub fn figures(&self) -> impl Iterator<Item = (&str, &Measurement)> {
        self.subjects.iter().flat_map(|subject| {
            let figures = subject.outcome.ran().into_iter().flat_map(|measured| &measured.figures);
            figures.map(|figure| (subject.name.as_str(), figure))
        })
    }

    /// Whether a subject failed.
    pub fn failed(&self) -> bool {
        let mut subjects = self.subjects.iter();
        subjects.any(|subject| matches!(subject.outcome, Slot::Crashed { .. }))
    }

    /// The figure of this subject and name.
    pub fn figure(&self, subject: &str, name: &str) -> Option<&Measurement> {
        let found = self
            .figures()
            .find(|(of, figure)| *of == subject && figure.name == name);
        found.map(|(_, figure)| figure)
    }
}

/// What a benchmark was asked for: with the same settings it does the same work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchSettings {
    /// The model as the user named it.
    pub model: String,
    /// The subjects that were asked for; empty for all of them.
    pub only: Vec<String>,
    /// Rounds, each of which gives a value of every figure.
    pub repeats: usize,
    /// Measurements of each figure in a round before the one that counts.
    pub warm_ups: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// How much each measurement works on.
    pub sizes: Sizes,
}

/// The model that was measured with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDescription {
    /// Its `model_type`, for example `llama`.
    pub model_type: String,
    /// Its values.
    pub values: u64,
    /// Bytes of its parameters as they are held in memory.
    pub bytes: u64,
    /// Bytes of the parameters that decoding one token reads: all but the rows of a separate embedding.
    pub bytes_per_token: u64,
    /// The element type that is computed in.
    pub dtype: String,
    /// Whether weights are held packed.
    pub packed: bool,
}

/// What came of one subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectResult {
    /// Its name, in kebab case.
    pub name: String,
    /// What it is about.
    pub title: String,
    /// Seconds that it took, with warm-ups and preparation.
    pub seconds: f64,
    /// What was measured, or why nothing was.
    pub outcome: Slot<Measured>,
}

impl SubjectResult {
    /// Adds what one more round gave: values of figures that are there, and figures that are not.
    ///
    /// A failure takes the place of what was measured before, so that nobody takes it for whole; an interruption leaves that
    /// as it is.
    pub(super) fn add_round(&mut self, round: Result<Measured, BenchError>) {
        match (round, &mut self.outcome) {
            (Ok(round), Slot::Ran(measured)) => measured.add_round(round),
            (Ok(round), outcome) => *outcome = Slot::Ran(round),
            (Err(BenchError::Interrupted), Slot::Ran(_)) => {}
            (Err(BenchError::Interrupted), outcome) => {
                *outcome = Slot::skipped("the benchmark was interrupted during it");
            }
            (Err(error), outcome) => *outcome = Slot::crashed(error),
        }
    }
}

/// The figures of a subject.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Each figure, in the order in which it was measured.
    pub figures: Vec<Measurement>,
    /// Figures that the subject has elsewhere.
    pub lacking: Vec<Lacking>,
}

/// A figure that could not be measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lacking {
    /// Its name.
    pub name: String,
    /// Why, one sentence without a final period.
    pub reason: String,
}

impl Measured {
    /// Adds a figure; one without a value is said to be lacking by `name`.
    pub(super) fn add(&mut self, name: &str, figure: Option<Measurement>) {
        match figure {
            Some(figure) => self.figures.push(figure),
            None => self.lack(name, "no repeat gave a value"),
        }
    }

    /// Adds the values of another round.
    fn add_round(&mut self, round: Self) {
        for figure in round.figures {
            match self.figures.iter_mut().find(|known| known.name == figure.name) {
                Some(known) => known.add(&figure.samples),
                None => self.figures.push(figure),
            }
        }
        for lacking in round.lacking {
            if !self.lacking.iter().any(|known| known.name == lacking.name) {
                self.lacking.push(lacking);
            }
        }
    }

    /// Says that a figure could not be measured.
    pub(super) fn lack(&mut self, name: &str, reason: impl Into<String>) {
        self.lacking.push(Lacking {
            name: name.to_owned(),
            reason: reason.into(),
        });
    }
}
