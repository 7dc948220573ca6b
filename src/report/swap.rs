use serde::Serialize;

use super::answers::on_one_line;
use crate::evidence::{CellState, Evidence, Party, Side, Slot, SwapCell, SwapEvidence};
use crate::rules::wording::{factor, nats};

/// One cell of the two-by-two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportedCell {
    /// Who trained.
    pub trainer: Party,
    /// Who answers.
    pub generator: Party,
    /// How it does.
    pub state: CellState,
    /// The same in words.
    pub text: String,
    /// Its answer to every prompt; empty when it gave none.
    pub answers: Vec<String>,
}

/// A figure of their training beside the reference's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Beside {
    /// For example `loss of the first step`.
    pub what: &'static str,
    /// Theirs, in words.
    pub theirs: String,
    /// The reference's, in words.
    pub reference: String,
}

/// The user's trainer and generator in the place of the reference's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Swap {
    /// Which side holds the fault; `None` when the cells cannot tell.
    pub side: Option<Side>,
    /// The same as a sentence without a final period.
    pub text: String,
    /// What the user's trainer is called; `None` when the reference trained.
    pub trainer: Option<String>,
    /// What the user's generator is called; `None` when the engine alone answered.
    pub generator: Option<String>,
    /// The prompts.
    pub prompts: Vec<String>,
    /// A row for each trainer, theirs first; in it the engine first.
    pub cells: Vec<ReportedCell>,
    /// Their training beside the reference's.
    pub beside: Vec<Beside>,
}

impl Swap {
    pub(super) fn of(evidence: &Evidence) -> Option<Self> {
        let swap = evidence.swap.ran()?;
        let baseline = evidence.baseline.ran()?;
        let side = swap.side(baseline);
        let settings = &evidence.settings;
        Some(Self {
            side,
            text: side
                .map_or("cells without answers cannot tell which side holds a fault", in_words)
                .to_owned(),
            trainer: [&settings.trainer, &settings.adapter, &settings.trained]
                .into_iter()
                .find_map(Clone::clone),
            generator: settings.generator.clone(),
            prompts: baseline.answers.iter().map(|answer| answer.prompt.clone()).collect(),
            cells: swap
                .cells
                .iter()
                .map(|cell| {
                    let state = swap.state(cell, baseline);
                    ReportedCell {
                        trainer: cell.trainer,
                        generator: cell.generator,
                        state,
                        text: cell_in_words(cell, state),
                        answers: cell.answers.ran().map_or_else(Vec::new, |answers| {
                            answers.iter().map(|answer| answer.text.clone()).collect()
                        }),
                    }
                })
                .collect(),
            beside: beside(evidence, swap),
        })
    }

    /// The part of a verdict's headline that names the side; `None` when no side is to blame.
    pub(super) fn headline(&self) -> Option<&'static str> {
        match self.side? {
            Side::Training => Some("the fault is on the training side"),
            Side::Generation => Some("the fault is on the generation side"),
            Side::Both => Some("both sides hold a fault"),
            Side::Together => Some("the fault lies between training and generation"),
            Side::Shared => Some("the reference alone has the fault too"),
            Side::Neither | Side::Unknown => None,
        }
    }

    /// The trainers that have a row.
    pub(super) fn rows(&self) -> Vec<Party> {
        let has_row = |trainer: &Party| self.cells.iter().any(|cell| cell.trainer == *trainer);
        [Party::Theirs, Party::Reference].into_iter().filter(has_row).collect()
    }

    /// The generators that have a column.
    pub(super) fn columns(&self) -> Vec<Party> {
        let has_column = |generator: &Party| self.cells.iter().any(|cell| cell.generator == *generator);
        [Party::Reference, Party::Theirs]
            .into_iter()
            .filter(has_column)
            .collect()
    }

    /// The user's own programs, each with what it does here.
    pub(super) fn names(&self) -> Vec<(&'static str, &str)> {
        let names = [
            ("trainer", self.trainer.as_deref()),
            ("generator", self.generator.as_deref()),
        ];
        names
            .into_iter()
            .filter_map(|(what, name)| Some((what, name?)))
            .collect()
    }

    /// The cell of this trainer and this generator.
    pub(super) fn cell(&self, trainer: Party, generator: Party) -> Option<&ReportedCell> {
        self.cells
            .iter()
            .find(|cell| cell.trainer == trainer && cell.generator == generator)
    }

    /// A prompt that the cells answer differently, or the first one; `None` without prompts.
    pub(super) fn telling_prompt(&self) -> Option<usize> {
        let differs = |index: &usize| {
            let mut answers = self.cells.iter().filter_map(|cell| cell.answers.get(*index));
            answers
                .next()
                .is_some_and(|first| answers.any(|answer| answer != first))
        };
        let mut indices = 0..self.prompts.len();
        indices.find(differs).or((!self.prompts.is_empty()).then_some(0))
    }
}

