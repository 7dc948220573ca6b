use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::catalogue::Catalogue;
use super::expected::Expectation;
use super::harm::{Harm, Measured, harm};
use super::interval::Rate;
use super::judgement::{Alarm, CRASHED, HEALTHY, UNKNOWN, alarm, cause, is_among_roots, is_found, is_named};
use super::monitors::MONITORS;
use super::plan::{Extent, Purpose};
use super::record::{Ending, Record, Trialled};
use super::times::Times;
use crate::faults::Operator;

/// Version of the format; raised whenever a field is added, renamed or changes meaning.
pub const SELFTEST_SCHEMA_VERSION: u32 = 1;

/// Everything a self-test found out.
///
/// But for [`Summary::times`], the seed and the options decide every byte of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// `SELFTEST_SCHEMA_VERSION` of the program that wrote it.
    pub schema_version: u32,
    /// The program and its version.
    pub program: String,
    /// The command that repeats it.
    pub command: String,
    /// Runs that were planned.
    pub planned: usize,
    /// Runs that were made; fewer when the user stopped the self-test.
    pub done: usize,
    /// Faults found and named, over all operators at their reference severities and cells.
    pub faults: FaultTotals,
    /// Alarms on healthy runs.
    pub healthy: HealthyTotals,
    /// This program and the monitors on the same runs.
    pub methods: Vec<Method>,
    /// Fixes.
    pub cures: CureTotals,
    /// Pairs of faults.
    pub pairs: PairTotals,
    /// Each operator, in the order of the catalogue.
    pub operators: Vec<OperatorSummary>,
    /// Each control, in the order of the catalogue.
    pub controls: Vec<ControlSummary>,
    /// Faults and healthy runs against what was said of them.
    pub matrix: Matrix,
    /// Runs that were missed, misnamed or falsely accused.
    pub wrong: Vec<WrongRun>,
    /// Faults that cannot be done yet, with the seam that is missing.
    pub not_built: Vec<MissingSeam>,
    /// All that differs between two equal self-tests.
    pub times: Times,
}

/// Faults found and named.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultTotals {
    /// Operators with at least one run.
    pub operators: usize,
    /// Operators found in every cell.
    pub operators_always_found: usize,
    /// Runs in which something was said: sensitivity.
    pub found: Rate,
    /// Runs in which the first cause is the right one.
    pub named: Rate,
    /// The first, over operators whose harm was shown; no case when harm was not measured.
    pub found_of_harmful: Rate,
    /// The second, over the same.
    pub named_of_harmful: Rate,
}

/// Alarms on healthy runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HealthyTotals {
    /// Runs with an error, an unknown cause, a refusal or a failure.
    pub errors: Rate,
    /// Runs with warnings alone.
    pub warnings: Rate,
    /// Runs of mutants that are benign by design with any alarm.
    pub benign_mutants_alarmed: Rate,
}

/// One way to watch a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// Where it is described; `None` for this program.
    pub source: Option<&'static str>,
    /// Fault runs that it alarms on.
    pub found: Rate,
    /// Fault runs whose cause it names; `None` for one that names none.
    pub named: Option<Rate>,
    /// Healthy runs that it alarms on.
    pub alarmed: Rate,
    /// Runs of both kinds that it could not judge; they count as not alarmed.
    pub not_judged: usize,
}

/// Fixes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CureTotals {
    /// Fault runs whose worst finding has a mechanical fix: those that were healthy once it was applied.
    pub by_fix: Rate,
    /// The other fault runs that were found: those that were healthy once the fault was taken out of code or files.
    pub by_repair: Rate,
    /// Runs that stayed unhealthy with their fix.
    pub failed: Vec<FailedCure>,
}

/// A run that its fix did not cure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailedCure {
    /// The run.
    pub run: String,
    /// The rule whose fix was applied.
    pub rule: &'static str,
    /// How the run with the fix ended.
    pub ending: &'static str,
    /// What is left.
    pub roots: Vec<&'static str>,
}

/// Pairs of faults.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairTotals {
    /// Pairs of which both are roots.
    pub both: Rate,
    /// Pairs of which one is a root.
    pub one: Rate,
    /// Pairs of which none is a root.
    pub none: Rate,
}

