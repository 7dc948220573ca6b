//! What can be measured, by name.

use thiserror::Error;

use super::{
    BenchError, Measured, Workbench, bandwidth, checkpoints, energy, generation, loading, memory_use, optimizer,
    probes, products, snapshots, training,
};
use crate::suggestion::closest;

/// One thing that is measured.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// Its name, in kebab case.
    pub name: &'static str,
    /// What it is about.
    pub title: &'static str,
    /// How often a benchmark comes back to it.
    pub(super) turns: Turns,
    pub(super) measure: fn(&Workbench<'_>) -> Result<Measured, BenchError>,
}

/// How often a benchmark comes back to a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turns {
    /// In every round, for one value of each figure: a machine that gets slower for a while slows some values of every
    /// figure then, and not all values of some.
    EveryRound,
    /// In the first round alone, for all values of each figure: what others leave behind would be measured with it later, or
    /// one value is all there is.
    First,
}

/// Every subject, in the order of the measurements. Memory comes first, as the process's peak only ever rises.
pub static SUBJECTS: &[Subject] = &[
    Subject {
        name: "memory",
        title: "memory: arrays at rest, the peak of a training step, the process",
        turns: Turns::First,
        measure: memory_use::measure,
    },
    Subject {
        name: "loading",
        title: "model loading, until the logits of a token are there",
        turns: Turns::EveryRound,
        measure: loading::measure,
    },
    Subject {
        name: "optimizer",
        title: "optimizer preparation: adapters and AdamW's state",
        turns: Turns::EveryRound,
        measure: optimizer::measure,
    },
    Subject {
        name: "training",
        title: "training: forward, backward, update, the whole step, tokens in a second",
        turns: Turns::EveryRound,
        measure: training::measure,
    },
    Subject {
        name: "checkpoint",
        title: "a training run's checkpoint: save and load",
        turns: Turns::EveryRound,
        measure: checkpoints::measure,
    },
    Subject {
        name: "generation",
        title: "generation: a prompt that is read, one answer, four and eight at one time",
        turns: Turns::EveryRound,
        measure: generation::measure,
    },
    Subject {
        name: "products",
        title: "matrix products of the model's shapes, forward and both gradients",
        turns: Turns::EveryRound,
        measure: products::measure,
    },
    Subject {
        name: "bandwidth",
        title: "the memory's speed, read by all threads",
        turns: Turns::EveryRound,
        measure: bandwidth::measure,
    },
    Subject {
        name: "snapshot",
        title: "a snapshot of all parameters, and the full comparison of two",
        turns: Turns::EveryRound,
        measure: snapshots::measure,
    },
    Subject {
        name: "probes",
        title: "the cost of each probe of a diagnosis",
        turns: Turns::First,
        measure: probes::measure,
    },
    Subject {
        name: "energy",
        title: "energy of training and answering, where the system tells it",
        turns: Turns::EveryRound,
        measure: energy::measure,
    },
];

/// A name that no subject has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no subject `{name}`\n  expected: {expected}{}", suggestion.map_or_else(String::new, |name| format!("\n  hint: did you mean `{name}`?")))]
pub struct UnknownSubject {
    /// The name.
    pub name: String,
    /// The names there are.
    pub expected: String,
    /// The nearest of them.
    pub suggestion: Option<&'static str>,
}

/// The subjects of these names, in the order of [`SUBJECTS`]; all of them without a name.
///
/// # Errors
/// A name is unknown.
pub fn chosen(only: &[String]) -> Result<Vec<&'static Subject>, UnknownSubject> {
    let names = || SUBJECTS.iter().map(|subject| subject.name);
    if let Some(name) = only.iter().find(|name| !names().any(|known| known == name.as_str())) {
        return Err(UnknownSubject {
            name: name.clone(),
            expected: names().collect::<Vec<_>>().join(", "),
            suggestion: closest(name, names()),
        });
    }
    let is_chosen = |subject: &&Subject| only.is_empty() || only.iter().any(|name| name == subject.name);
    Ok(SUBJECTS.iter().filter(is_chosen).collect())
}
