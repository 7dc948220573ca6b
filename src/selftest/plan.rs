use std::collections::BTreeSet;

use super::catalogue::Catalogue;
use super::cell::{Cell, Need, SLOTS};
use super::control::Control;
use super::draw::shuffled;
use super::expected::Acts;
use crate::faults::{Needs, Operator};

/// Cells of each operator at its reference severity.
const REFERENCE_CELLS: usize = 6;
/// Cells of each operator at every milder severity.
const MILDER_CELLS: usize = 3;
/// Cells in which longer runs look for harm: five that are all worse have a chance of 1 in 32.
const HARM_CELLS: usize = 5;
/// Cells of each control but the first, which has all of them.
const CONTROL_CELLS: usize = 14;
/// Healthy runs of a quick self-test.
const QUICK_HEALTHY_RUNS: usize = 32;

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every operator once and 32 healthy runs: minutes, for every change.
    Quick,
    /// The whole design: an hour, for the record.
    Full,
}

impl Extent {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

/// What one run is for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// A fault, to be found and named.
    Fault {
        /// The fault.
        operator: &'static Operator,
        /// How strong.
        severity: f64,
    },
    /// A healthy run, to be left in peace.
    Control(&'static Control),
    /// Two faults at once.
    Pair {
        /// The one that may act on any step.
        first: &'static Operator,
        /// The one that acts on inputs.
        on_inputs: &'static Operator,
    },
    /// A longer run with a fault at its reference severity, or without any, to see what it does to the result.
    Harm(Option<&'static Operator>),
}

/// One run of the plan.
#[derive(Debug, Clone)]
pub struct Trial {
    /// Where it takes place.
    pub cell: Cell,
    /// What it is for.
    pub purpose: Purpose,
    /// What it must have.
    pub needs: Vec<Need>,
}

impl Trial {
    /// Whether all weights are trained.
    pub fn is_full_fine_tuning(&self) -> bool {
        self.needs.contains(&Need::FullFineTuning)
    }

    /// The fault, when it is a single one.
    pub fn operator(&self) -> Option<&'static Operator> {
        match self.purpose {
            Purpose::Fault { operator, .. } | Purpose::Harm(Some(operator)) => Some(operator),
            Purpose::Control(_) | Purpose::Pair { .. } | Purpose::Harm(None) => None,
        }
    }

    /// Processes that train together.
    pub fn processes(&self) -> usize {
        match self.needs.contains(&Need::Processes) {
            true if self.cell.slot.is_multiple_of(2) => 2,
            true => 4,
            false => 1,
        }
    }

    /// Whether it is a fault at its reference severity.
    pub fn is_reference(&self) -> bool {
        matches!(self.purpose, Purpose::Fault { operator, severity } if operator.reference() == severity)
    }

    /// One line for progress and lists.
    pub fn name(&self) -> String {
        let cell = self.cell.name();
        match self.purpose {
            Purpose::Fault { operator, severity } => format!("{} at {severity} in {cell}", operator.name),
            Purpose::Control(control) => format!("{} in {cell}", control.name),
            Purpose::Pair { first, on_inputs } => format!("{} with {} in {cell}", first.name, on_inputs.name),
            Purpose::Harm(Some(operator)) => format!("{}, longer, in {cell}", operator.name),
            Purpose::Harm(None) => format!("no fault, longer, in {cell}"),
        }
    }
}

/// Every run, in order. Nothing but the catalogue, the extent, the seed and the chosen names decides it.
pub fn plan(catalogue: &Catalogue, extent: Extent, seed: u64, only: &[String]) -> Vec<Trial> {
    let chosen = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
    let operators: Vec<(usize, &'static Operator)> = catalogue
        .all()
        .enumerate()
        .filter(|(_, operator)| chosen(operator.name))
        .collect();
    let mut trials = Vec::new();
    for &(index, operator) in &operators {
        trials.extend(of_operator(index, operator, extent));
    }
    trials.extend(
        healthy(catalogue, extent)
            .into_iter()
            .filter(|trial| matches!(trial.purpose, Purpose::Control(control) if chosen(control.name))),
    );
    if extent == Extent::Full {
        if only.is_empty() {
            trials.extend(pairs(catalogue, seed));
        }
        trials.extend(harm(&operators));
    }
    trials
}

/// `count` cells that have what `needs` asks for, spread over bases, packing and slots; another start for every `index`.
fn spread(index: usize, needs: &[Need], count: usize) -> Vec<Cell> {
    let candidates: Vec<Cell> = Cell::all().into_iter().filter(|cell| cell.has(needs)).collect();
    let kinds: BTreeSet<_> = candidates.iter().map(|cell| (cell.packed, cell.model)).collect();
    let kinds: Vec<_> = kinds.into_iter().collect();
    let mut chosen: Vec<Cell> = Vec::new();
    for turn in 0..SLOTS * kinds.len() {
        let (packed, model) = kinds[turn % kinds.len()];
        let start = index + turn + turn / kinds.len();
        let cell = (0..SLOTS)
            .map(|step| Cell {
                model,
                packed,
                slot: (start + step) % SLOTS,
            })
            .find(|cell| candidates.contains(cell) && !chosen.contains(cell));
        chosen.extend(cell);
        if chosen.len() == count {
            break;
        }
    }
    chosen
}

/// One of the cells of [`spread`], so that neighbours get others of base, packing and slot.
fn turned(cells: &[Cell], index: usize) -> Option<Cell> {
    cells.get((index + index / SLOTS) % cells.len().max(1)).copied()
}

fn of_operator(index: usize, operator: &'static Operator, extent: Extent) -> Vec<Trial> {
    let at = |severity: f64, cells: Vec<Cell>| {
        cells.into_iter().map(move |cell| Trial {
            cell,
            purpose: Purpose::Fault { operator, severity },
            needs: Need::of(operator.needs),
        })
    };
    match extent {
        Extent::Quick => {
            // One cell of a full self-test's, another one for every operator.
            let cells = spread(index, &Need::of(operator.needs), REFERENCE_CELLS);
            let cell = turned(&cells, index);
            at(operator.reference(), cell.into_iter().collect()).collect()
        }
        Extent::Full => {
            let milder = operator
                .severities
                .split_last()
                .map_or([].as_slice(), |(_, milder)| milder);
            milder
                .iter()
                .enumerate()
                .flat_map(|(step, &severity)| {
                    at(severity, spread(index + step, &Need::of(operator.needs), MILDER_CELLS))
                })
                .chain(at(
                    operator.reference(),
                    spread(index, &Need::of(operator.needs), REFERENCE_CELLS),
                ))
                .collect()
        }
    }
}

fn healthy(catalogue: &Catalogue, extent: Extent) -> Vec<Trial> {
    let of = |control: &'static Control, cell: Cell| Trial {
        cell,
        purpose: Purpose::Control(control),
        needs: control.needs.to_vec(),
    };
    let controls = catalogue.controls;
    match extent {
        Extent::Quick => (0..QUICK_HEALTHY_RUNS)
            .filter_map(|run| {
                let control = controls.get(run % controls.len().max(1))?;
                let cells = spread(run, control.needs, REFERENCE_CELLS);
                Some(of(control, turned(&cells, run)?))
            })
            .collect(),
        Extent::Full => controls
            .iter()
            .enumerate()
            .flat_map(|(index, control)| {
                let all = index == 0 || control.needs.contains(&Need::FullFineTuning);
                let count = if all { usize::MAX } else { CONTROL_CELLS };
                spread(index, control.needs, count)
                    .into_iter()
                    .map(move |cell| of(control, cell))
            })
            .collect(),
    }
}

/// Every operator once with a partner of another family that acts on inputs, partners in turn.
fn pairs(catalogue: &Catalogue, seed: u64) -> Vec<Trial> {
    let partners: Vec<&'static Operator> = catalogue
        .operators
        .iter()
        .copied()
        .filter(|operator| {
            let expectation = catalogue.expectation(operator);
            expectation.is_some_and(|expectation| expectation.acts == Acts::OnInputs)
        })
        .collect();
    let partners = shuffled(partners, seed);
    let mut uses = vec![0_usize; partners.len()];
    let mut trials = Vec::new();
    for (index, &first) in catalogue.operators.iter().enumerate() {
        let needs = |partner: &Operator| [Need::of(first.needs), Need::of(partner.needs)].concat();
        let can_be_first = catalogue.expectation(first).is_some_and(|expectation| {
            matches!(expectation.acts, Acts::OnInputs | Acts::OnSteps) && !expectation.names.is_empty()
        });
        let partner = (0..partners.len())
            .filter(|&partner| can_be_first && partners[partner].family != first.family)
            .filter(|&partner| !spread(index, &needs(partners[partner]), 1).is_empty())
            .min_by_key(|&partner| uses[partner]);
        if let Some(partner) = partner {
            uses[partner] += 1;
            let on_inputs = partners[partner];
            let needs = needs(on_inputs);
            trials.extend(spread(index, &needs, 1).into_iter().map(|cell| Trial {
                cell,
                purpose: Purpose::Pair { first, on_inputs },
                needs: needs.clone(),
            }));
        }
    }
    trials
}

/// Longer runs of every operator in the cells of its reference severity, and once without a fault in each such cell.
fn harm(operators: &[(usize, &'static Operator)]) -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut compared = BTreeSet::new();
    // What several processes lose is not the result of one.
    let alone = operators
        .iter()
        .filter(|(_, operator)| operator.needs != Needs::Processes);
    for &(index, operator) in alone {
        for cell in spread(index, &Need::of(operator.needs), HARM_CELLS) {
            let with = Trial {
                cell,
                purpose: Purpose::Harm(Some(operator)),
                needs: Need::of(operator.needs),
            };
            let full = with.is_full_fine_tuning();
            if compared.insert((cell, full)) {
                trials.push(Trial {
                    cell,
                    purpose: Purpose::Harm(None),
                    needs: full.then_some(Need::FullFineTuning).into_iter().collect(),
                });
            }
            trials.push(with);
        }
    }
    trials
}