/// One operator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperatorSummary {
    /// Its name.
    pub name: &'static str,
    /// Its family.
    pub family: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// A real case.
    pub citation: &'static str,
    /// Rules that name it; empty for a mutant that is benign by design.
    pub expected: Vec<&'static str>,
    /// Found at its reference severity.
    pub found: Rate,
    /// Named at its reference severity.
    pub named: Rate,
    /// The causes that were named, with how often.
    pub causes: BTreeMap<&'static str, usize>,
    /// Each severity that was tried, mild to strong.
    pub curve: Vec<SeverityPoint>,
    /// The smallest severity found in every cell of its own and of all stronger ones; `None` when the reference was not.
    pub smallest_found: Option<f64>,
    /// The harm that longer runs show.
    pub harm: HarmShown,
}

/// One severity of an operator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SeverityPoint {
    /// The severity.
    pub severity: f64,
    /// Runs in which it was found.
    pub found: Rate,
    /// Runs in which it was named.
    pub named: Rate,
}

/// Whether a fault does harm.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HarmShown {
    /// No longer runs were made.
    NotMeasured,
    /// Longer runs show none: the operator is kept, as a benign mutant.
    NotShown,
    /// They show it.
    Shown(Harm),
}

/// One control.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ControlSummary {
    /// Its name.
    pub name: &'static str,
    /// What is odd about it.
    pub summary: &'static str,
    /// Runs with an error, an unknown cause, a refusal or a failure.
    pub errors: Rate,
    /// Runs with warnings alone.
    pub warnings: Rate,
    /// What it was accused of, with how often.
    pub accused_of: BTreeMap<&'static str, usize>,
}

/// Counts of what was said, by what was so.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Matrix {
    /// Operators at their reference severities, then `healthy`.
    pub rows: Vec<&'static str>,
    /// Rules that were named, in the order of the operators that expect them, then `healthy`, `unknown` and `crashed`.
    pub columns: Vec<&'static str>,
    /// `counts[row][column]`.
    pub counts: Vec<Vec<usize>>,
    /// For each row the columns that are right.
    pub right: Vec<Vec<usize>>,
}

/// A run that was missed, misnamed or falsely accused.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WrongRun {
    /// The run.
    pub run: String,
    /// How it ended.
    pub ending: &'static str,
    /// Every root cause with its severity.
    pub roots: Vec<String>,
    /// What was said where there is no verdict.
    pub error: Option<String>,
}

/// A fault that cannot be done yet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MissingSeam {
    /// Its name.
    pub name: &'static str,
    /// The seam that is missing.
    pub missing: &'static str,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// How much.
    pub extent: Extent,
    /// The seed.
    pub seed: u64,
    /// Names of the only operators and controls wanted; empty for all.
    pub only: Vec<String>,
    /// Runs that were planned.
    pub planned: usize,
}

impl Asked {
    fn command(&self) -> String {
        let only = match self.only.as_slice() {
            [] => String::new(),
            names => format!(" --only {}", names.join(",")),
        };
        format!("diagnose selftest --{} --seed {}{only}", self.extent.name(), self.seed)
    }
}

/// A fault run with what is expected of it.
struct FaultRun<'run> {
    operator: &'static Operator,
    expectation: &'static Expectation,
    severity: f64,
    run: &'run Trialled,
}

impl FaultRun<'_> {
    fn record(&self) -> &Record {
        &self.run.record
    }

    fn is_reference(&self) -> bool {
        self.severity == self.operator.reference()
    }

    fn is_benign(&self) -> bool {
        self.expectation.names.is_empty()
    }

    fn found(&self) -> bool {
        is_found(self.record(), self.expectation)
    }

    fn named(&self) -> bool {
        is_named(self.record(), self.expectation)
    }
}