/// A row's title.
pub(super) fn trained_by(party: Party) -> &'static str {
    match party {
        Party::Theirs => "theirs",
        Party::Reference => "reference",
    }
}

/// A column's title.
pub(super) fn answered_by(party: Party) -> &'static str {
    match party {
        Party::Theirs => "their generator",
        Party::Reference => "this engine",
    }
}

impl ReportedCell {
    /// Its place, for example `reference, their generator`.
    pub(super) fn place(&self) -> String {
        format!("{}, {}", trained_by(self.trainer), answered_by(self.generator))
    }

    /// Its answer on one line.
    pub(super) fn answer(&self, prompt: usize, characters: usize) -> String {
        match self.answers.get(prompt) {
            None => "(no answer)".to_owned(),
            Some(answer) if answer.trim().is_empty() => "(empty)".to_owned(),
            Some(answer) => on_one_line(answer, characters),
        }
    }
}

fn in_words(side: Side) -> &'static str {
    match side {
        Side::Neither => "no side holds a fault: every cell works",
        Side::Training => {
            "the fault is on the training side: what it left does not work in this engine either, and the reference's \
             training does"
        }
        Side::Generation => {
            "the fault is on the generation side: with the same weights this engine answers as it should"
        }
        Side::Both => "both sides hold a fault: neither works with the reference's counterpart",
        Side::Together => {
            "the fault lies between the two: each works with the reference's counterpart, and not with the other"
        }
        Side::Shared => "the reference alone has the fault too: look at the model, the data and the settings",
        Side::Unknown => {
            "the reference's training does not show in its answers, so the cells cannot tell; make more steps"
        }
    }
}

fn cell_in_words(cell: &SwapCell, state: CellState) -> String {
    match (state, &cell.answers) {
        (CellState::Absent, Slot::Skipped { reason }) => format!("not run: {reason}"),
        (CellState::Absent, Slot::Crashed { error }) => {
            format!("failed: {}", error.lines().next().unwrap_or(error))
        }
        (CellState::Absent, Slot::Ran(_)) => "no answers".to_owned(),
        (CellState::Works, _) => "works".to_owned(),
        (CellState::LikeBase, _) => "answers as the base does".to_owned(),
        (CellState::Empty, _) => "gives empty answers".to_owned(),
        (CellState::Loops, _) => "loops".to_owned(),
        (CellState::NeverStops, _) => "never stops".to_owned(),
        (CellState::Differs, _) => "answers otherwise than this engine".to_owned(),
        (CellState::LearntLess, _) => "learnt much less than the reference".to_owned(),
    }
}

fn beside(evidence: &Evidence, swap: &SwapEvidence) -> Vec<Beside> {
    let Slot::Ran(reference) = &swap.reference else {
        return Vec::new();
    };
    let log = evidence.log.ran();
    let logged = log.and_then(|log| log.entries.iter().find_map(|entry| entry.loss?.finite()));
    let logged_norm = log.and_then(|log| log.entries.iter().find_map(|entry| entry.gradient_norm?.finite()));
    let not_logged = |value: Option<f64>| value.map_or_else(|| "not logged".to_owned(), |value| format!("{value:.3}"));
    let first = |values: &[Option<f64>]| values.first().copied().flatten();
    let update = evidence
        .parameters
        .ran()
        .and_then(|parameters| parameters.adapter.as_ref()?.median_update());
    let update_in_words = |value: Option<f64>| value.map_or_else(|| "not measured".to_owned(), factor);
    let fit = evidence.fit.ran();
    let loss_after = fit.map_or_else(|| "not measured".to_owned(), |fit| nats(fit.loss_after()));
    vec![
        Beside {
            what: "loss of the first step",
            theirs: not_logged(logged),
            reference: nats(first(&reference.losses)),
        },
        Beside {
            what: "norm of its gradient",
            theirs: not_logged(logged_norm),
            reference: nats(first(&reference.gradient_norms)),
        },
        Beside {
            what: "median update",
            theirs: update_in_words(update),
            reference: update_in_words(reference.median_update),
        },
        Beside {
            what: "first rows after",
            theirs: loss_after,
            reference: nats(reference.loss_after),
        },
    ]
}
