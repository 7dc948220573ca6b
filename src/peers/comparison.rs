use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bars::{BARS, JudgedBar, Verdict, advantage, judge};
use super::contestant::Contestant;
use super::equal_work::{WorkCheck, compare_work};
use super::race::{RaceOptions, TurnRecord, Turned};
use super::roster::Roster;
use super::workload::{Measure, Workload};
use crate::bench::{Measurement, PeerComparison, PeerFigure, Samples, SystemDescription, Unit};

/// Version of the results' form.
pub const PEER_SCHEMA_VERSION: u32 = 1;
/// The contestant that ratios are against.
const OURS: &str = "diagnose";

/// What came of comparing this program with others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// [`PEER_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What it was measured on.
    pub system: SystemDescription,
    /// The work.
    pub settings: RaceSettings,
    /// Whether it ended before every turn was taken.
    pub interrupted: bool,
    /// Everybody, in the order of their turns; then who did not take part.
    pub contestants: Vec<ContestantReport>,
    /// What was measured, in the order of the work.
    pub measures: Vec<MeasureReport>,
    /// Whether it was the same work.
    pub work: Vec<WorkCheck>,
    /// What this program promises; empty where the model is not one that it promises it of.
    pub bars: Vec<JudgedBar>,
}

/// The work that everybody was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RaceSettings {
    /// The model, as it was named.
    pub model: String,
    /// The workloads' names.
    pub workloads: Vec<String>,
    /// Turns of each contestant in each workload.
    pub turns: usize,
    /// Steps of a turn that are timed.
    pub steps: usize,
    /// Rank of the adapters, which are on every linear layer of the blocks.
    pub rank: usize,
}

/// A contestant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContestantReport {
    /// Its name in this file.
    pub id: String,
    /// Its name for people.
    pub title: String,
    /// What became of it.
    pub status: Status,
    /// Why, and what would change it; `None` where it was measured.
    pub absence: Option<Absence>,
    /// How it computed; `None` where it did not come up.
    pub standing: Option<Standing>,
}

/// What became of a contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It did all of its work.
    Measured,
    /// It did not take part.
    Skipped,
    /// It died, hung or refused.
    Failed,
}

/// Why there are no figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absence {
    /// What was found.
    pub reason: String,
    /// What would change it, with the command; `None` where nothing would.
    pub hint: Option<String>,
}

/// How a contestant computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Versions of what it consists of.
    pub versions: BTreeMap<String, String>,
    /// Element type.
    pub dtype: String,
    /// Where.
    pub device: String,
    /// Threads that it was told to use; `None` for its own choice.
    pub threads: Option<usize>,
    /// Whether its numbers should be this program's: the same weights in the same precision.
    pub exact: bool,
}

/// One measure of everybody who has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasureReport {
    /// In kebab case, for example `training-4x128`.
    pub name: String,
    /// For people.
    pub title: String,
    /// What is counted.
    pub unit: Unit,
    /// In the order of the turns.
    pub figures: Vec<Figure>,
}

/// What was measured of a contestant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// Its id.
    pub contestant: String,
    /// Every sample, and their median and spread.
    pub measurement: Measurement,
    /// How many times better this program's median is; `None` where it has none.
    pub advantage: Option<f64>,
}

impl Comparison {
    /// Puts together what the turns gave; `judges` says whether the bars are those of this model.
    pub fn new(
        system: SystemDescription,
        model: &str,
        roster: &Roster,
        workloads: &[Workload],
        options: &RaceOptions,
        records: &[TurnRecord],
        judges: bool,
    ) -> Self {
        let measures: Vec<Measure> = workloads.iter().flat_map(Workload::measures).collect();
        let mut reports = Vec::new();
        for (place, workload) in workloads.iter().enumerate() {
            for measure in workload.measures() {
                reports.extend(report(&measure, workload, place, &roster.contestants, records));
            }
        }
        let median = |measure: &str, id: &str| -> Option<f64> {
            let report = reports.iter().find(|report| report.name == measure)?;
            let figure = report.figures.iter().find(|figure| figure.contestant == id)?;
            Some(figure.measurement.median)
        };
        let bars = if judges {
            judge(BARS, &measures, median)
        } else {
            Vec::new()
        };
        Self {
            schema_version: PEER_SCHEMA_VERSION,
            system,
            settings: RaceSettings {
                model: model.to_owned(),
                workloads: workloads.iter().map(Workload::name).collect(),
                turns: options.turns,
                steps: options.steps,
                rank: options.rank,
            },
            interrupted: false,
            contestants: contestants(roster, workloads, records),
            measures: reports,
            work: compare_work(&roster.contestants, workloads, records),
            bars,
        }
    }

    /// The comparison in short.
    pub fn summary(&self) -> PeerComparison {
        let is_other = |contestant: &ContestantReport| !contestant.id.starts_with(OURS);
        let others = self.contestants.iter().filter(|contestant| is_other(contestant));
        if others.clone().all(|contestant| contestant.status == Status::Skipped) {
            let reasons: Vec<String> = others
                .filter_map(|contestant| {
                    let absence = contestant.absence.as_ref()?;
                    let reason = absence.reason.lines().next()?;
                    Some(format!("{}: {reason}", contestant.title))
                })
                .collect();
            return PeerComparison::Skipped {
                reason: reasons.join("; "),
            };
        }
        let figures = self.measures.iter().flat_map(|measure| {
            measure.figures.iter().map(|figure| PeerFigure {
                measure: measure.name.clone(),
                unit: measure.unit,
                contestant: figure.contestant.clone(),
                median: figure.measurement.median,
                advantage: figure.advantage,
            })
        });
        PeerComparison::Measured {
            figures: figures.collect(),
            same_work: !self.has_other_work(),
            bars_held: self.bars_that_are(Verdict::Held),
            bars_missed: self.bars_that_are(Verdict::Missed),
            bars_not_measured: self.bars_that_are(Verdict::NotMeasured),
        }
    }