impl Summary {
    /// Sums up the runs.
    pub fn new(catalogue: &Catalogue, asked: &Asked, runs: &[Trialled], times: Times) -> Self {
        let faults = fault_runs(catalogue, runs);
        let references: Vec<&FaultRun> = faults
            .iter()
            .filter(|fault| fault.is_reference() && !fault.is_benign())
            .collect();
        let healthy: Vec<&Trialled> = runs
            .iter()
            .filter(|run| matches!(run.trial.purpose, Purpose::Control(_)))
            .collect();
        let operators: Vec<OperatorSummary> = catalogue
            .all()
            .filter_map(|operator| summarise_operator(operator, &faults, runs))
            .collect();
        Self {
            schema_version: SELFTEST_SCHEMA_VERSION,
            program: format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
            command: asked.command(),
            planned: asked.planned,
            done: runs.len(),
            faults: fault_totals(&references, &operators),
            healthy: HealthyTotals {
                errors: Rate::among(&healthy, |run| alarm(&run.record) == Alarm::Error),
                warnings: Rate::among(&healthy, |run| alarm(&run.record) == Alarm::Warning),
                benign_mutants_alarmed: benign_mutants_alarmed(&faults),
            },
            methods: methods(&references, &healthy),
            cures: cures(&references, runs),
            pairs: pairs(catalogue, runs),
            controls: controls(catalogue, &healthy),
            matrix: matrix(&references, &healthy, &operators),
            wrong: wrong(catalogue, runs),
            not_built: catalogue
                .not_built
                .iter()
                .map(|fault| MissingSeam {
                    name: fault.name,
                    missing: fault.missing,
                })
                .collect(),
            operators,
            times,
        }
    }

    /// Whether every run was made.
    pub fn is_complete(&self) -> bool {
        self.done == self.planned
    }

    /// Whether every fault was found at its reference severity and nothing worse than a warning said of a healthy run.
    pub fn is_satisfactory(&self) -> bool {
        let crashed = |run: &WrongRun| {
            [Ending::Crashed, Ending::NotMade]
                .iter()
                .any(|ending| ending.name() == run.ending)
        };
        self.faults.found.count == self.faults.found.of
            && self.healthy.errors.count == 0
            && !self.wrong.iter().any(crashed)
    }
}

fn fault_runs<'run>(catalogue: &Catalogue, runs: &'run [Trialled]) -> Vec<FaultRun<'run>> {
    runs.iter()
        .filter_map(|run| match run.trial.purpose {
            Purpose::Fault { operator, severity } => Some(FaultRun {
                operator,
                expectation: catalogue.expectation(operator)?,
                severity,
                run,
            }),
            Purpose::Control(_) | Purpose::Pair { .. } | Purpose::Harm(_) => None,
        })
        .collect()
}

fn fault_totals(references: &[&FaultRun], operators: &[OperatorSummary]) -> FaultTotals {
    let harmful: BTreeSet<&str> = operators
        .iter()
        .filter(|operator| matches!(operator.harm, HarmShown::Shown(_)))
        .map(|operator| operator.name)
        .collect();
    let of_harmful: Vec<&&FaultRun> = references
        .iter()
        .filter(|fault| harmful.contains(fault.operator.name))
        .collect();
    let tried: Vec<&OperatorSummary> = operators
        .iter()
        .filter(|operator| operator.found.of > 0 && !operator.expected.is_empty())
        .collect();
    FaultTotals {
        operators: tried.len(),
        operators_always_found: tried
            .iter()
            .filter(|operator| operator.found.count == operator.found.of)
            .count(),
        found: Rate::among(references, |fault| fault.found()),
        named: Rate::among(references, |fault| fault.named()),
        found_of_harmful: Rate::among(&of_harmful, |fault| fault.found()),
        named_of_harmful: Rate::among(&of_harmful, |fault| fault.named()),
    }
}

fn benign_mutants_alarmed(faults: &[FaultRun]) -> Rate {
    let benign: Vec<&FaultRun> = faults.iter().filter(|fault| fault.is_benign()).collect();
    Rate::among(&benign, |fault| alarm(fault.record()) != Alarm::None)
}

fn methods(references: &[&FaultRun], healthy: &[&Trialled]) -> Vec<Method> {
    let own = Method {
        name: "diagnose".to_owned(),
        source: None,
        found: Rate::among(references, |fault| fault.found()),
        named: Some(Rate::among(references, |fault| fault.named())),
        alarmed: Rate::among(healthy, |run| alarm(&run.record) != Alarm::None),
        not_judged: 0,
    };
    let monitors = MONITORS.iter().enumerate().map(|(index, monitor)| {
        let says = |record: &Record| record.monitors.get(index).copied().flatten();
        let faulty = references.iter().map(|fault| fault.record());
        let records = faulty.chain(healthy.iter().map(|run| &run.record));
        Method {
            name: monitor.name.to_owned(),
            source: Some(monitor.source),
            found: Rate::among(references, |fault| says(fault.record()) == Some(true)),
            named: None,
            alarmed: Rate::among(healthy, |run| says(&run.record) == Some(true)),
            not_judged: records.filter(|record| says(record).is_none()).count(),
        }
    });
    std::iter::once(own).chain(monitors).collect()
}

