use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::answers::answer_pairs;
use super::costs::Costs;
use super::indicator::indicators;
use super::phase::phases;
use super::signal::signals;
use super::verdict::incomplete_because;
use super::{AnswerPair, Curves, Indicator, PhaseReport, RankTable, Signal, Swap, UpdateMap, Verdict};
use crate::evidence::{Evidence, RunEnvironment, RunSettings, Slot};
use crate::regression::Comparison;
use crate::rules::wording::counted;
use crate::rules::{Cause, Check, Diagnosis, Fix, Outcome, Phase, Severity, diagnose};

/// Version of the report format; raised whenever a field is added, renamed or changes meaning.
pub const REPORT_SCHEMA_VERSION: u32 = 4;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    /// The fault is not there.
    Passed,
    /// The fault is there.
    Found,
    /// The check could not be made.
    NotApplicable,
}

/// One rule's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportedCheck {
    /// The rule's name.
    pub name: &'static str,
    /// The rule's code.
    pub code: &'static str,
    /// How it ended.
    pub outcome: CheckOutcome,
    /// Why it could not be made; `None` when it was.
    pub reason: Option<String>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportedFinding {
    /// The rule's name.
    pub name: &'static str,
    /// The rule's code.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The phase whose measurements show it.
    pub phase: Phase,
    /// Whether nothing else that was found explains it.
    pub root: bool,
    /// Name of the root cause that explains it; `None` for a root.
    pub explained_by: Option<&'static str>,
    /// Stands alone.
    pub headline: String,
    /// What was measured.
    pub found: String,
    /// What a healthy run shows.
    pub expected: String,
    /// The tensors, rows, steps or prompts concerned.
    #[serde(rename = "where")]
    pub location: Option<String>,
    /// Whether the fault was there before training.
    pub predates_training: bool,
    /// The measurements behind it.
    pub evidence: Map<String, Value>,
    /// Ways to remove the fault, the likeliest first.
    pub fixes: Vec<Fix>,
}

/// Everything a run has to say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// [`REPORT_SCHEMA_VERSION`] of the program that wrote it.
    pub schema_version: u32,
    /// The run in one word.
    pub verdict: Verdict,
    /// The verdict in one line.
    pub headline: String,
    /// Why the run ended before its last phase; `None` when it did not.
    pub interrupted: Option<String>,
    /// The five phases in order.
    pub phases: Vec<PhaseReport>,
    /// The block of indicators.
    pub indicators: Vec<Indicator>,
    /// Roots first, the worst first; then what they explain.
    pub findings: Vec<ReportedFinding>,
    /// Measurements that no healthy run shows.
    pub signals: Vec<Signal>,
    /// Every rule's answer, in causal order.
    pub checks: Vec<ReportedCheck>,
    /// The processes that trained together; `None` where one trained alone.
    pub ranks: Option<RankTable>,
    /// The answers to every prompt.
    pub answers: Vec<AnswerPair>,
    /// The user's trainer and generator in the place of the reference's; `None` when neither was given.
    pub swap: Option<Swap>,
    /// The machine and the libraries the run used.
    pub environment: RunEnvironment,
    /// What the run was asked to do.
    pub settings: RunSettings,
    /// Rows of each step: the batch size, or all rows where there are fewer.
    pub rows_per_step: usize,
    /// What training showed step by step, for pictures; `None` without a step. The numbers are in the phases' figures.
    #[serde(skip)]
    pub curves: Option<Curves>,
    /// The size of every update, for a picture; `None` when it was not measured. The numbers are in the evidence.
    #[serde(skip)]
    pub update_map: Option<UpdateMap>,
    /// What the probes cost.
    pub costs: Costs,
    /// This run against a stored one; `None` when no baseline was given.
    pub regression: Option<Comparison>,
    /// Files that were written.
    pub outputs: Vec<PathBuf>,
}

impl Report {
    /// Judges the evidence; `outputs` are the files that hold or will hold the results.
    pub fn new(evidence: &Evidence, outputs: Vec<PathBuf>) -> Self {
        let diagnosis = diagnose(evidence);
        let signals = signals(evidence, &diagnosis);
        let incomplete = incomplete_because(evidence, &diagnosis);
        let verdict = Verdict::of(incomplete.as_deref(), &diagnosis, &signals);
        let phases = phases(evidence);
        let swap = Swap::of(evidence);
        let headline = headline(verdict, incomplete, &diagnosis, &signals, &extent(evidence));
        let side = swap.as_ref().and_then(Swap::headline);
        Self {
            schema_version: REPORT_SCHEMA_VERSION,
            verdict,
            headline: side.map_or_else(|| headline.clone(), |side| format!("{headline}; {side}")),
            interrupted: evidence.interrupted.clone(),
            costs: Costs::new(&evidence.costs, &phases),
            phases,
            indicators: indicators(evidence),
            findings: diagnosis.causes.iter().map(reported_finding).collect(),
            signals,
            checks: diagnosis.checks.iter().map(reported_check).collect(),
            ranks: RankTable::of(evidence),
            answers: answer_pairs(evidence),
            swap,
            environment: evidence.environment.clone(),
            settings: evidence.settings.clone(),
            rows_per_step: rows_per_step(evidence),
            curves: Curves::of(evidence),
            update_map: UpdateMap::of(evidence),
            regression: None,
            outputs,
        }
    }