    /// Whether somebody did other work than this program.
    pub fn has_other_work(&self) -> bool {
        self.work.iter().any(|check| check.same == Some(false))
    }

    /// Whether somebody could not do its work.
    pub fn has_failures(&self) -> bool {
        self.contestants
            .iter()
            .any(|contestant| contestant.status == Status::Failed)
    }

    /// The bars with this verdict.
    pub fn bars_that_are(&self, verdict: Verdict) -> usize {
        self.bars.iter().filter(|bar| bar.verdict == verdict).count()
    }
}

fn contestants(roster: &Roster, workloads: &[Workload], records: &[TurnRecord]) -> Vec<ContestantReport> {
    let took_part = roster.contestants.iter().map(|contestant| {
        let own: Vec<&TurnRecord> = records
            .iter()
            .filter(|record| record.contestant == contestant.id)
            .collect();
        let failures: Vec<String> = own
            .iter()
            .filter_map(|record| {
                let error = record.outcome.as_ref().err()?;
                Some(format!("{}: {error}", workloads[record.workload].name()))
            })
            .collect();
        let (status, absence) = if !failures.is_empty() {
            let absence = Absence {
                reason: failures.join("\n"),
                hint: None,
            };
            (Status::Failed, Some(absence))
        } else if own.is_empty() {
            let absence = Absence {
                reason: "no turn was taken".to_owned(),
                hint: None,
            };
            (Status::Skipped, Some(absence))
        } else {
            (Status::Measured, None)
        };
        ContestantReport {
            id: contestant.id.clone(),
            title: contestant.title.clone(),
            status,
            absence,
            standing: Some(Standing {
                versions: contestant.versions.clone(),
                dtype: contestant.dtype.clone(),
                device: contestant.device.clone(),
                threads: contestant.threads,
                exact: contestant.exact,
            }),
        }
    });
    let absent = roster.absent.iter().map(|absent| ContestantReport {
        id: absent.id.clone(),
        title: absent.title.clone(),
        status: Status::Skipped,
        absence: Some(Absence {
            reason: absent.reason.clone(),
            hint: absent.hint.clone(),
        }),
        standing: None,
    });
    took_part.chain(absent).collect()
}

/// One measure of everybody; `None` where nobody has it.
fn report(
    measure: &Measure,
    workload: &Workload,
    place: usize,
    contestants: &[Contestant],
    records: &[TurnRecord],
) -> Option<MeasureReport> {
    let measurements: Vec<(String, Measurement)> = contestants
        .iter()
        .filter_map(|contestant| {
            let turns = records
                .iter()
                .filter(|record| record.workload == place && record.contestant == contestant.id)
                .filter_map(|record| record.outcome.as_ref().ok());
            let samples = Samples::new(turns.flat_map(|turned| samples(measure, workload, turned)).collect());
            let note = format!("of {}", contestant.title);
            let measurement = Measurement::new(measure.name(), measure.unit(), samples, note)?;
            Some((contestant.id.clone(), measurement))
        })
        .collect();
    let ours = measurements
        .iter()
        .find(|(id, _)| id == OURS)
        .map(|(_, measurement)| measurement.median);
    let figures: Vec<Figure> = measurements
        .into_iter()
        .map(|(contestant, measurement)| Figure {
            advantage: ours.map(|ours| advantage(measure.unit(), ours, measurement.median)),
            contestant,
            measurement,
        })
        .collect();
    (!figures.is_empty()).then(|| MeasureReport {
        name: measure.name(),
        title: measure.title(),
        unit: measure.unit(),
        figures,
    })
}

/// What one turn gives to a measure.
fn samples(measure: &Measure, workload: &Workload, turned: &Turned) -> Vec<f64> {
    let decoded = |wanted: usize| match workload {
        Workload::Generation { at_once, .. } => at_once
            .iter()
            .zip(&turned.decoded)
            .find(|(count, _)| **count == wanted)
            .map(|(_, decoded)| decoded),
        Workload::Loading | Workload::Training(_) => None,
    };
    match measure {
        Measure::Loading => vec![turned.loading],
        Measure::Training(_) => turned
            .trained
            .iter()
            .flat_map(|trained| {
                // The first step also compiles and fills caches; one that is slow enough to be alone hardly notices.
                let seconds = match trained.seconds.as_slice() {
                    [_, later @ ..] if !later.is_empty() => later,
                    all => all,
                };
                seconds.iter().map(|seconds| trained.tokens as f64 / seconds)
            })
            .collect(),
        Measure::Prefill(tokens) => {
            let prefilled = turned.prefilled.iter();
            prefilled.map(|prefilled| *tokens as f64 / prefilled.seconds).collect()
        }
        Measure::Decoding(count) => decoded(*count)
            .map(|decoded| {
                let tokens: usize = decoded.tokens.iter().map(|answer| answer.len() - 1).sum();
                tokens as f64 / (decoded.seconds - decoded.to_first)
            })
            .into_iter()
            .collect(),
        Measure::Answering(count) => decoded(*count)
            .map(|decoded| decoded.tokens.iter().map(Vec::len).sum::<usize>() as f64 / decoded.seconds)
            .into_iter()
            .collect(),
        Measure::Memory(_) => turned.memory.iter().map(|memory| memory.resident as f64).collect(),
        Measure::FrameworkMemory(_) => {
            let counted = turned.memory.iter().filter_map(|memory| memory.framework);
            counted.map(|bytes| bytes as f64).collect()
        }
    }
}