fn cures(references: &[&FaultRun], runs: &[Trialled]) -> CureTotals {
    let found: Vec<&&FaultRun> = references.iter().filter(|fault| fault.found()).collect();
    let with_fix: Vec<_> = found.iter().filter(|fault| fault.record().cure.is_some()).collect();
    let cured = |fault: &FaultRun| {
        let cure = fault.record().cure.as_ref();
        cure.is_some_and(|cure| cure.ending == Ending::Healthy)
    };
    let repaired: Vec<bool> = found
        .iter()
        .filter(|fault| fault.record().cure.is_none())
        .filter_map(|fault| without_fault(fault.run, runs))
        .map(|run| run.record.ending == Ending::Healthy)
        .collect();
    CureTotals {
        by_fix: Rate::among(&with_fix, |fault| cured(fault)),
        by_repair: Rate::among(&repaired, |healthy| *healthy),
        failed: with_fix
            .iter()
            .filter(|fault| !cured(fault))
            .filter_map(|fault| {
                let cure = fault.record().cure.as_ref()?;
                Some(FailedCure {
                    run: fault.run.trial.name(),
                    rule: cure.rule,
                    ending: cure.ending.name(),
                    roots: cure.roots.iter().map(|root| root.name).collect(),
                })
            })
            .collect(),
    }
}

/// The same run without its fault: the control that changes nothing in the same cell.
fn without_fault<'run>(faulty: &Trialled, runs: &'run [Trialled]) -> Option<&'run Trialled> {
    runs.iter().find(|run| {
        let plain = matches!(run.trial.purpose, Purpose::Control(control)
            if control.name == "ordinary" || control.name == "full-fine-tuning");
        plain
            && run.trial.cell == faulty.trial.cell
            && run.trial.is_full_fine_tuning() == faulty.trial.is_full_fine_tuning()
    })
}

fn pairs(catalogue: &Catalogue, runs: &[Trialled]) -> PairTotals {
    let named: Vec<usize> = runs
        .iter()
        .filter_map(|run| match run.trial.purpose {
            Purpose::Pair { first, on_inputs } => Some(
                [first, on_inputs]
                    .iter()
                    .filter_map(|operator| catalogue.expectation(operator))
                    .filter(|expectation| is_among_roots(&run.record, expectation))
                    .count(),
            ),
            _ => None,
        })
        .collect();
    PairTotals {
        both: Rate::among(&named, |named| *named == 2),
        one: Rate::among(&named, |named| *named == 1),
        none: Rate::among(&named, |named| *named == 0),
    }
}

fn summarise_operator(operator: &'static Operator, faults: &[FaultRun], runs: &[Trialled]) -> Option<OperatorSummary> {
    let own: Vec<&FaultRun> = faults
        .iter()
        .filter(|fault| fault.operator.name == operator.name)
        .collect();
    let expectation = own.first()?.expectation;
    let references: Vec<&&FaultRun> = own.iter().filter(|fault| fault.is_reference()).collect();
    let curve: Vec<SeverityPoint> = operator
        .severities
        .iter()
        .filter_map(|&severity| {
            let at: Vec<&&FaultRun> = own.iter().filter(|fault| fault.severity == severity).collect();
            (!at.is_empty()).then(|| SeverityPoint {
                severity,
                found: Rate::among(&at, |fault| fault.found()),
                named: Rate::among(&at, |fault| fault.named()),
            })
        })
        .collect();
    let mut causes = BTreeMap::new();
    for fault in &references {
        *causes.entry(cause(fault.record(), Some(expectation))).or_insert(0) += 1;
    }
    Some(OperatorSummary {
        name: operator.name,
        family: operator.family.name(),
        summary: operator.summary,
        citation: operator.citation,
        expected: expectation.names.to_vec(),
        found: Rate::among(&references, |fault| fault.found()),
        named: Rate::among(&references, |fault| fault.named()),
        causes,
        smallest_found: smallest_found(&curve),
        curve,
        harm: harm_shown(operator, runs),
    })
}

fn smallest_found(curve: &[SeverityPoint]) -> Option<f64> {
    curve
        .iter()
        .rev()
        .take_while(|point| point.found.count == point.found.of)
        .last()
        .map(|point| point.severity)
}