    /// With the comparison with a stored run; what moved is said in the headline too.
    #[must_use]
    pub fn against(mut self, comparison: Comparison) -> Self {
        let moved = comparison.moved.len();
        if moved > 0 {
            self.headline = format!(
                "{}; {} moved since the baseline",
                self.headline,
                counted(moved, "value")
            );
        }
        self.regression = Some(comparison);
        self
    }

    /// Errors and warnings that nothing else explains, in order.
    pub fn roots(&self) -> impl Iterator<Item = &ReportedFinding> {
        self.findings
            .iter()
            .filter(|finding| finding.root && finding.severity > Severity::Info)
    }

    /// Findings that are worth knowing and never held against a run, in order; those that an error or a warning
    /// explains are left to it.
    pub fn notes(&self) -> impl Iterator<Item = &ReportedFinding> {
        self.findings.iter().filter(|finding| {
            let explained = self.roots().any(|root| finding.explained_by == Some(root.name));
            finding.severity == Severity::Info && !explained
        })
    }

    /// Findings that the root of this name explains, in order.
    pub fn explained_by<'a>(&'a self, root: &'a str) -> impl Iterator<Item = &'a ReportedFinding> {
        self.findings
            .iter()
            .filter(move |finding| finding.explained_by == Some(root))
    }

    /// Number of checks that ended this way.
    pub fn count(&self, outcome: CheckOutcome) -> usize {
        self.checks.iter().filter(|check| check.outcome == outcome).count()
    }
}

/// How far a healthy run went, where it left something out.
fn extent(evidence: &Evidence) -> String {
    if evidence.settings.check_only {
        return "; nothing was trained (`--check-only`)".to_owned();
    }
    if evidence.settings.is_log_alone() {
        return "; only the log was judged".to_owned();
    }
    match (&evidence.model, &evidence.generation) {
        (Slot::Ran(model), Slot::Ran(_)) if model.is_foreign() => format!(
            "; this program has no `{}`: Python mlx-lm answered, and the state phase was skipped",
            model.architecture
        ),
        (Slot::Ran(model), _) if model.is_foreign() => {
            format!("; this program has no `{}`: no answer was measured", model.architecture)
        }
        _ => String::new(),
    }
}

fn headline(
    verdict: Verdict,
    incomplete: Option<String>,
    diagnosis: &Diagnosis,
    signals: &[Signal],
    extent: &str,
) -> String {
    let roots: Vec<&str> = diagnosis
        .causes
        .iter()
        .filter(|cause| cause.is_root() && cause.severity > Severity::Info)
        .map(|cause| cause.rule.name)
        .collect();
    match verdict {
        Verdict::Healthy => {
            let passed = diagnosis
                .checks
                .iter()
                .filter(|check| check.outcome == Outcome::Pass)
                .count();
            let notes = match diagnosis.causes.len() {
                0 => String::new(),
                notes => format!(", {}", counted(notes, "note")),
            };
            format!("{} passed{notes}{extent}", counted(passed, "check"))
        }
        Verdict::Findings => format!("{}: {}", counted(roots.len(), "root cause"), roots.join(", ")),
        Verdict::Abnormal => {
            let unknown: Vec<&str> = signals
                .iter()
                .filter(|signal| signal.explained_by.is_none())
                .map(|signal| signal.text.as_str())
                .collect();
            format!("cause unknown: {}", unknown.join("; "))
        }
        Verdict::Incomplete => {
            let found = (!roots.is_empty()).then(|| format!("found so far: {}", roots.join(", ")));
            incomplete.into_iter().chain(found).collect::<Vec<_>>().join("; ")
        }
    }
}

fn rows_per_step(evidence: &Evidence) -> usize {
    let asked = evidence.settings.batch_size;
    evidence.data.ran().map_or(asked, |data| asked.min(data.rows))
}

fn reported_finding(cause: &Cause) -> ReportedFinding {
    let finding = cause.finding.clone();
    ReportedFinding {
        name: cause.rule.name,
        code: cause.rule.code,
        severity: cause.severity,
        phase: cause.rule.phase,
        root: cause.is_root(),
        explained_by: cause.explained_by,
        headline: finding.headline,
        found: finding.found,
        expected: finding.expected,
        location: finding.location,
        predates_training: finding.predates_training,
        evidence: finding.evidence,
        fixes: finding.fixes,
    }
}

fn reported_check(check: &Check) -> ReportedCheck {
    let (outcome, reason) = match &check.outcome {
        Outcome::Pass => (CheckOutcome::Passed, None),
        Outcome::Found(_) => (CheckOutcome::Found, None),
        Outcome::NotApplicable(reason) => (CheckOutcome::NotApplicable, Some(reason.clone())),
    };
    ReportedCheck {
        name: check.rule.name,
        code: check.rule.code,
        outcome,
        reason,
    }
}