fn harm_shown(operator: &Operator, runs: &[Trialled]) -> HarmShown {
    let pairs: Vec<(Measured, Measured)> = runs
        .iter()
        .filter(|run| matches!(run.trial.purpose, Purpose::Harm(Some(with)) if with.name == operator.name))
        .filter_map(|with| {
            let without = runs.iter().find(|run| {
                matches!(run.trial.purpose, Purpose::Harm(None))
                    && run.trial.cell == with.trial.cell
                    && run.trial.is_full_fine_tuning() == with.trial.is_full_fine_tuning()
            })?;
            Some((with.record.measured, without.record.measured))
        })
        .collect();
    if pairs.is_empty() {
        return HarmShown::NotMeasured;
    }
    harm(&pairs).map_or(HarmShown::NotShown, HarmShown::Shown)
}

fn controls(catalogue: &Catalogue, healthy: &[&Trialled]) -> Vec<ControlSummary> {
    let of_control = |name: &str| -> Vec<&Trialled> {
        healthy
            .iter()
            .copied()
            .filter(|run| matches!(run.trial.purpose, Purpose::Control(control) if control.name == name))
            .collect()
    };
    catalogue
        .controls
        .iter()
        .map(|control| (control, of_control(control.name)))
        .filter(|(_, runs)| !runs.is_empty())
        .map(|(control, runs)| {
            let mut accused_of = BTreeMap::new();
            for run in &runs {
                for root in run.record.held() {
                    *accused_of.entry(root.name).or_insert(0) += 1;
                }
                if run.record.held().next().is_none() && run.record.ending != Ending::Healthy {
                    *accused_of.entry(cause(&run.record, None)).or_insert(0) += 1;
                }
            }
            ControlSummary {
                name: control.name,
                summary: control.summary,
                errors: Rate::among(&runs, |run| alarm(&run.record) == Alarm::Error),
                warnings: Rate::among(&runs, |run| alarm(&run.record) == Alarm::Warning),
                accused_of,
            }
        })
        .collect()
}

fn matrix(references: &[&FaultRun], healthy: &[&Trialled], operators: &[OperatorSummary]) -> Matrix {
    let faulty: Vec<&OperatorSummary> = operators
        .iter()
        .filter(|operator| operator.found.of > 0 && !operator.expected.is_empty())
        .collect();
    let said: Vec<(&'static str, &'static str)> = references
        .iter()
        .map(|fault| (fault.operator.name, cause(fault.record(), Some(fault.expectation))))
        .chain(healthy.iter().map(|run| (HEALTHY, cause(&run.record, None))))
        .collect();
    let last = [HEALTHY, UNKNOWN, CRASHED];
    let named: BTreeSet<&'static str> = said.iter().map(|(_, cause)| *cause).collect();
    let mut columns: Vec<&'static str> = Vec::new();
    let primary = faulty.iter().filter_map(|operator| operator.expected.first().copied());
    // Behind the expected rules those that were named beside them.
    for name in primary.chain(named.iter().copied()) {
        if !columns.contains(&name) && !last.contains(&name) {
            columns.push(name);
        }
    }
    columns.extend(last);
    let rows: Vec<&'static str> = faulty.iter().map(|operator| operator.name).chain([HEALTHY]).collect();
    let position = |name: &str| columns.iter().position(|column| *column == name);
    Matrix {
        counts: rows
            .iter()
            .map(|row| {
                columns
                    .iter()
                    .map(|column| said.iter().filter(|(was, said)| was == row && said == column).count())
                    .collect()
            })
            .collect(),
        right: faulty
            .iter()
            .map(|operator| operator.expected.iter().filter_map(|name| position(name)).collect())
            .chain([position(HEALTHY).into_iter().collect()])
            .collect(),
        rows,
        columns,
    }
}

fn wrong(catalogue: &Catalogue, runs: &[Trialled]) -> Vec<WrongRun> {
    runs.iter()
        .filter(|run| super::judgement::is_wrong(catalogue, run))
        .map(|run| WrongRun {
            run: run.trial.name(),
            ending: run.record.ending.name(),
            roots: run
                .record
                .roots
                .iter()
                .map(|root| format!("{} ({})", root.name, root.severity.name()))
                .collect(),
            error: run.record.error.clone(),
        })
        .collect()
}
